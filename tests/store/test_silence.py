"""Connections that hang and are never closed: what waits on them goes on over others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facegraph.store import Store, link
from facegraph.store import store as stores
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
    monkeypatch.setattr(link, "READ_PATIENCE_S", 0.5)
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
