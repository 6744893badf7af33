"""Two replicas: apps with stores and matchers of their own over one database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from facegraph.api.app import create_app
from facegraph.config import IngressTuning, MatcherTuning, Settings
from facegraph.matcher import Matcher
from facegraph.models.packs import find_pack
from facegraph.service import Service
from facegraph.store import open_store
from tests.compat.test_smartav import recognise, sample, update
from tests.fake_graph import FakeGraph


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that shares nothing with others but the database; it never polls."""
    pack = find_pack(settings)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        records = await stack.enter_async_context(open_store(settings))
        await store.ensure_default(pack.contract)
        matcher = Matcher(records, MatcherTuning(poll_interval_s=60))
        stack.push_async_callback(matcher.close)
        await matcher.start()
        graph = FakeGraph(matcher, pack.contract.dimension)
        app = create_app(Service(graph, store, settings, IngressTuning(), pack))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        yield await stack.enter_async_context(client)


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with replica(settings) as one, replica(settings) as two:
        yield [one, two]


def unknown(*numbers: int) -> list[str]:
    return [f"unknown_person_{number}" for number in numbers]


async def test_ten_strangers_at_once_on_two_replicas(replicas: list[httpx.AsyncClient]) -> None:
    rows = await asyncio.gather(*(recognise(replicas[n % 2], 100 + n) for n in range(10)))
    named = {100 + n: row[0]["id"] for n, row in enumerate(rows)}
    assert sorted(named.values()) == sorted(unknown(*range(1, 11)))
    again = await asyncio.gather(*(recognise(replicas[n % 2], n) for n in named))
    assert {n: row[0]["id"] for n, row in zip(named, again, strict=True)} == named
    again = await asyncio.gather(*(recognise(replicas[1 - n % 2], n) for n in named))
    assert {n: row[0]["id"] for n, row in zip(named, again, strict=True)} == named


async def test_one_stranger_ten_times_on_two_replicas(replicas: list[httpx.AsyncClient]) -> None:
    rows = await asyncio.gather(*(recognise(replicas[n % 2], 7) for n in range(10)))
    assert [row[0]["id"] for row in rows] == unknown(1) * 10
    found = (await replicas[0].get("/v1/collections/default")).json()
    assert (found["subject_count"], found["sample_count"]) == (1, 1)


async def test_groups_that_share_strangers(replicas: list[httpx.AsyncClient]) -> None:
    """Five pictures of two on each replica, each person in two of them: ten people, ten names."""
    pictures = [(100 + n, 100 + (n + 1) % 10) for n in range(10)]
    rows = await asyncio.gather(
        *(recognise(replicas[n % 2], *people) for n, people in enumerate(pictures))
    )
    named: dict[int, set[str]] = {}
    for people, row in zip(pictures, rows, strict=True):
        for person, face in zip(people, row, strict=True):
            named.setdefault(person, set()).add(face["id"])
    assert all(len(names) == 1 for names in named.values())
    assert sorted(name for names in named.values() for name in names) == sorted(
        unknown(*range(1, 11))
    )


async def test_strangers_while_others_enrol(replicas: list[httpx.AsyncClient]) -> None:
    """Who enrols meanwhile may cost a number, never give two people one name or one two."""
    one, two = replicas
    enrolled = [update(two, sample(f"s{n}", 200 + n)) for n in range(10)]
    strangers = [recognise((one, two)[n % 2], 100 + n % 5) for n in range(10)]
    rows = (await asyncio.gather(*strangers, *enrolled))[:10]
    names = [row[0]["id"] for row in rows]
    assert names[:5] == names[5:]
    assert set(Counter(names).values()) == {2}
    numbers = [int(name.removeprefix("unknown_person_")) for name in set(names)]
    assert min(numbers) >= 1
    assert (await one.get("/v1/collections/default")).json()["subject_count"] == 15


async def test_a_hand_made_name_is_passed_over(replicas: list[httpx.AsyncClient]) -> None:
    one, two = replicas
    await update(one, sample("unknown_person_1", 1), sample("unknown_person_2", 2))
    assert [row["id"] for row in await recognise(two, 9, 1)] == [
        "unknown_person_3",
        "unknown_person_1",
    ]
