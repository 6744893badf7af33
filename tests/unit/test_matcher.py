"""Freshness and failure of the matcher, against a fake store that counts and fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from facegraph.config import MatcherTuning
from facegraph.errors import CollectionNotFound, ContractMismatch, GalleryBehind, StoreUnavailable
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import Change, Consistency, GalleryRecords, Head, SubjectRecord

EYE = np.eye(8, dtype=np.float32)


class FakeRecords:
    """A store of one-hot people: sample ``n`` of subject ``p<n>`` is row ``n`` of the identity."""

    def __init__(self) -> None:
        self.people: dict[str, list[int]] = {"default": []}
        self.heads_by_id = {"default": Head("i1", 0, 0, "c1", 8)}
        self.log: dict[str, list[Change]] = {"default": []}
        self.loads = 0
        self.down = False
        self.delay_s = 0.0
        self.asked = asyncio.Event()

    def enrol(self, person: int, collection: str = "default") -> None:
        version = self.heads_by_id[collection].version + 1
        name = f"p{person}"
        self.people[collection].append(person)
        self.log[collection] += [
            Change(version, "subject_upserted", name, subject=SubjectRecord(name, name, {})),
            Change(version, "sample_added", name, f"f{person}", embedding=EYE[person]),
        ]
        self.heads_by_id[collection] = replace(self.heads_by_id[collection], version=version)

    async def _answer(self) -> None:
        self.asked.set()
        self.asked = asyncio.Event()
        await asyncio.sleep(self.delay_s)
        if self.down:
            raise StoreUnavailable("the fake store is down")

    async def head(self, collection_id: str) -> Head:
        await self._answer()
        if collection_id not in self.heads_by_id:
            raise CollectionNotFound(collection_id)
        return self.heads_by_id[collection_id]

    async def heads(self) -> dict[str, Head]:
        await self._answer()
        return dict(self.heads_by_id)

    async def load(self, collection_id: str) -> GalleryRecords:
        await self._answer()
        if collection_id not in self.heads_by_id:
            raise CollectionNotFound(collection_id)
        self.loads += 1
        people = self.people[collection_id]
        names = [f"p{person}" for person in people]
        return GalleryRecords(
            self.heads_by_id[collection_id],
            tuple(SubjectRecord(name, name, {}) for name in names),
            tuple(f"f{person}" for person in people),
            tuple(names),
            EYE[people].reshape(-1, 8).copy(),
        )

    async def changes(
        self, collection_id: str, *, since: int, incarnation: str
    ) -> tuple[Head, Sequence[Change]] | None:
        await self._answer()
        head = self.heads_by_id[collection_id]
        if head.incarnation != incarnation or since < head.log_floor:
            return None
        return head, [c for c in self.log[collection_id] if c.version > since]


@pytest.fixture
def records() -> FakeRecords:
    return FakeRecords()


@pytest.fixture
async def matcher(records: FakeRecords) -> AsyncIterator[Matcher]:
    tuning = MatcherTuning(poll_interval_s=0.02, catch_up_timeout_s=0.3)
    matcher = Matcher(records, tuning)
    await matcher.start()
    yield matcher
    await matcher.close()


async def who(
    matcher: Matcher,
    person: int,
    *,
    collection: str = "default",
    consistency: Consistency = "strong",
) -> list[str]:
    found = await matcher.match(collection, "c1", EYE[person : person + 1], Query(3, consistency))
    return [m.subject_id for m in found.matches[0] if m.similarity > 0.5]


async def test_a_search_sees_every_write_before_it(records: FakeRecords, matcher: Matcher) -> None:
    for person in range(8):
        records.enrol(person)
        assert await who(matcher, person) == [f"p{person}"]
    assert records.loads == 1


async def test_eventual_searches_catch_up_by_polling(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(3)
    async with asyncio.timeout(5):
        while await who(matcher, 3, consistency="eventual") != ["p3"]:
            await records.asked.wait()


async def test_a_recreated_collection_is_loaded_anew(
    records: FakeRecords, matcher: Matcher
) -> None:
    for person in range(4):
        records.enrol(person)
    assert await who(matcher, 1) == ["p1"]
    records.heads_by_id["default"] = Head("i2", 4, 0, "c1", 8)
    records.people["default"] = [5]
    assert await who(matcher, 1) == []
    assert await who(matcher, 5) == ["p5"]


async def test_a_restored_backup_is_loaded_anew(records: FakeRecords, matcher: Matcher) -> None:
    for person in range(4):
        records.enrol(person)
    assert await who(matcher, 3) == ["p3"]
    records.people["default"] = [0]
    records.log["default"] = records.log["default"][:2]
    records.heads_by_id["default"] = replace(records.heads_by_id["default"], version=1)
    assert await who(matcher, 3) == []
    assert await who(matcher, 0) == ["p0"]


async def test_a_pruned_log_is_answered_by_loading(records: FakeRecords, matcher: Matcher) -> None:
    records.enrol(1)
    records.enrol(2)
    records.log["default"].clear()
    records.heads_by_id["default"] = replace(records.heads_by_id["default"], log_floor=2)
    assert await who(matcher, 1) == ["p1"]


async def test_another_contract_is_refused_unless_nothing_is_enrolled(
    records: FakeRecords, matcher: Matcher
) -> None:
    empty = await matcher.match("default", "c2", EYE[:1], Query(1))
    assert empty.matches == ((),)
    records.enrol(1)
    with pytest.raises(ContractMismatch):
        await matcher.match("default", "c2", EYE[:1], Query(1))


async def test_a_rebound_empty_collection_takes_the_new_dimension(
    records: FakeRecords, matcher: Matcher
) -> None:
    assert await who(matcher, 1) == []
    records.heads_by_id["default"] = replace(
        records.heads_by_id["default"], contract_id="c9", version=1
    )
    records.people["default"] = [2]
    found = await matcher.match("default", "c9", EYE[2:3], Query(1))
    assert [m.subject_id for m in found.matches[0]] == ["p2"]


async def test_a_slow_store_answers_gallery_behind_then_heals(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(1)
    records.delay_s = 0.4
    with pytest.raises(GalleryBehind):
        await who(matcher, 1)
    records.delay_s = 0
    assert await who(matcher, 1) == ["p1"]


async def test_a_store_that_is_down_fails_strong_and_serves_eventual(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(1)
    assert await who(matcher, 1) == ["p1"]
    records.down = True
    with pytest.raises(StoreUnavailable):
        await who(matcher, 1)
    assert await who(matcher, 1, consistency="eventual") == ["p1"]
    records.down = False
    assert await who(matcher, 1) == ["p1"]
    matcher.check()


async def test_an_unknown_collection_leaves_nothing_behind(
    records: FakeRecords, matcher: Matcher
) -> None:
    for _ in range(3):
        with pytest.raises(CollectionNotFound):
            await who(matcher, 1, collection="nobody")
    assert list(matcher.describe()["galleries"]) == ["default"]


async def test_a_deleted_collection_leaves_memory(records: FakeRecords, matcher: Matcher) -> None:
    del records.heads_by_id["default"]
    with pytest.raises(CollectionNotFound):
        await who(matcher, 1)
    async with asyncio.timeout(5):
        while matcher.describe()["galleries"]:
            await records.asked.wait()


async def test_no_probes_tell_the_version(records: FakeRecords, matcher: Matcher) -> None:
    records.enrol(1)
    found = await matcher.match("default", "c1", EYE[:0], Query(1))
    assert (found.version, found.matches) == (1, ())


async def test_probes_of_many_requests_are_answered_each_its_own(
    records: FakeRecords, matcher: Matcher
) -> None:
    for person in range(8):
        records.enrol(person)
    requests = [(a, b, limit) for a in range(8) for b in range(8) for limit in (1, 2)]
    found = await asyncio.gather(
        *(matcher.match("default", "c1", EYE[[a, b]], Query(limit)) for a, b, limit in requests)
    )
    for (a, b, limit), result in zip(requests, found, strict=True):
        assert [matches[0].subject_id for matches in result.matches] == [f"p{a}", f"p{b}"]
        assert [len(matches) for matches in result.matches] == [limit, limit]


async def test_a_head_older_than_the_gallery_is_read_again(
    records: FakeRecords, matcher: Matcher
) -> None:
    stale = await records.heads()
    records.heads_by_id["default"] = Head("i2", 0, 0, "c1", 8)
    records.enrol(1)
    assert await who(matcher, 1) == ["p1"]
    async with asyncio.timeout(5):
        await matcher._follow(stale)  # a poll that was slow
    records.enrol(2)
    assert await who(matcher, 2) == ["p2"]


async def test_a_slow_poll_neither_forgets_a_new_collection_nor_its_threshold(
    records: FakeRecords, matcher: Matcher
) -> None:
    stale = await records.heads()
    records.heads_by_id["new"] = Head("n1", 0, 0, "c1", 8, threshold=0.9)
    records.people["new"], records.log["new"] = [], []
    records.enrol(1, "new")
    found = await matcher.match("new", "c1", EYE[1:2], Query(1))
    assert found.threshold == 0.9
    await matcher._follow(stale)
    eventual = await matcher.match("new", "c1", EYE[1:2], Query(1, "eventual"))
    assert (eventual.threshold, eventual.version) == (0.9, 1)


async def test_a_threshold_is_of_the_head_the_search_read(
    records: FakeRecords, matcher: Matcher
) -> None:
    stale = await records.heads()
    records.heads_by_id["default"] = replace(records.heads_by_id["default"], threshold=0.9)
    search = asyncio.create_task(matcher.match("default", "c1", EYE[:1], Query(1)))
    await matcher._follow(stale)
    assert (await search).threshold == 0.9


async def test_a_collection_deleted_while_it_is_followed_harms_no_other(
    records: FakeRecords, matcher: Matcher
) -> None:
    heads = {"gone": Head("g", 3, 0, "c1", 8)} | await records.heads()
    records.enrol(4)
    heads["default"] = records.heads_by_id["default"]
    records.people["gone"] = []
    await matcher._follow(heads)
    assert await who(matcher, 4, consistency="eventual") == ["p4"]


async def test_writers_without_pause_do_not_keep_a_search_waiting(
    records: FakeRecords, matcher: Matcher
) -> None:
    stop = False

    async def write() -> None:
        while not stop:
            records.enrol(3)
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    async with asyncio.timeout(5):
        for _ in range(20):
            assert await who(matcher, 3) == ["p3"]
    stop = True
    await writer
