"""Builds followed by server-sent events, over a real socket: what is told, when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from facegraph.api import events
from facegraph.api.app import create_app
from facegraph.api.events import Event, EventStreams, Position, encoded, follow
from facegraph.errors import Overloaded, StoreUnavailable
from facegraph.service import Service
from tests.api.recognizer_making import PATH, asked, finish, ready, take
from tests.compat.conftest import served
from tests.fake_graph import image

pytestmark = pytest.mark.api


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL_S", 0.01)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with served(app) as client:
        yield client


class Told:
    """The events of an answer, one after the other."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._chunks = answer.aiter_text()
        self._text = ""

    async def block(self) -> str | None:
        """Up to the next empty line; None at the end."""
        while "\n\n" not in self._text:
            try:
                self._text += await anext(self._chunks)
            except StopAsyncIteration:
                assert not self._text
                return None
        block, _, self._text = self._text.partition("\n\n")
        return block

    async def event(self) -> tuple[str, str, Any] | None:
        """Name, id and data."""
        while (block := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in fields:
                return fields["event"], fields["id"], json.loads(fields["data"])
        return None


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, recognizer_id: str, **headers: str
) -> AsyncIterator[Told]:
    url = f"{PATH}/{recognizer_id}/events"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with asyncio.timeout(60), client.stream("GET", url, headers=named) as answer:
        assert answer.status_code == 200
        yield Told(answer)


async def test_a_build_from_queued_to_ready(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await asked(client)
    async with following(client, recognizer_id) as told:
        assert told.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert told.answer.headers["cache-control"] == "no-store"
        assert await told.block() == "retry: 2000"
        first = await told.event()
        assert first is not None
        assert (first[:2], first[2]["state"]) == (("progress", "1"), "queued")
        job = await take(service)
        second = await told.event()
        assert second is not None
        assert (second[:2], second[2]["state"]) == (("progress", "2"), "building")
        await service.store.recognizers.publish(job, {"generations": [1]})
        third = await told.event()
        assert third is not None
        assert (third[:2], third[2]["search"]) == (("progress", "3"), {"generations": [1]})
        await finish(service, job)
        last = await told.event()
        assert last is not None
        assert (last[:2], last[2]["labels"]) == (("ready", "4-end"), ["ada", "bob"])
        assert await told.block() is None
    now = (await client.get(f"{PATH}/{recognizer_id}")).json()
    assert last[2] == {name: value for name, value in now.items() if name != "request_id"}


async def test_one_that_fails(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await asked(client)
    job = await take(service)
    async with following(client, recognizer_id) as told:
        assert (await told.event() or ())[:1] == ("progress",)
        await service.store.jobs.fail(job, {"code": "invalid_training_set"})
        last = await told.event()
        assert last is not None
        assert (last[0], last[2]["problem"]) == ("failed", {"code": "invalid_training_set"})
        assert await told.event() is None


async def test_one_that_is_deleted(client: httpx.AsyncClient) -> None:
    recognizer_id = await asked(client)
    async with following(client, recognizer_id) as told:
        assert (await told.event() or ())[:1] == ("progress",)
        assert (await client.delete(f"{PATH}/{recognizer_id}")).status_code == 204
        assert await told.event() == ("deleted", "2-end", {"id": recognizer_id})
        assert await told.event() is None


async def test_who_comes_again(client: httpx.AsyncClient, service: Service) -> None:
    """It starts with what is so now; after the last event there is nothing more."""
    recognizer_id = await ready(client, service)
    async with following(client, recognizer_id, last_event_id="7") as told:
        last = await told.event()
        assert last is not None
        assert last[:2] == ("ready", "8-end")
        assert await told.event() is None
    again = await client.get(f"{PATH}/{recognizer_id}/events", headers={"last-event-id": last[1]})
    assert again.status_code == 204


async def test_streams_are_bounded(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(update={"max_event_streams": 1})
    recognizer_id = await asked(client)
    url = f"{PATH}/{recognizer_id}/events"
    async with following(client, recognizer_id) as told:
        await told.event()
        full = await client.get(url)
        assert (full.status_code, full.json()["code"]) == (503, "overloaded")
        assert "facegraph_event_streams 1.0" in (await client.get("/metrics")).text
    await until(client, "facegraph_event_streams 0.0")  # the client went away
    async with following(client, recognizer_id) as told:
        assert (await told.event() or ())[:1] == ("progress",)


async def until(client: httpx.AsyncClient, line: str) -> None:
    async with asyncio.timeout(30):
        while line not in (await client.get("/metrics")).text:
            pass


async def test_streams_take_no_place_and_outlive_requests(
    client: httpx.AsyncClient, service: Service
) -> None:
    recognizer_id = await asked(client)
    service.tuning = service.tuning.model_copy(
        update={"max_concurrent_requests": 1, "request_timeout_s": 1.0}
    )
    async with following(client, recognizer_id) as told:
        await told.event()
        service.tuning = service.tuning.model_copy(update={"request_timeout_s": 30.0})
        assert (await client.post("/v1/detect", **image(1))).status_code == 200
        assert "facegraph_http_requests_in_flight 1.0" in (await client.get("/metrics")).text
        await asyncio.sleep(1.1)  # longer than its request might take
        await take(service)
        assert (await told.event() or ())[:2] == ("progress", "2")


async def test_a_moment_without_the_database(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: str) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.05)
    recognizer_id = await asked(client)
    async with following(client, recognizer_id) as told:
        await told.event()
        with monkeypatch.context() as patch:
            patch.setattr(service.store.recognizers, "get", away)
            while await told.block() != ": the database does not answer":
                pass
        await take(service)
        assert (await told.event() or ())[:2] == ("progress", "2")
        assert await told.block() == ":"  # the connection is kept alive


async def test_it_ends_with_the_app(service: Service) -> None:
    app = create_app(service)
    async with app.router.lifespan_context(app), served(app) as client:
        recognizer_id = await asked(client)
        async with following(client, recognizer_id) as told:
            await told.event()
            app.state.facegraph.streams.close()
            assert await told.event() is None


async def test_the_lifespan_closes_the_streams(app: Starlette) -> None:
    async with app.router.lifespan_context(app):
        assert not await app.state.facegraph.streams.closing_within(0)
    assert await app.state.facegraph.streams.closing_within(60)


async def test_it_does_not_last_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> Event:
        return Event("progress", {})

    monkeypatch.setattr(events, "LASTS_S", 0.05)
    told = [chunk async for chunk in follow(look, await look(), EventStreams(), 0)]
    assert told == [b"retry: 2000\n\n" + encoded(await look(), 1)]


@pytest.mark.parametrize(
    ("header", "position"),
    [
        (None, Position()),
        ("", Position()),
        ("12", Position(12)),
        ("12-end", Position(12, ended=True)),
        ("-1", Position()),
        ("1e9", Position()),
        ("9" * 16, Position()),
        ("12\n", Position()),
    ],
)
def test_what_a_client_saw_last(header: str | None, position: Position) -> None:
    assert Position.read(header) == position


def test_an_event_is_a_block_of_lines() -> None:
    text = encoded(Event("ready", {"label": "a\nb é"}, last=True), 3)
    assert text == 'event: ready\nid: 3-end\ndata: {"label": "a\\nb é"}\n\n'.encode()


def test_places_are_given_back() -> None:
    streams = EventStreams()
    with streams.admit(1), pytest.raises(Overloaded), streams.admit(1):
        pass
    with streams.admit(1):
        pass
