"""Freshness and failure of the matcher, against a fake store that counts and fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from facegraph.config import MatcherTuning
from facegraph.errors import CollectionNotFound, ContractMismatch, GalleryBehind, StoreUnavailable
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import WHOLE, Change, Head, Shard
from tests.unit.fake_records import EYE, FakeRecords, who

pytestmark = pytest.mark.unit


@pytest.fixture
def records() -> FakeRecords:
    return FakeRecords()


@pytest.fixture
async def matcher(records: FakeRecords) -> AsyncIterator[Matcher]:
    matcher = Matcher(records, MatcherTuning(poll_interval_s=0.02), storage="float32")
    await matcher.start()
    yield matcher
    await matcher.close()


async def test_a_search_sees_every_write_before_it(records: FakeRecords, matcher: Matcher) -> None:
    for person in range(8):
        records.enrol(person)
        assert await who(matcher, records, person) == [f"p{person}"]
    assert records.loads == ["default"]


async def test_eventual_searches_do_not_fail_with_strong_ones(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(3)
    assert await who(matcher, records, 3) == ["p3"]
    records.down = True
    strong = [asyncio.ensure_future(who(matcher, records, 3)) for _ in range(3)]
    eventual = [
        asyncio.ensure_future(who(matcher, records, 3, consistency="eventual")) for _ in range(3)
    ]
    assert await asyncio.gather(*eventual) == [["p3"]] * 3
    for search in strong:
        with pytest.raises(StoreUnavailable):
            await search


async def test_eventual_searches_catch_up_by_polling(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(3)
    async with asyncio.timeout(5):
        while await who(matcher, records, 3, consistency="eventual") != ["p3"]:
            await records.asked.wait()


async def test_a_recreated_collection_is_loaded_anew(
    records: FakeRecords, matcher: Matcher
) -> None:
    for person in range(4):
        records.enrol(person)
    assert await who(matcher, records, 1) == ["p1"]
    records.make("default", 4, 5, 6, 7, incarnation="i2")  # as far as the old one
    assert await who(matcher, records, 1) == []
    assert await who(matcher, records, 5) == ["p5"]


async def test_a_restored_backup_is_loaded_anew(records: FakeRecords, matcher: Matcher) -> None:
    for person in range(4):
        records.enrol(person)
    assert await who(matcher, records, 3) == ["p3"]
    records.make("default", 0)  # the same incarnation, back at version 1
    assert await who(matcher, records, 3) == []
    assert await who(matcher, records, 0) == ["p0"]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ([0, 4], "exactly at the gallery's version"),
        ([0, 4, 5, 6], "beyond it: the log leads on from its number, not from its state"),
    ],
)
async def test_another_history_of_the_same_version_is_told_by_its_stamp(
    records: FakeRecords, matcher: Matcher, then: list[int], why: str
) -> None:
    records.enrol(1)
    records.enrol(2)
    assert await who(matcher, records, 2) == ["p2"], why
    records.make("default", *then)
    assert await who(matcher, records, 2) == [], why
    assert await who(matcher, records, 4) == ["p4"], why


async def test_a_pruned_log_is_answered_by_loading(records: FakeRecords, matcher: Matcher) -> None:
    records.enrol(1)
    records.enrol(2)
    records.log["default"].clear()
    records.change(log_floor=2)
    assert await who(matcher, records, 1) == ["p1"]


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
    assert await who(matcher, records, 1) == []
    records.make("default", 2, contract_id="c9")
    found = await matcher.match("default", "c9", EYE[2:3], Query(1))
    assert [m.subject_id for m in found.matches[0]] == ["p2"]


async def test_a_slow_store_answers_gallery_behind_then_heals(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(1)
    matcher.reconfigure(MatcherTuning(poll_interval_s=0.02, catch_up_timeout_s=0.05))
    records.delay_s = 0.2
    with pytest.raises(GalleryBehind):
        await who(matcher, records, 1)
    records.delay_s = 0
    matcher.reconfigure(MatcherTuning(poll_interval_s=0.02))
    assert await who(matcher, records, 1) == ["p1"]


async def test_a_store_that_is_down_fails_strong_and_serves_eventual(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.enrol(1)
    assert await who(matcher, records, 1) == ["p1"]
    records.down = True
    with pytest.raises(StoreUnavailable):
        await who(matcher, records, 1)
    assert await who(matcher, records, 1, consistency="eventual") == ["p1"]
    records.down = False
    assert await who(matcher, records, 1) == ["p1"]
    matcher.check()


async def test_an_unknown_collection_leaves_nothing_behind(
    records: FakeRecords, matcher: Matcher
) -> None:
    for _ in range(3):
        with pytest.raises(CollectionNotFound):
            await who(matcher, records, 1, collection="nobody")
    assert list(matcher.describe()["galleries"]) == ["default"]


async def test_a_deleted_collection_leaves_memory(records: FakeRecords, matcher: Matcher) -> None:
    records.delete("default")
    with pytest.raises(CollectionNotFound):
        await who(matcher, records, 1)
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
    records.make("default", 1, incarnation="i2")
    assert await who(matcher, records, 1) == ["p1"]
    async with asyncio.timeout(5):
        await matcher._follow(stale)  # a poll that was slow
    records.enrol(2)
    assert await who(matcher, records, 2) == ["p2"]


async def test_a_slow_poll_neither_forgets_a_new_collection_nor_its_threshold(
    records: FakeRecords, matcher: Matcher
) -> None:
    stale = await records.heads()
    records.make("new", 1)
    records.change("new", threshold=0.9)
    found = await matcher.match("new", "c1", EYE[1:2], Query(1))
    assert found.threshold == 0.9
    await matcher._follow(stale)
    eventual = await matcher.match("new", "c1", EYE[1:2], Query(1, "eventual"))
    assert (eventual.threshold, eventual.version) == (0.9, 1)


async def test_a_threshold_is_of_the_head_the_search_read(
    records: FakeRecords, matcher: Matcher
) -> None:
    stale = await records.heads()
    records.change(threshold=0.9)
    search = asyncio.create_task(matcher.match("default", "c1", EYE[:1], Query(1)))
    await matcher._follow(stale)
    assert (await search).threshold == 0.9


async def test_a_collection_deleted_while_it_is_followed_harms_no_other(
    records: FakeRecords, matcher: Matcher
) -> None:
    records.make("gone", 1)
    assert await who(matcher, records, 1, "gone") == ["p1"]
    records.enrol(2, "gone")
    records.enrol(4)
    heads = await records.heads()
    records.delete("gone")
    await matcher._follow(heads)
    assert await who(matcher, records, 4, consistency="eventual") == ["p4"]
    assert list(matcher.describe()["galleries"]) == ["default"]


class CutRecords(FakeRecords):
    """Goes down after a number of pages."""

    left = 1_000_000

    async def changes(
        self,
        collection_id: str,
        *,
        since: int,
        incarnation: str,
        stamp: str,
        shard: Shard = WHOLE,
    ) -> tuple[Head, Sequence[Change]] | None:
        self.left -= 1
        self.down = self.left < 0
        return await super().changes(
            collection_id, since=since, incarnation=incarnation, stamp=stamp, shard=shard
        )


async def test_a_catch_up_cut_within_a_page_shows_nothing_of_it() -> None:
    records = CutRecords()
    matcher = Matcher(records, MatcherTuning(poll_interval_s=60))
    await matcher.start()
    records.enrol(1)
    stale = await records.heads()
    for person in (2, 3, 4):
        records.enrol(person)
    records.page, records.left = 1, 1
    with pytest.raises(StoreUnavailable):
        await who(matcher, records, 4)
    assert await who(matcher, records, 1, consistency="eventual") == []
    records.down, records.left = False, 9
    await matcher._follow(stale)  # the version at which the catch-up stands
    assert await who(matcher, records, 4, consistency="eventual") == ["p4"]
    await matcher.close()


async def test_a_shard_holds_its_subjects_only(records: FakeRecords) -> None:
    matchers = [
        Matcher(records, MatcherTuning(poll_interval_s=60), shard=Shard(index, 2))
        for index in range(2)
    ]
    records.enrol(2)
    await asyncio.gather(*(matcher.start() for matcher in matchers))
    for person in (3, 4, 5):
        records.enrol(person)
    answers = [
        [await who(matcher, records, person) for person in (2, 3, 4, 5)] for matcher in matchers
    ]
    assert answers == [[["p2"], [], ["p4"], []], [[], ["p3"], [], ["p5"]]]
    for matcher in matchers:
        await matcher.close()


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
            assert await who(matcher, records, 3) == ["p3"]
    stop = True
    await writer
