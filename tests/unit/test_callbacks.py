"""Notifications: what a receiver gets, and what becomes of those that nobody takes."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from aiohttp.test_utils import TestServer

from facegraph import __version__, outside
from facegraph.config import JobsTuning
from facegraph.errors import InvalidRequest, StoreUnavailable
from facegraph.recognizers import callbacks
from facegraph.recognizers.callbacks import Notifier, check_secret, new_secret, pause_s, signature
from facegraph.store.records import DueNotification, Recognizer

pytestmark = pytest.mark.unit

KEY = b"0123456789abcdef01234567"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_800_000_000.0
READY = Recognizer(
    id="r1",
    name="Café",
    state="ready",
    progress=1.0,
    message="",
    options={},
    contract_id="c",
    collection_id=None,
    labels=("eileen",),
    label_count=1,
    course=None,
    outcome={},
    problem=None,
    model_bytes=1,
    model_sha256="0",
    notification=None,
    created_at=dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
    finished_at=dt.datetime(2026, 1, 2, 3, 5, tzinfo=dt.UTC),
)


class FakeNotifications:
    """Notifications in memory; ``ended`` has how each was put down.

    away: so many calls find no database
    """

    def __init__(self) -> None:
        self.due: deque[DueNotification] = deque()
        self.taken: dict[str, DueNotification] = {}
        self.ended: list[tuple[object, ...]] = []
        self.away = 0
        self._one_ended = asyncio.Semaphore(0)

    def put(self, url: str, recognizer: Recognizer = READY, waiting_s: float = 0.0) -> None:
        one = DueNotification(recognizer.id, url, SECRET, 1, waiting_s, recognizer)
        self.due.append(one)

    def leases_run_out(self) -> None:
        self.due.extend(replace(one, attempts=one.attempts + 1) for one in self.taken.values())
        self.taken.clear()

    async def endings(self, number: int) -> None:
        """Waits until so many more have ended."""
        async with asyncio.timeout(30):
            for _ in range(number):
                await self._one_ended.acquire()

    async def take_notification(self, lease_s: float) -> DueNotification | None:
        self._answer()
        if not self.due:
            return None
        one = self.due.popleft()
        self.taken[one.recognizer_id] = one
        return one

    async def notified(self, recognizer_id: str) -> None:
        self._answer()
        del self.taken[recognizer_id]
        self._end(recognizer_id)

    async def not_notified(
        self, recognizer_id: str, problem: str, again_after_s: float | None
    ) -> None:
        self._answer()
        one = self.taken.pop(recognizer_id)
        self._end(recognizer_id, problem, again_after_s)
        if again_after_s is not None:
            waiting_s = one.waiting_s + again_after_s
            self.due.append(replace(one, attempts=one.attempts + 1, waiting_s=waiting_s))

    def _end(self, *how: object) -> None:
        self.ended.append(how)
        self._one_ended.release()

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("fake: away for a moment")


class Receiver:
    """A client's server: takes a notification as its owner would, and answers as told.

    accepted: the bodies of those whose signature is right
    statuses: of the next answers; 200 when there are no more
    """

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.accepted: list[dict[str, Any]] = []
        self.statuses: deque[int] = deque()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.url = ""
        self._arrived = asyncio.Semaphore(0)

    async def hook(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(request)
        self._arrived.release()
        if signed_right(request, body):
            self.accepted.append(json.loads(body))
        await self.go_on.wait()
        status = self.statuses.popleft() if self.statuses else 200
        return web.Response(status=status, text="private words", headers={"location": "/other"})

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async def arrivals(self, number: int) -> None:
        """Waits until so many more have come."""
        async with asyncio.timeout(30):
            for _ in range(number):
                await self._arrived.acquire()


def signed_right(request: web.Request, body: bytes) -> bool:
    """As the docs tell a receiver to do it."""
    message_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    if abs(int(timestamp) - NOW) > 300:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    wanted = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(request.headers["webhook-signature"], f"v1,{wanted}")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    told = Receiver()
    app = web.Application()
    app.router.add_post("/hook", told.hook)
    app.router.add_route("*", "/other", told.hook)
    app.router.add_post("/endless", told.endless)
    async with TestServer(app, host="127.0.0.1") as server:
        told.url = str(server.make_url("/hook"))
        yield told
        told.go_on.set()


@pytest.fixture
def shelf() -> FakeNotifications:
    return FakeNotifications()


@pytest.fixture
async def make(shelf: FakeNotifications) -> AsyncIterator[Callable[..., Notifier]]:
    made = []

    def maker(*, private: bool = True, clock: Callable[[], float] = lambda: NOW) -> Notifier:
        tuning = JobsTuning(poll_interval_s=0.001, callback_give_up_s=20)
        made.append(Notifier(shelf, lambda: tuning, private, clock))
        return made[-1]

    yield maker
    for notifier in made:
        await notifier.close()


async def test_a_receiver_is_told_and_can_tell_who_told_it(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    ended_elsewhere = dt.datetime(2026, 1, 2, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    failed = replace(READY, id="r2", state="failed", name=None, finished_at=ended_elsewhere)
    shelf.put(receiver.url)
    shelf.put(receiver.url, failed)
    notifier = make()
    assert [await notifier.step() for _ in range(3)] == [True, True, False]
    ended_at = "2026-01-02T03:05:00+00:00"
    assert receiver.accepted == [
        {
            "type": "recognizer.ready",
            "timestamp": ended_at,
            "data": {"id": "r1", "state": "ready", "name": "Café"},
        },
        {
            "type": "recognizer.failed",
            "timestamp": ended_at,
            "data": {"id": "r2", "state": "failed", "name": None},
        },
    ]
    headers = receiver.requests[0].headers
    assert headers["webhook-id"] == "msg_r1"
    assert headers["webhook-timestamp"] == "1800000000"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == f"facegraph/{__version__}"
    assert shelf.ended == [("r1",), ("r2",)]


async def test_it_is_told_again_under_the_same_id_at_a_new_time(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    times = iter([NOW, NOW + 5])
    notifier = make(clock=lambda: next(times))
    receiver.statuses.append(500)
    shelf.put(receiver.url)
    assert await notifier.step()
    assert await notifier.step()
    assert shelf.ended == [("r1", "it answered 500", 5.0), ("r1",)]
    first, second = (request.headers for request in receiver.requests)
    assert first["webhook-id"] == second["webhook-id"] == "msg_r1"
    assert [first["webhook-timestamp"], second["webhook-timestamp"]] == ["1800000000", "1800000005"]
    assert first["webhook-signature"] != second["webhook-signature"]
    assert len(receiver.accepted) == 2
    assert receiver.accepted[0] == receiver.accepted[1]


async def test_it_is_given_up_after_its_time_and_the_log_keeps_the_secrets(
    shelf: FakeNotifications,
    receiver: Receiver,
    make: Callable[..., Notifier],
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.statuses.extend([503] * 9)
    shelf.put(receiver.url + "?token=hidden")
    notifier = make()
    with caplog.at_level(logging.DEBUG, "facegraph"):
        assert [await notifier.step() for _ in range(5)] == [True] * 4 + [False]
    assert shelf.ended == [("r1", "it answered 503", pause) for pause in (5.0, 5.0, 10.0, None)]
    (line,) = caplog.messages
    origin = receiver.url.removesuffix("/hook")
    assert line == f"notification r1 to {origin} was given up at attempt 4: it answered 503"


@pytest.mark.parametrize(
    ("waiting_s", "pause"),
    [(0, 5), (7, 7), (3000, 3000), (3601, 3600), (82_800, 3600), (82_801, None), (1e9, None)],
)
def test_pauses_grow_within_bounds(waiting_s: float, pause: float | None) -> None:
    assert pause_s(waiting_s, give_up_s=86_400) == pause


@pytest.mark.parametrize(
    ("status", "again_after_s", "reason"),
    [
        (301, 5.0, "redirects are not followed"),
        (307, 5.0, "nor are those that keep the method"),
        (404, 5.0, "perhaps not there yet"),
        (410, None, "gone for good"),
        (429, 5.0, "too many"),
    ],
)
async def test_other_answers_than_yes(
    shelf: FakeNotifications,
    receiver: Receiver,
    make: Callable[..., Notifier],
    status: int,
    again_after_s: float | None,
    reason: str,
) -> None:
    receiver.statuses.append(status)
    shelf.put(receiver.url)
    assert await make().step()
    assert shelf.ended == [("r1", f"it answered {status}", again_after_s)], reason
    assert [request.path for request in receiver.requests] == ["/hook"]


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_answers_that_mean_yes(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier], status: int
) -> None:
    receiver.statuses.append(status)
    shelf.put(receiver.url)
    assert await make().step()
    assert shelf.ended == [("r1",)]


async def test_an_answer_without_end_is_not_read(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    shelf.put(receiver.url.replace("/hook", "/endless"))
    assert await make().step()
    assert shelf.ended == [("r1",)]


async def test_a_receiver_that_hangs_is_left(
    shelf: FakeNotifications,
    receiver: Receiver,
    make: Callable[..., Notifier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "TIMEOUT_S", 0.05)
    receiver.go_on.clear()
    shelf.put(receiver.url)
    assert await make().step()
    assert shelf.ended == [("r1", "there was no answer within 0.05 s", 5.0)]


@pytest.mark.parametrize(
    ("scheme", "reads_until", "answers", "problem"),
    [
        ("http", b"}}", b"", "the exchange broke off (ServerDisconnectedError)"),
        ("http", b"}}", b"nonsense\r\n\r\n", "the exchange broke off (ClientResponseError)"),
        ("https", b"\x16", b"nonsense\r\n\r\n", "there is no secure connection to it"),
    ],
)
async def test_a_receiver_that_speaks_otherwise(
    shelf: FakeNotifications,
    make: Callable[..., Notifier],
    scheme: str,
    reads_until: bytes,
    answers: bytes,
    problem: str,
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(reads_until)
        writer.write(answers)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        shelf.put(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert await make().step()
    assert shelf.ended == [("r1", problem, 5.0)]


async def test_a_receiver_that_is_not_there(
    shelf: FakeNotifications, make: Callable[..., Notifier]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    shelf.put(f"http://127.0.0.1:{port}/")
    assert await make().step()
    assert shelf.ended == [("r1", "there is no connection to it", 5.0)]


@pytest.mark.parametrize(
    ("host", "resolved"),
    [
        ("127.0.0.1", "8.8.8.8"),
        ("[::ffff:127.0.0.1]", "8.8.8.8"),
        ("localhost", "127.0.0.1"),
        ("rebound.example", "127.0.0.1"),
    ],
)
async def test_an_address_that_is_not_public_is_refused_without_a_connection(
    shelf: FakeNotifications,
    make: Callable[..., Notifier],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    resolved: str,
) -> None:
    connections = 0

    def look_up(name: str, port: int, family: int) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=name, host=resolved, port=port, family=family, proto=0, flags=0)
        ]

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    monkeypatch.setattr(outside, "look_up", look_up)
    async with await asyncio.start_server(count, "127.0.0.1", 0) as server:
        shelf.put(f"http://{host}:{server.sockets[0].getsockname()[1]}/")
        assert await make(private=False).step()
    problem = "the callback url leads to an address that is not public"
    assert shelf.ended == [("r1", problem, 5.0)]
    assert connections == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]"])
async def test_what_clouds_tell_their_machines_is_out_of_reach(
    shelf: FakeNotifications, make: Callable[..., Notifier], host: str
) -> None:
    shelf.put(f"http://{host}/latest/meta-data")
    assert await make(private=False).step()
    problem = "the callback url leads to an address that is not public"
    assert shelf.ended == [("r1", problem, 5.0)]


async def test_a_name_that_is_gone(
    shelf: FakeNotifications, make: Callable[..., Notifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(name: str, port: int, family: int) -> list[ResolveResult]:
        raise socket.gaierror(socket.EAI_NONAME, "fake")

    monkeypatch.setattr(outside, "look_up", look_up)
    shelf.put("http://gone.example/")
    assert await make().step()
    assert shelf.ended == [("r1", "its host is not known", 5.0)]


async def test_what_cannot_be_sent_is_no_reason_to_stop(
    shelf: FakeNotifications,
    receiver: Receiver,
    make: Callable[..., Notifier],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf.put(receiver.url, replace(READY, finished_at=None))
    assert await make().step()
    problem = "something went wrong here; the log has the recognizer's id"
    assert shelf.ended == [("r1", problem, 5.0)]
    assert caplog.messages == ["notification r1 could not be sent"]
    assert receiver.requests == []


async def test_four_at_a_time(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        shelf.put(receiver.url, replace(READY, id=name))
    receiver.go_on.clear()
    notifier = make()
    notifier.start()
    await receiver.arrivals(4)
    assert (notifier.describe(), len(shelf.due)) == ({"delivering": 4}, 2)
    receiver.go_on.set()
    await shelf.endings(6)
    assert sorted(shelf.ended) == [(name,) for name in names]
    notifier.check()


async def test_the_database_is_away_for_a_moment(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    shelf.away = 3
    shelf.put(receiver.url)
    notifier = make()
    notifier.start()
    await shelf.endings(1)
    assert (shelf.ended, shelf.away) == ([("r1",)], 0)
    notifier.check()


@pytest.mark.parametrize("status", [200, 500])
async def test_what_could_not_be_written_down_is_told_again(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier], status: int
) -> None:
    receiver.statuses.append(status)
    receiver.go_on.clear()
    shelf.put(receiver.url)
    notifier = make()
    delivering = asyncio.create_task(notifier.step())
    await receiver.arrivals(1)
    shelf.away = 1
    receiver.go_on.set()
    assert await delivering
    assert shelf.ended == []
    shelf.leases_run_out()
    assert await notifier.step()
    assert shelf.ended == [("r1",)]
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["msg_r1"] * 2


async def test_closing_leaves_a_delivery_to_another(
    shelf: FakeNotifications, receiver: Receiver, make: Callable[..., Notifier]
) -> None:
    receiver.go_on.clear()
    shelf.put(receiver.url)
    notifier = make()
    notifier.start()
    await receiver.arrivals(1)
    await notifier.close()
    assert (shelf.ended, notifier.describe()) == ([], {"delivering": 0})
    receiver.go_on.set()
    shelf.leases_run_out()
    assert await make().step()
    assert shelf.ended == [("r1",)]


async def test_a_notifier_that_stopped_is_noticed(
    shelf: FakeNotifications, make: Callable[..., Notifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(lease_s: float) -> None:
        raise ZeroDivisionError

    notifier = make()
    notifier.check()
    monkeypatch.setattr(shelf, "take_notification", broken)
    notifier.start()
    notifier.check()
    await asyncio.sleep(0)  # its first turn, and its last
    with pytest.raises(RuntimeError, match="has stopped"):
        notifier.check()


def test_the_signature_is_that_of_standard_webhooks() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_secrets_are_made_at_random() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    assert one.startswith("whsec_")
    assert len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) == 32
    check_secret(one)


@pytest.mark.parametrize(
    ("secret", "good", "reason"),
    [
        ("whsec_" + base64.b64encode(bytes(24)).decode(), True, "the shortest"),
        ("whsec_" + base64.b64encode(bytes(64)).decode(), True, "the longest"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), False, "too short"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), False, "too long"),
        ("whsec_" + "A" * 10**6, False, "much too long"),
        (base64.b64encode(bytes(24)).decode(), False, "no prefix"),
        ("whsec_", False, "nothing"),
        ("", False, "nothing at all"),
        ("whsec_" + "é" * 32, False, "not ASCII"),
        ("whsec_" + "!" * 32, False, "not base64"),
        ("whsec_" + "A" * 33, False, "padding is missing"),
    ],
)
def test_which_secrets_are_taken(secret: str, good: bool, reason: str) -> None:
    if good:
        check_secret(secret)
        return
    with pytest.raises(InvalidRequest) as told:
        check_secret(secret)
    wanted = "a callback secret is 'whsec_' and then 24 to 64 bytes in base64"
    assert told.value.detail == wanted, reason
