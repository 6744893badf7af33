"""The benchmark's client, its judgement of answers, its sums and its malformed requests."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import malformed, soak
from benchmarks.client import Answer, Connection, Exchange, Traffic, post, traffic
from benchmarks.loop import Shape
from benchmarks.packs import pack_file
from benchmarks.peers import facegraph, insightface_server, peer
from benchmarks.peers.contender import Contender, multipart, ports_of
from benchmarks.pictures import KINDS, Picture, kinds
from benchmarks.processes import Group, Memory
from benchmarks.report import Measured, picture_table, verdicts
from benchmarks.turns import Rounds, Turn, judged
from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.images import decode
from facegraph.models.packfile import FacePackSpec, read_pack_file

pytestmark = pytest.mark.unit

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each request of a connection with the next of ``answers``, then hangs up."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            seen.append(await reader.readexactly(length))
            writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


async def test_a_connection_asks_again_and_again() -> None:
    chunked = (
        b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    async with server(OK, chunked, OK) as (port, seen):
        connection = await Connection.open(port)
        answers = [await connection.ask(post("/", bytes([n]), "image/png")) for n in range(3)]
        connection.close()
    assert answers == [Answer(200, b"hi"), Answer(404, b"abcde"), Answer(200, b"hi")]
    assert seen == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed by the server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed by the server"),
        (b"no such protocol\r\n\r\n", "no HTTP"),
    ],
    ids=["nothing", "half an answer", "other than HTTP"],
)
async def test_a_lost_connection_says_so(answer: bytes, message: str) -> None:
    async with server(answer) as (port, _):
        connection = await Connection.open(port)
        with pytest.raises(ConnectionError, match=message):
            await connection.ask(post("/", b"", "image/png"))
        assert not connection.usable
        connection.close()


async def test_a_server_may_end_a_connection_with_its_answer() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with server(last) as (port, _):
        connection = await Connection.open(port)
        assert await connection.ask(post("/", b"", "image/png")) == Answer(200, b"")
        assert not connection.usable
        connection.close()


async def test_traffic_goes_on_over_new_connections() -> None:
    """The server hangs up after each second answer; the client's loss is counted once each."""
    async with server(OK, b"") as (port, seen):
        found = await traffic((port,), [post("/", b"a", "image/png")], 2, 0.2, warm_s=0)
    answers = {each.answer for each in found.exchanges}
    assert answers == {Answer(200, b"hi"), Answer(0, b"closed by the server")}
    assert set(seen) == {b"a"}


async def test_traffic_counts_what_ended_within_the_turn() -> None:
    async with server(*[OK] * 100_000) as (port, seen):
        found = await traffic((port,), [post("/", b"a", "image/png")], 3, 0.1, warm_s=0)
    assert 0 < len(found.exchanges) < len(seen)
    ends = [each.ended for each in found.exchanges]
    assert max(ends) - min(ends) <= found.seconds


PICTURE = Picture("p", (Path("a.png"), Path("b.png")), (frozenset({"ann"}), frozenset()), 1)
KNOWN = b'{"faces": [{"decision": "match", "matches": [{"subject_id": "ann"}]}]}'
NOBODY = b'{"faces": [{"decision": "unknown", "matches": []}]}'
MATCHED = b'{"matches": [{"person": {"id": "ann"}}, {"person": {"id": "bob"}}]}'


@pytest.mark.parametrize(
    ("found", "place", "status", "body", "fault"),
    [
        (facegraph.found, 0, 200, KNOWN, None),
        (facegraph.found, 1, 200, NOBODY, None),
        (facegraph.found, 0, 200, NOBODY, "[] in a.png, not ['ann']"),
        (facegraph.found, 1, 200, KNOWN, "['ann'] in b.png, not []"),
        (facegraph.found, 0, 200, b'{"faces": []}', "0 faces in a.png"),
        (facegraph.found, 0, 200, b"{}", "unreadable: KeyError('faces')"),
        (facegraph.found, 0, 503, b"busy", "503 b'busy'"),
        (insightface_server.found, 0, 200, MATCHED, None),
        (insightface_server.found, 1, 200, MATCHED, "['ann'] in b.png, not []"),
        (insightface_server.found, 0, 200, b'{"matches": []}', "[] in a.png, not ['ann']"),
    ],
    ids=[
        "known", "a stranger", "missed", "mistaken for somebody", "no face", "no JSON of ours",
        "refused", "its best match", "a stranger mistaken", "nobody matched",
    ],
)  # fmt: skip
def test_every_answer_is_judged(
    found: Callable[..., object], place: int, status: int, body: bytes, fault: str | None
) -> None:
    contender = Contender("c", (1,), Group(), facegraph.request, found)  # type: ignore[arg-type]
    assert contender.wrong(PICTURE, place, Answer(status, body)) == fault


def test_who_looks_at_one_face_of_a_group_is_right_with_any_of_them() -> None:
    group = Picture("g", (Path("g.jpg"),), (frozenset({"ann", "bob"}),), 2)
    server = Contender("c", (1,), Group(), facegraph.request, insightface_server.found)
    ours = Contender("c", (1,), Group(), facegraph.request, facegraph.found)
    assert server.wrong(group, 0, Answer(200, MATCHED)) is None
    assert ours.wrong(group, 0, Answer(200, KNOWN)) == "1 faces in g.jpg"


def test_only_right_answers_count() -> None:
    exchanges = [
        Exchange(0, 1.0, 0.2, Answer(200, b"")),
        Exchange(0, 1.1, 0.4, Answer(200, b"")),
        Exchange(0, 1.2, 0.1, Answer(500, b"oh")),
    ]
    seen = Traffic(tuple(exchanges), 2.0, 0.03, 0.6)
    turn = judged(seen, lambda place, answer: None if answer.status == 200 else "bad")
    assert turn == Turn((0.2, 0.4), 2.0, 0.6, 0.03, ("bad",))
    assert turn.rate == 1.0
    assert turn.each_ms(turn.cpu_s) == pytest.approx(200)


def turn(rate: int, each_s: float, cpu_s: float = 1.0) -> Turn:
    return Turn((each_s,) * rate, 1.0, cpu_s)


def test_rounds_show_medians_and_the_percentiles_of_all() -> None:
    rounds = Rounds()
    for rate, base in ((10, 10), (30, 10), (20, 40)):
        rounds.add(turn(rate, rate / 100), turn(base, 1))
    assert rounds.rate == 20
    assert rounds.of_loop == [1.0, 3.0, 0.5]
    assert rounds.percentile_ms(50) == pytest.approx(
        np.percentile([100] * 10 + [200] * 20 + [300] * 30, 50)
    )
    assert math.isnan(Rounds().percentile_ms(50))
    rounds.add(turn(0, 0), turn(0, 0))
    assert math.isnan(rounds.of_loop[-1])


def test_the_last_table_holds_us_to_the_loop_and_the_best_peer() -> None:
    measured = Measured(PICTURE, {}, {})
    base = turn(40, 0.02, 2.0)
    measured.of_the_loop(Shape(2, 1)).add(base, base)
    measured.of_the_loop(Shape(1, 2)).add(turn(30, 0.01, 3.0), base)
    for name, clients, rate in (
        ("Facegraph, best engine", 1, 50),
        ("Facegraph, best engine", 4, 80),
        ("slow peer", 4, 20),
        ("quick peer", 1, 25),
    ):
        measured.of(name, clients).add(turn(rate, 0.012, 2.0), base)
    row = verdicts([measured]).splitlines()[-1]
    assert row == "| p | Facegraph, best engine | 2.00 | 1.20 | 3.20 | 0.500 |"


def test_a_table_names_what_was_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(3000))
    measured = Measured(Picture("p", (tmp_path / "a.png",), (frozenset(),)), {}, {})
    measured.of("peer", 4).add(Turn((0.1,), 1.0, 0.5, 0.001, ("2 faces",)), turn(2, 1))
    lines = picture_table(measured).splitlines()
    assert lines[4] == "| peer | 4 | 1.00 | 100 | 100 | 0.500 | 250 | 0.500 | 1 |"
    assert lines[6:] == ["a.png (3 kB)", "", "peer: 2 faces"]


@pytest.mark.parametrize("case", malformed.cases(), ids=lambda case: case.name)
def test_malformed_requests_are_whole_requests(case: malformed.Case) -> None:
    head, _, body = case.request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "name",
    [
        "PNG, broken chunk", "JPEG, cut at 30 %", "PNG of 1 × 5000, cut", "text as JPEG",
        "PNG that claims 20,000 × 20,000",
    ],
)  # fmt: skip
def test_malformed_pictures_are_none(name: str) -> None:
    (case,) = [case for case in malformed.cases() if case.name == name]
    with pytest.raises((InvalidImage, ImageTooLarge)):
        decode(case.request.partition(b"\r\n\r\n")[2], max_pixels=50_000_000)


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (422, b'{"code": "invalid_image"}', None),
        (422, b"oh no", "x: no code in b'oh no'"),
        (200, b"{}", "x: 200 b'{}'"),
        (500, b'{"code": "internal"}', 'x: 500 b\'{"code": "internal"}\''),
    ],
    ids=["refused with a code", "without one", "taken for good", "the server's own error"],
)
def test_a_malformed_request_must_get_a_code(status: int, body: bytes, fault: str | None) -> None:
    assert malformed.fault(malformed.Case("x", b""), status, body) == fault


async def test_each_malformed_request_is_followed_by_a_good_one() -> None:
    refused = b'HTTP/1.1 422 No\r\nContent-Length: 13\r\n\r\n{"code": "c"}'
    count = len(malformed.cases())
    async with server(refused, OK) as (port, _):
        spoilt = await malformed.spoil(port, count, 0)
    assert spoilt.faults == []
    assert {name for name, _, _ in spoilt.got} == {case.name for case in malformed.cases()}
    assert sum(times for (_, status, _), times in spoilt.got.items() if status == 422) == count - 1


def reading(minute: float, pss: float, rate: float = 10.0) -> soak.Reading:
    return soak.Reading(minute, Memory(pss, pss, 3), rate, 1)


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ([reading(n, 1000 + n / 2) for n in range(11)], "+0.50 ± 0.00 MiB a minute, +0.4% in all"),
        ([reading(n, 1000 + 5 * n) for n in range(11)], "not flat"),
        ([reading(n, 1000, 10 - n / 2) for n in range(11)], "not flat"),
        ([reading(0, 500), reading(1, 900), *[reading(n, 1000) for n in range(2, 11)]], ": flat"),
        ([reading(n, 1000 + 90 * (n % 2) + 2 * n) for n in range(11)], ": flat"),
        ([reading(n, 1000 + 90 * (n % 2) + 5 * n) for n in range(11)], "not flat"),
        ([reading(10, 1000)], "too short to tell"),
    ],
    ids=[
        "a little",
        "it leaks",
        "it gets slower",
        "warming does not count",
        "noise",
        "it leaks under noise",
        "too short",
    ],
)
def test_flat_is_told_by_a_rule(readings: list[soak.Reading], said: str) -> None:
    assert said in soak.verdict(readings, 10)


def test_a_group_is_stopped_and_goes_on() -> None:
    group = Group()
    command = [sys.executable, "-c", "input()"]
    environment = group.environment(os.environ)
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        child = psutil.Process(process.pid)
        assert group.members() == [child]
        group.freeze()
        # The kernel tells a parent when its child has stopped and when it goes on.
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        group.thaw()
        assert os.WIFCONTINUED(os.waitpid(process.pid, os.WCONTINUED)[1])
        assert group.memory().processes == 1
        process.send_signal(signal.SIGKILL)
    assert group.members() == []


def test_every_kind_of_picture_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEGRAPH_TEST_ASSETS", raising=False)
    made = kinds(tmp_path, KINDS)
    assert [picture.name for picture in made] == list(KINDS)
    assert all(len(picture.people) == len(picture.paths) for picture in made)
    sizes = {
        picture.name: decode(picture.paths[0].read_bytes(), max_pixels=50_000_000).shape
        for picture in made
    }
    assert sizes["12mp-six"] == sizes["12mp-one"] == (3000, 4000, 3)
    assert sizes["six-png"] == sizes["six-jpeg"] == (886, 1280, 3)


def test_the_pack_file_is_one(tmp_path: Path) -> None:
    pack = read_pack_file(pack_file(tmp_path, tmp_path))
    assert isinstance(pack, FacePackSpec)
    assert (pack.name, pack.embedder.dimension) == ("edgeface_xs", 512)


def test_a_child_of_a_group_belongs_to_it_whatever_its_environment() -> None:
    group = Group()
    ready = "print(flush=True); input()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ready!r}], env={{}})"
    command = [sys.executable, "-c", start]
    pipe = subprocess.PIPE
    environment = group.environment(os.environ)
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        assert [each.ppid() for each in group.members()] == [os.getpid(), process.pid]
        process.stdin.close()
    assert group.members() == []


def test_a_form_has_its_fields_and_its_file() -> None:
    body, content_type = multipart({"limit": "5"}, "image", b"\xff\xd8", "image/jpeg")
    boundary = content_type.partition("boundary=")[2].encode()
    parts = body.split(b"--" + boundary)
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:3]] == [b"5\r\n", b"\xff\xd8\r\n"]
    assert parts[3] == b"--\r\n"


def test_peers_are_given_by_name_and_place(tmp_path: Path) -> None:
    assert ports_of("http://127.0.0.1:81,http://127.0.0.1:82/") == (81, 82)
    with pytest.raises(SystemExit, match="name=where"), peer("nobody=/tmp", tmp_path):
        pass
