"""Connections that hang and are never closed: what waits on them goes on over others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from facegraph.errors import StoreUnavailable
from facegraph.store import Store, connecting, link, silence
from facegraph.store import store as stores
from facegraph.store.connecting import BlockingConnection, connect_blocking
from tests.store.making import CONTRACT, sample
from tests.store.replicas import Wire

BOUND_S = 60
SAMPLES = 1000


@pytest.fixture
async def wire(database_url: str, short_tmp: Path) -> AsyncIterator[Wire]:
    async with Wire(database_url, short_tmp / "silence") as wire:
        yield wire


@pytest.fixture
async def behind(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store behind the wire, with little patience."""
    monkeypatch.setattr(connecting, "READ_PATIENCE_S", 0.5)
    monkeypatch.setattr(link, "WRITE_PATIENCE_S", 0.5)
    monkeypatch.setattr(stores, "LOAD_PATIENCE_S", 0.5)
    async with Store.open(wire.url) as store:
        await store.ensure_default(CONTRACT)
        yield store


async def test_reads_go_on_over_another_connection(wire: Wire, behind: Store) -> None:
    version = (await behind.head("default")).version
    wire.strand()
    async with asyncio.timeout(BOUND_S):
        assert (await behind.head("default")).version == version
    wire.strand()
    async with asyncio.timeout(BOUND_S):
        assert (await behind.get_collection("default")).version == version


@pytest.mark.parametrize(
    ("size", "stage"),
    [(0, "nothing comes"), (450, "its session is set up"), (600, "its schema is looked at")],
)
async def test_a_connection_that_hangs_while_it_is_made(
    wire: Wire, behind: Store, size: int, stage: str
) -> None:
    """In place of lost ones; given up where ``stage``, it does not keep the next from trying."""
    version = (await behind.head("default")).version
    wire.strand_after(size)
    wire.cut()
    async with asyncio.timeout(BOUND_S):
        with suppress(StoreUnavailable):
            await behind.head("default")
        assert (await behind.head("default")).version == version


async def test_a_write_that_was_not_committed_is_made_once(wire: Wire, behind: Store) -> None:
    await behind.create_subject("default", "a", contract=CONTRACT, samples=[sample(1)])
    wire.strand()
    async with asyncio.timeout(BOUND_S):
        await behind.create_subject("default", "b", contract=CONTRACT, samples=[sample(2)])
    collection = await behind.get_collection("default")
    assert (collection.subject_count, collection.sample_count) == (2, 2)


async def test_a_load_begins_anew(wire: Wire, behind: Store) -> None:
    many = [sample(n) for n in range(SAMPLES)]
    await behind.create_subject("default", "a", contract=CONTRACT, samples=many)
    wire.strand_after(20_000)
    async with asyncio.timeout(BOUND_S):
        records = await behind.load("default")
    assert len(records.sample_ids) == SAMPLES


def test_who_watches_is_gone_before_the_connection_is(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket's number may be another's next: whoever is about to end it is waited for."""
    ending, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def end(connection: BlockingConnection) -> None:
        ending.set()
        assert may_end.wait(BOUND_S)
        ended.append(connection.closed)

    monkeypatch.setattr(silence, "_end", end)
    with connect_blocking(server_url) as connection:
        with silence.watched(connection, 0.0):
            assert ending.wait(BOUND_S)
            threading.Timer(0.1, may_end.set).start()
        assert ended == [False]
