"""Many processes write to one collection: versions have no holes and every change is read."""

from __future__ import annotations

import asyncio

import pytest

from facegraph.store import Store
from tests.store.making import CONTRACT
from tests.store.mirror import Mirror
from tests.store.workers import count_strangers, replace_often, side_by_side, write_many

pytestmark = pytest.mark.store

WRITERS, WRITES = 8, 40


async def test_versions_are_dense_and_in_the_order_of_commits(store: Store, store_url: str) -> None:
    mirror = Mirror(await store.load("default"))
    writing = asyncio.create_task(
        asyncio.to_thread(
            side_by_side, write_many, [(store_url, writer, WRITES) for writer in range(WRITERS)]
        )
    )
    seen: list[tuple[int, str, str]] = []
    while True:
        finished = writing.done()
        head = await store.head("default")
        found = await store.changes(
            "default",
            since=mirror.head.version,
            incarnation=head.incarnation,
            stamp=mirror.head.stamp,
            limit=7,
        )
        assert found is not None
        mirror.apply(found[1])
        mirror.head = found[0]
        seen += [
            (change.version, change.subject_id, change.sample_id)
            for change in found[1]
            if change.sample_id is not None
        ]
        if finished and mirror.head.version == head.version:
            break
    written = sorted(entry for done in await writing for entry in done)
    assert [version for version, *_ in written] == list(range(1, WRITERS * WRITES + 1))
    assert seen == written  # read while they were written, none missed, none twice, in order
    assert mirror.state() == Mirror(await store.load("default")).state()
    found_now = await store.get_collection("default")
    assert (found_now.subject_count, found_now.sample_count) == (WRITERS * WRITES,) * 2


def test_no_stranger_has_another_ones_number(store: Store, store_url: str) -> None:
    numbers = side_by_side(count_strangers, [(store_url, 25)] * 4)
    assert sorted(n for some in numbers for n in some) == list(range(1, 101))


async def test_who_is_replaced_by_many_is_whole_at_every_version(
    store: Store, store_url: str
) -> None:
    """Exactly one writer's samples, under that writer's name, whenever anybody looks."""
    writers, rounds = 4, 20
    await store.create_subject("default", "s", contract=CONTRACT)
    mirror = Mirror(await store.load("default"))
    writing = asyncio.create_task(
        asyncio.to_thread(
            side_by_side, replace_often, [(store_url, writer, rounds) for writer in range(writers)]
        )
    )
    while True:
        finished = writing.done()
        found = await store.changes(
            "default",
            since=mirror.head.version,
            incarnation=mirror.head.incarnation,
            stamp=mirror.head.stamp,
        )
        assert found is not None
        mirror.apply(found[1])
        mirror.head = found[0]
        if mirror.head.version > 1:
            name, _ = mirror.subjects["s"]
            assert sorted(mirror.samples) == [f"{name}-{i}" for i in range(3)]
        if finished:
            break
    versions = sorted(version for made in await writing for version in made)
    assert versions == list(range(2, writers * rounds + 2))
    assert mirror.head.version == versions[-1]
    assert mirror.state() == Mirror(await store.load("default")).state()
    found_now = await store.get_collection("default")
    assert (found_now.subject_count, found_now.sample_count) == (1, 3)
