"""Shards: every subject is in exactly one, and each is followed as the whole is."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegraph.errors import Conflict, NotFound
from facegraph.store import Store
from facegraph.types import WHOLE, Shard
from tests.store.making import CONTRACT, sample
from tests.store.mirror import Mirror
from tests.store.test_changelog import STEPS, take

pytestmark = pytest.mark.store

NAMES = [f"s{n}" for n in range(40)] + ["ä", "名前", "a b", "%s", "\\x00", "x" * 128]


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(count)]


def expected(subject_id: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(subject_id.encode()).digest()[:2], "big") % count


@pytest.mark.parametrize("count", [1, 2, 3, 64])
async def test_they_are_disjoint_and_together_the_whole(store: Store, count: int) -> None:
    for number, name in enumerate(NAMES):
        new = [sample(number, part) for part in range(number % 4)]
        await store.create_subject("default", name, name=name, samples=new, contract=CONTRACT)
    whole = Mirror(await store.load("default", WHOLE))
    parts = [Mirror(await store.load("default", shard)) for shard in shards(count)]
    for index, part in enumerate(parts):
        assert {expected(name, count) for name in part.subjects} <= {index}
        assert {subject for subject, _ in part.samples.values()} <= part.subjects.keys()
        assert part.head == whole.head
    assert sum(len(part.subjects) for part in parts) == len(whole.subjects) == len(NAMES)
    assert sum(len(part.samples) for part in parts) == len(whole.samples)
    for part in parts:
        assert part.subjects.items() <= whole.subjects.items()
        assert part.samples.items() <= whole.samples.items()


async def test_one_whose_subjects_stay_learns_the_new_head(store: Store) -> None:
    name = next(name for name in NAMES if expected(name, 2) == 0)
    records = [await store.load("default", shard) for shard in shards(2)]
    await store.create_subject("default", name, samples=[sample(1)], contract=CONTRACT)
    head = await store.head("default")
    kinds = []
    for shard, held in zip(shards(2), records, strict=True):
        told = await store.changes(
            "default",
            since=0,
            incarnation=head.incarnation,
            stamp=held.head.stamp,
            shard=shard,
            limit=1,
        )
        assert told is not None
        assert told[0] == head
        kinds.append([change.kind for change in told[1]])
    assert kinds == [["subject_upserted", "sample_added"], []]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=20), limit=st.integers(1, 4))
async def test_the_log_of_a_shard_leads_where_loading_it_leads(
    store: Store, steps: list[tuple[str, str, str]], limit: int
) -> None:
    if "w" in await store.heads():
        await store.delete_collection("w", force=True)
    await store.create_collection("w", contract=CONTRACT)
    mirrors = [Mirror(await store.load("w", shard), shard) for shard in shards(2)]
    for number, (step, subject, name) in enumerate([*steps, ("catch_up", "", "")]):
        if step == "catch_up":
            for mirror in mirrors:
                await mirror.catch_up(store, "w", limit)
                fresh = Mirror(await store.load("w", mirror.shard))
                assert mirror.state() == fresh.state()
            continue
        try:
            await take(store, step, subject, name, number)
        except (Conflict, NotFound):
            continue
