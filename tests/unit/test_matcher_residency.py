"""Which galleries are in memory: loaded when first searched, gone when idle, within a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from facegraph.config import MatcherTuning
from facegraph.errors import GalleryBehind, GalleryTooLarge, StoreUnavailable
from facegraph.gallery import Gallery
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.matching import shelves
from facegraph.matching.answering import answer
from facegraph.types import WHOLE, GalleryRecords, Shard, SubjectRecord
from tests.unit.fake_records import EYE, FakeRecords, who

pytestmark = pytest.mark.unit

Start = Callable[[MatcherTuning], Awaitable[Matcher]]


@pytest.fixture
def records() -> FakeRecords:
    records = FakeRecords()
    for person, name in enumerate("abcd"):
        records.make(name, person)
    return records


@pytest.fixture
async def start(records: FakeRecords) -> AsyncIterator[Start]:
    """Starts a matcher, which polls when asked unless its tuning says otherwise."""
    started = []

    async def start(tuning: MatcherTuning) -> Matcher:
        matcher = Matcher(records, tuning, storage="float32")
        started.append(matcher)
        await matcher.start()
        return matcher

    yield start
    records.gate.set()
    for matcher in started:
        await matcher.close()


def tuned(**values: object) -> MatcherTuning:
    return MatcherTuning.model_validate({"poll_interval_s": 60, **values})


def present(matcher: Matcher) -> list[str]:
    return list(matcher.describe()["galleries"])


async def poll(matcher: Matcher) -> None:
    heads = await matcher._heads()
    matcher._shelves.trim(heads)
    await matcher._follow(heads)


async def for_two(matcher: Matcher, records: FakeRecords) -> int:
    """Bytes with which a second collection may be loaded beside ``a``, and no third."""
    await who(matcher, records, 0, "a")
    held: int = matcher.describe()["galleries"]["a"]["bytes"]
    return held + matcher._shelves._need("not known", records.heads_by_id["b"])


NOTE = "x" * 2**20


@pytest.fixture
def wordy(records: FakeRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ``b`` say far more of its one subject than its 100 samples let expect."""
    plain = records.load

    async def load(collection_id: str, shard: Shard = WHOLE) -> GalleryRecords:
        loaded = await plain(collection_id, shard)
        if collection_id != "b":
            return loaded
        subjects = [SubjectRecord("p1", "p1", {"note": NOTE})]
        return GalleryRecords.of(loaded.head, subjects, [("f1", "p1", EYE[1])])

    monkeypatch.setattr(records, "load", load)
    records.change("b", sample_count=100)


async def test_the_default_and_the_pinned_are_loaded_at_the_start(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned(pinned=["b", "not yet"]))
    assert sorted(records.loads) == ["b", "default"]
    assert present(matcher) == ["b", "default"]


async def test_others_are_loaded_by_their_first_search(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    assert await who(matcher, records, 2, "c") == ["p2"]
    assert await who(matcher, records, 2, "c", "eventual") == ["p2"]
    assert records.loads == ["default", "c"]


async def test_an_eventual_first_search_loads_too(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    assert await who(matcher, records, 2, "c", "eventual") == ["p2"]


async def test_polling_keeps_current_what_is_in_memory_and_nothing_else(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned())
    await who(matcher, records, 0, "a")
    records.enrol(5, "a")
    records.enrol(5, "b")
    await poll(matcher)
    assert records.asked_for == ["a"]
    assert await who(matcher, records, 5, "a", "eventual") == ["p5"]


async def test_a_pinned_collection_is_loaded_when_it_appears(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned(pinned=["late"], poll_interval_s=0.01))
    records.make("late", 7)
    async with asyncio.timeout(5):
        while "late" not in present(matcher):
            await records.asked.wait()


async def test_settling_waits_for_what_was_pinned(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    matcher.reconfigure(tuned(pinned=["d", "not yet"]))
    await matcher.settle()
    assert present(matcher) == ["d", "default"]
    assert records.loads == ["default", "d"]


async def test_newly_pinned_collections_are_loaded_without_a_restart(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned(poll_interval_s=0.01))
    matcher.reconfigure(tuned(pinned=["d"], poll_interval_s=0.01))
    async with asyncio.timeout(5):
        while "d" not in present(matcher):
            await records.asked.wait()
    assert records.loads == ["default", "d"]


async def test_a_poll_does_not_wait_for_what_arrives(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    records.gate.clear()
    matcher.reconfigure(tuned(pinned=["d"]))
    await poll(matcher)
    await poll(matcher)
    await asyncio.wait_for(records.loading.wait(), 5)
    records.enrol(6)
    await poll(matcher)
    assert await who(matcher, records, 6, consistency="eventual") == ["p6"]
    assert present(matcher) == ["default"]
    records.gate.set()
    assert await who(matcher, records, 3, "d") == ["p3"]
    assert records.loads == ["default", "d"]


async def test_a_herd_loads_once(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(max_batch=1))
    found = await asyncio.gather(*(who(matcher, records, 1, "b") for _ in range(50)))
    assert found == [["p1"]] * 50
    assert records.loads == ["default", "b"]


async def test_a_load_goes_on_after_gallery_behind(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(catch_up_timeout_s=0.05))
    records.gate.clear()
    for _ in range(3):
        with pytest.raises(GalleryBehind):
            await who(matcher, records, 1, "b")
    records.gate.set()
    matcher.reconfigure(tuned())
    assert await who(matcher, records, 1, "b") == ["p1"]
    assert records.loads == ["default", "b"]


async def test_a_load_that_fails_leaves_nothing_behind(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    records.gate.clear()
    search = asyncio.create_task(who(matcher, records, 1, "b"))
    await records.loading.wait()
    records.down = True
    records.gate.set()
    with pytest.raises(StoreUnavailable):
        await search
    assert list(matcher._shelves._shelves) == ["default"]
    records.down = False
    assert await who(matcher, records, 1, "b") == ["p1"]


async def test_the_longest_unused_leaves_first(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    matcher.reconfigure(tuned(max_gallery_bytes=await for_two(matcher, records)))
    await who(matcher, records, 1, "b")
    await who(matcher, records, 0, "a")
    assert await who(matcher, records, 2, "c") == ["p2"]
    assert present(matcher) == ["a", "c", "default"]
    assert await who(matcher, records, 1, "b") == ["p1"]
    assert present(matcher) == ["b", "c", "default"]
    assert matcher.describe()["evictions"] == 2


async def test_the_searched_leave_last(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    matcher.reconfigure(tuned(max_gallery_bytes=await for_two(matcher, records)))
    await who(matcher, records, 0, "a")
    with matcher._shelves.searched("a"):
        await who(matcher, records, 1, "b")
        await who(matcher, records, 2, "c")
        assert present(matcher) == ["a", "c", "default"]


async def test_the_pinned_neither_leave_nor_count(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(pinned=["a", "b"]))
    bound = await for_two(matcher, records)
    matcher.reconfigure(tuned(pinned=["a", "b"], max_gallery_bytes=bound))
    for person, name in ((2, "c"), (3, "d")):
        assert await who(matcher, records, person, name) == [f"p{person}"]
    assert present(matcher) == ["a", "b", "c", "d", "default"]
    matcher.reconfigure(tuned(pinned=["a"], max_gallery_bytes=bound))  # b counts from now on
    await poll(matcher)
    assert present(matcher) == ["a", "c", "d", "default"]


async def test_a_running_search_keeps_the_gallery_it_began_with(
    records: FakeRecords, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = await start(tuned())
    await who(matcher, records, 0, "a")
    begun, free, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def slow(*args: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        free.wait()
        return answer(*args, **options)

    monkeypatch.setattr("facegraph.matcher.answer", slow)
    search = asyncio.create_task(who(matcher, records, 0, "a"))
    await begun.wait()
    matcher.reconfigure(tuned(max_gallery_bytes=1))
    await poll(matcher)
    assert present(matcher) == ["default"]
    free.set()
    assert await search == ["p0"]


async def test_what_does_not_fit_alone_is_refused(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    matcher.reconfigure(tuned(max_gallery_bytes=await for_two(matcher, records)))
    records.change("b", sample_count=1_000_000)
    with pytest.raises(GalleryTooLarge, match="max_gallery_bytes") as refused:
        await who(matcher, records, 1, "b")
    assert (refused.value.code, refused.value.status) == ("gallery_too_large", 507)
    assert present(matcher) == ["a", "default"], "nobody left for it"
    assert records.loads == ["default", "a"]
    matcher.reconfigure(tuned())
    assert await who(matcher, records, 1, "b") == ["p1"]


async def test_pinning_is_a_way_past_the_bound(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(max_gallery_bytes=1, pinned=["b"]))
    assert await who(matcher, records, 1, "b") == ["p1"]
    with pytest.raises(GalleryTooLarge):
        await who(matcher, records, 0, "a")


async def test_what_outgrows_the_bound_leaves(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    matcher.reconfigure(tuned(max_gallery_bytes=await for_two(matcher, records)))
    records.change("a", sample_count=1_000_000)
    await poll(matcher)
    assert present(matcher) == ["default"]
    with pytest.raises(GalleryTooLarge):
        await who(matcher, records, 0, "a")


@pytest.mark.parametrize(
    ("changes", "samples", "again", "why"),
    [
        ({}, 100, False, "nothing has changed"),
        ({}, 91, False, "hardly fewer samples"),
        ({}, 200, False, "more samples"),
        ({"max_gallery_bytes": len(NOTE) + 1}, 100, False, "hardly more room"),
        ({"max_gallery_bytes": 2 * len(NOTE)}, 100, True, "the bound was raised"),
        ({"pinned": ["b"]}, 100, True, "it was pinned"),
        ({}, 50, True, "clearly fewer samples"),
    ],
)
@pytest.mark.usefixtures("wordy")
async def test_what_proves_too_large_is_not_loaded_again_in_vain(
    records: FakeRecords,
    start: Start,
    changes: dict[str, object],
    samples: int,
    again: bool,
    why: str,
) -> None:
    bound = {"max_gallery_bytes": len(NOTE)}
    matcher = await start(tuned(**bound))
    await who(matcher, records, 0, "a")
    with pytest.raises(GalleryTooLarge):
        await who(matcher, records, 1, "b")
    assert present(matcher) == ["a", "default"], "nobody left for it"
    assert records.loads == ["default", "a", "b"]
    matcher.reconfigure(tuned(**{**bound, **changes}))
    records.change("b", sample_count=samples)
    if changes and again:
        assert await who(matcher, records, 1, "b") == ["p1"], why
    else:
        with pytest.raises(GalleryTooLarge):
            await who(matcher, records, 1, "b")
    assert (records.loads == ["default", "a", "b", "b"]) == again, why


@pytest.mark.usefixtures("wordy")
async def test_another_collection_of_the_same_id_is_measured_anew(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned(max_gallery_bytes=len(NOTE)))
    for incarnation in ("i1", "i2"):
        records.make("b", 1, incarnation=incarnation)
        with pytest.raises(GalleryTooLarge):
            await who(matcher, records, 1, "b")
    assert records.loads == ["default", "b", "b"]


@pytest.mark.usefixtures("wordy")
async def test_what_proves_larger_than_expected_makes_others_leave(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned())
    await who(matcher, records, 1, "b")
    bound = matcher.describe()["galleries"]["b"]["bytes"] + 1
    matcher = await start(tuned(max_gallery_bytes=bound))
    await who(matcher, records, 0, "a")
    assert await who(matcher, records, 1, "b") == ["p1"]
    assert present(matcher) == ["b", "default"]
    assert matcher.describe()["evictions"] == 1


async def test_what_grows_too_large_where_it_lies_leaves_and_is_refused(
    records: FakeRecords, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = await start(tuned(max_gallery_bytes=2**30))
    await who(matcher, records, 0, "a")
    monkeypatch.setattr(Gallery, "nbytes", 2**31)
    await poll(matcher)
    assert present(matcher) == ["default"]
    with pytest.raises(GalleryTooLarge):
        await who(matcher, records, 0, "a")
    assert records.loads == ["default", "a"]


async def test_only_so_many_sizes_are_remembered(
    records: FakeRecords, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "_SIZES_KNOWN", 2)
    matcher = await start(tuned())
    for person, name in enumerate("abc"):
        await who(matcher, records, person, name)
    assert list(matcher._shelves._sizes) == [("b", "i1"), ("c", "i1")]


async def test_loads_side_by_side_wait_for_room(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    need = matcher._shelves._need("a", records.heads_by_id["a"])
    matcher.reconfigure(tuned(max_gallery_bytes=need + need // 2))
    records.gate.clear()
    searches = [
        asyncio.create_task(who(matcher, records, person, name))
        for person, name in enumerate("abcd")
    ]
    await records.loading.wait()
    records.gate.set()
    assert await asyncio.gather(*searches) == [["p0"], ["p1"], ["p2"], ["p3"]]
    held = sum(
        gallery["bytes"]
        for name, gallery in matcher.describe()["galleries"].items()
        if name != "default"
    )
    assert held <= need + need // 2


async def test_the_idle_leave_by_themselves(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(pinned=["b"], idle_timeout_s=1e-6, poll_interval_s=0.01))
    await who(matcher, records, 0, "a")
    async with asyncio.timeout(5):
        while present(matcher) != ["b", "default"]:
            await records.asked.wait()
    assert await who(matcher, records, 0, "a") == ["p0"]
    assert matcher.describe()["evictions"] >= 1


async def test_the_used_do_not(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned(idle_timeout_s=1e-6))
    with matcher._shelves.searched("a"):
        await who(matcher, records, 0, "a")
        await poll(matcher)
        assert present(matcher) == ["a", "default"]


async def test_an_evicted_gallery_that_catches_up_does_not_come_back(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned())
    await who(matcher, records, 0, "a")
    records.enrol(5, "a")
    records.meanwhile = lambda: matcher._shelves.drop("a")
    assert await who(matcher, records, 5, "a") == ["p5"]
    assert present(matcher) == ["default"]


async def test_what_there_is_is_described(records: FakeRecords, start: Start) -> None:
    matcher = await start(tuned())
    await who(matcher, records, 0, "a")
    described = matcher.describe()
    gallery = described["galleries"]["a"]
    assert (gallery["version"], gallery["samples"], gallery["pinned"]) == (1, 1, False)
    assert described["galleries"]["default"]["pinned"]
    assert (described["loads"], described["evictions"], described["files_used"]) == (2, 0, 0)


async def test_a_search_of_a_cold_collection_tells_contract_and_version(
    records: FakeRecords, start: Start
) -> None:
    matcher = await start(tuned())
    found = await matcher.match("d", "c1", EYE[3:4], Query(1))
    assert (found.version, [m.subject_id for m in found.matches[0]]) == (1, ["p3"])
