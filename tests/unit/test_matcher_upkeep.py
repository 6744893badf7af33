"""Merges behind the searches, and galleries that outlive a matcher in files."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph.config import MatcherTuning
from facegraph.gallery import Base, Gallery, folder
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.matching import upkeep
from facegraph.types import FloatArray, Head, Shard
from tests.unit.fake_records import EYE, FakeRecords, who

pytestmark = pytest.mark.unit

TUNING = MatcherTuning(poll_interval_s=60)

Start = Callable[..., Any]


def crowd(people: int) -> FloatArray:
    """(people, 8) float32, L2-normalised."""
    rows = np.random.default_rng(3).normal(size=(people, 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any gallery is worth a file, and what failed is tried again at once."""
    monkeypatch.setattr(upkeep, "FEW_ROWS", 1)
    monkeypatch.setattr(upkeep, "_BACKOFF_S", 0.0)


@pytest.fixture
def records() -> FakeRecords:
    records = FakeRecords()
    records.make("default", 0, 1, 2)
    return records


@pytest.fixture
async def start(records: FakeRecords, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Matcher] = []

    async def start(**options: Any) -> Matcher:
        options = {"folder": tmp_path / "galleries", "storage": "float32", **options}
        matcher = Matcher(records, TUNING, **options)
        matcher._upkeep.start = lambda: None  # type: ignore[method-assign]  # the test's rounds
        started.append(matcher)
        await matcher.start()
        return matcher

    yield start
    for matcher in started:
        await matcher.close()


async def poll(matcher: Matcher) -> None:
    heads = await matcher._heads()
    matcher._shelves.trim(heads)
    await matcher._follow(heads)


async def follow(*matchers: Matcher) -> None:
    """A poll of each, then a round of its upkeep, which also vouches."""
    for matcher in matchers:
        await poll(matcher)
        await matcher._upkeep.round()
        await matcher._upkeep.vouch()


def default_of(matcher: Matcher) -> dict[str, Any]:
    described: dict[str, Any] = matcher.describe()["galleries"]["default"]
    return described


def versions(path: Path) -> list[int]:
    return sorted(int(file.name.split("-")[1]) for file in path.glob("galleries/*.gallery"))


async def test_a_restarted_matcher_starts_from_the_file_and_the_tail(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    first = await start()
    await follow(first)
    assert default_of(first)["in_file"]
    assert versions(tmp_path) == [3]
    records.enrol(4)
    records.remove(1)
    second = await start()
    assert records.loads == ["default"]
    assert [await who(second, records, person, consistency="eventual") for person in (0, 1, 4)] == [
        ["p0"],
        [],
        ["p4"],
    ]
    assert (second.describe()["files_used"], second.describe()["loads"]) == (1, 0)
    assert (default_of(second)["in_file"], default_of(second)["version"]) == (True, 5)


async def test_a_tail_of_many_pages_is_shown_at_its_end_only(
    records: FakeRecords, start: Start
) -> None:
    await follow(await start())
    for person in (4, 5, 6):
        records.enrol(person)
    records.page = 1
    second = await start()
    assert default_of(second)["version"] == 6
    assert await who(second, records, 6, consistency="eventual") == ["p6"]


async def test_two_matchers_share_one_file(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    first, second = await start(), await start()
    assert records.loads == ["default", "default"]
    await follow(first)
    records.enrol(5)
    await poll(second)
    await second._upkeep.round()
    assert versions(tmp_path) == [3]
    assert [default_of(matcher)["in_file"] for matcher in (first, second)] == [True, True]
    described = second.describe()
    assert (described["merges"], described["files_taken_up"]) == (0, 1)
    assert await who(second, records, 5, consistency="eventual") == ["p5"]
    assert await who(second, records, 1, consistency="eventual") == ["p1"]


async def test_a_newer_file_is_taken_up_by_the_others(
    records: FakeRecords, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start()
    await follow(first, second)
    records.enrol(5)
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    await follow(first, second)
    assert versions(tmp_path) == [4]
    assert [matcher.describe()["merges"] for matcher in (first, second)] == [2, 0]
    for matcher in (first, second):
        base = matcher._shelves.resident()["default"].gallery.snapshot.base
        assert base.head.version == 4
        assert await who(matcher, records, 5) == ["p5"]


async def test_who_does_not_get_the_lock_comes_back(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    matcher = await start()
    with folder.Folder(tmp_path / "galleries", Shard(), "float32")._alone():
        await follow(matcher)
        assert (matcher.describe()["merges"], versions(tmp_path)) == (0, [])
    await follow(matcher)
    assert (matcher.describe()["merges"], versions(tmp_path)) == (1, [3])


async def test_who_never_gets_the_lock_merges_in_memory(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_BLOCKED_FOR_S", 0.0)
    matcher = await start()
    with folder.Folder(tmp_path / "galleries", Shard(), "float32")._alone():
        await follow(matcher)
        await follow(matcher)
    assert (matcher.describe()["merges"], versions(tmp_path)) == (1, [])
    assert not default_of(matcher)["in_file"]


@pytest.mark.parametrize(
    ("people", "why"),
    [
        ([0, 1, 5], "as far as the file"),
        ([0, 1, 5, 6], "beyond it"),
        ([5], "before it: such a file is swept"),
    ],
)
async def test_a_file_of_another_history_is_removed_and_the_store_asked(
    records: FakeRecords, start: Start, tmp_path: Path, people: list[int], why: str
) -> None:
    first = await start()
    await follow(first)
    await first.close()
    records.make("default", *people)  # the same incarnation: a restored backup
    second = await start()
    assert await who(second, records, 2, consistency="eventual") == [], why
    assert await who(second, records, 5, consistency="eventual") == ["p5"], why
    assert versions(tmp_path) == [], why
    assert second.describe()["files_missed"] == 1


async def test_a_damaged_file_costs_a_load_and_nothing_else(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    await follow(await start())
    (file,) = (tmp_path / "galleries").glob("*.gallery")
    file.write_bytes(file.read_bytes()[:-1])
    second = await start()
    assert await who(second, records, 2) == ["p2"]
    assert records.loads == ["default", "default"]
    assert versions(tmp_path) == []


async def test_the_files_of_a_deleted_collection_go_at_the_next_poll_or_start(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    records.make("a", 5)
    first = await start()
    await who(first, records, 5, "a")
    await follow(first)
    assert versions(tmp_path) == [1, 3]
    records.delete("a")
    await follow(first)
    assert versions(tmp_path) == [3]
    await first.close()
    records.make("default", 7, incarnation="i2")
    await start()
    assert versions(tmp_path) == []


async def test_the_files_of_an_evicted_collection_stay(
    records: FakeRecords, start: Start, tmp_path: Path
) -> None:
    records.make("a", 5)
    matcher = await start()
    await who(matcher, records, 5, "a")
    await follow(matcher)
    matcher.reconfigure(MatcherTuning(poll_interval_s=60, idle_timeout_s=1e-9))
    await follow(matcher)
    assert list(matcher.describe()["galleries"]) == ["default"]
    assert versions(tmp_path) == [1, 3]
    assert await who(matcher, records, 5, "a") == ["p5"]
    assert records.loads == ["default", "a"]


async def test_what_was_removed_leaves_the_file_after_a_time(
    start: Start, records: FakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.vectors = crowd(8)
    records.make("default", 0, 1, 2)
    matcher = await start()
    await follow(matcher)
    records.remove(1)
    await follow(matcher)
    assert versions(tmp_path) == [3], "a removal alone is no reason yet"
    monkeypatch.setattr(upkeep, "ERASE_AFTER_S", 0.0)
    await follow(matcher)
    (file,) = (tmp_path / "galleries").glob("*.gallery")
    assert versions(tmp_path) == [4]
    assert records.vectors[1].tobytes() not in file.read_bytes()
    assert records.vectors[2].tobytes() in file.read_bytes()
    assert await who(matcher, records, 1) == []
    await follow(matcher)
    assert matcher.describe()["merges"] == 2


async def test_a_file_with_additions_only_is_vouched_for(
    start: Start, records: FakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vouched: list[int] = []

    def vouch(_: folder.Folder, __: str, head: Head) -> bool:
        vouched.append(head.version)
        return True

    monkeypatch.setattr(folder.Folder, "vouch", vouch)
    matcher = await start()
    await follow(matcher)
    records.enrol(5)
    await follow(matcher)
    await follow(matcher)
    assert vouched == [3], "once in a while"
    records.remove(5)
    matcher._upkeep._cares["default"].vouched_at = float("-inf")
    await follow(matcher)
    assert vouched == [3]


async def test_a_merge_that_takes_long_keeps_nobody_from_vouching(
    start: Start, records: FakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = await start()
    await follow(matcher)
    begun, vouched, free = asyncio.Event(), asyncio.Event(), threading.Event()
    loop, write = asyncio.get_running_loop(), upkeep.Upkeep._write

    def slow(*args: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        free.wait()
        return write(*args)

    def vouch(_: folder.Folder, name: str, __: Head) -> bool:
        assert name == "default"
        loop.call_soon_threadsafe(vouched.set)
        return True

    monkeypatch.setattr(upkeep.Upkeep, "_write", slow)
    monkeypatch.setattr(folder.Folder, "vouch", vouch)
    upkeep.Upkeep.start(matcher._upkeep)
    records.make("a", 5)
    try:
        async with asyncio.timeout(5):
            await who(matcher, records, 5, "a")
            await begun.wait()
            matcher._upkeep._cares["default"].vouched_at = float("-inf")
            matcher._upkeep.wake()
            await vouched.wait()
        assert matcher.describe()["merges"] == 1, "the second is under way"
    finally:
        free.set()


async def test_nobody_vouches_for_what_may_hold_what_was_removed(
    start: Start, records: FakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    vouched: list[str] = []

    def vouch(_: folder.Folder, name: str, __: Head) -> bool:
        vouched.append(name)
        return True

    monkeypatch.setattr(folder.Folder, "vouch", vouch)
    matcher = await start()
    await poll(matcher)
    await matcher._upkeep.round()
    records.remove(1)
    await poll(matcher)
    await matcher._upkeep.vouch()
    assert vouched == []


async def test_a_file_that_is_gone_is_written_anew(
    start: Start, records: FakeRecords, tmp_path: Path
) -> None:
    matcher = await start()
    await poll(matcher)
    await matcher._upkeep.round()
    (file,) = (tmp_path / "galleries").glob("*.gallery")
    file.unlink()
    await matcher._upkeep.vouch()
    assert not default_of(matcher)["in_file"]
    assert await who(matcher, records, 1) == ["p1"], "it is searched all the same"
    await follow(matcher)
    assert (matcher.describe()["merges"], versions(tmp_path)) == (2, [3])
    assert default_of(matcher)["in_file"]


async def test_a_file_that_another_has_replaced_is_taken_up_not_written(
    start: Start, records: FakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start()
    await poll(first)
    await first._upkeep.round()
    await second._upkeep.round()
    records.enrol(5)
    await poll(first)
    await poll(second)
    due = Gallery.merge_due
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    await first._upkeep.round()
    monkeypatch.setattr(Gallery, "merge_due", due)
    assert versions(tmp_path) == [4]
    await second._upkeep.vouch()
    assert not default_of(second)["in_file"]
    await second._upkeep.round()
    described = second.describe()
    assert (described["merges"], described["files_taken_up"]) == (0, 2)
    assert default_of(second)["in_file"]


async def test_a_merge_that_fails_is_tried_again(
    start: Start,
    records: FakeRecords,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    matcher = await start()
    build, failures = Base.build, [MemoryError("no fake memory"), ValueError("fake")]

    def fail(*args: Any, **options: Any) -> Base:
        if failures:
            raise failures.pop()
        return build(*args, **options)

    monkeypatch.setattr(Base, "build", fail)
    for _ in range(2):
        await follow(matcher)
        records.enrol(4)
        records.remove(4)
        assert await who(matcher, records, 0) == ["p0"]
        assert await who(matcher, records, 4) == []
    assert (matcher.describe()["merges"], matcher.describe()["merges_failed"]) == (0, 2)
    records.enrol(6)
    await follow(matcher)
    assert (matcher.describe()["merges"], matcher.describe()["merges_failed"]) == (1, 2)
    assert await who(matcher, records, 6) == ["p6"]
    assert ["could not be merged" in record.getMessage() for record in caplog.records] == [True] * 2


async def test_nothing_is_merged_between_two_pages_of_the_log(
    start: Start, records: FakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of such a state would be believed by who restores a backup of that version."""
    matcher = await start()
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    write = upkeep.Upkeep._write
    for person in (4, 5):
        records.enrol(person)
    records.page = 1
    page = await records.changes(
        "default", since=3, incarnation="i1", stamp=records.stamps["default"][3]
    )
    assert page is not None
    assert page[0].more

    def late(keeper: upkeep.Upkeep, name: str, gallery: Gallery, *rest: Any) -> Any:
        gallery.apply(*page)
        return write(keeper, name, gallery, *rest)

    monkeypatch.setattr(upkeep.Upkeep, "_write", late)
    await matcher._upkeep.round()
    described = matcher.describe()
    assert (described["merges"], described["merges_failed"], versions(tmp_path)) == (0, 0, [])
    monkeypatch.setattr(upkeep.Upkeep, "_write", write)
    await follow(matcher)
    assert versions(tmp_path) == [5]
    assert await who(matcher, records, 5) == ["p5"]


async def test_a_merge_that_fails_late_keeps_no_changes(
    start: Start, records: FakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be kept for a base that never comes."""
    matcher = await start(folder=None)
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    monkeypatch.setattr(upkeep.Upkeep, "_to_approximate", lambda *_: True)

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("no fake memory")

    monkeypatch.setattr(upkeep, "approximated", fail)
    await matcher._upkeep.round()
    assert matcher.describe()["merges_failed"] == 1
    gallery = matcher._shelves.resident()["default"].gallery
    assert gallery is not None
    with pytest.raises(ValueError, match="not of the gallery's last merge"):
        gallery.rebased(gallery.snapshot.base)
    assert await who(matcher, records, 1) == ["p1"]


async def test_a_newer_file_that_cannot_be_read_keeps_nobody_from_merging(
    start: Start, records: FakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start()
    await follow(first)
    monkeypatch.setattr(upkeep, "_BLOCKED_FOR_S", 0.0)
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))

    def fail(_: Path) -> Base:
        raise OSError("a fake disk's error")

    monkeypatch.setattr(Base, "open", fail)
    for _ in range(2):
        await follow(second)
    described = second.describe()
    assert (described["merges"], described["files_taken_up"]) == (1, 0)
    assert versions(tmp_path) == [3]
    assert await who(second, records, 1) == ["p1"]


async def test_failures_are_waited_out_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "_BACKOFF_S", 1.0)
    care = upkeep._Care(("i", 1, "s"))
    waits = []
    for _ in range(20):
        care.failed(100.0)
        waits.append(care.retry_at - 100.0)
    assert waits[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(waits[10:]) == {300.0}


async def test_without_a_usable_folder_all_is_in_memory_and_told_once(
    start: Start, records: FakeRecords, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "galleries").write_text("a file, no folder")
    caplog.set_level(logging.WARNING)
    matcher = await start()
    for person in (4, 5):
        records.enrol(person)
        await follow(matcher)
        assert await who(matcher, records, person) == [f"p{person}"]
    assert not default_of(matcher)["in_file"]
    assert len(caplog.records) == 1


async def test_small_galleries_have_no_file(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FEW_ROWS", 4)
    await follow(await start())
    assert versions(tmp_path) == []


async def test_shards_have_files_of_their_own(
    start: Start, records: FakeRecords, tmp_path: Path
) -> None:
    halves = [Shard(0, 2), Shard(1, 2)]
    for shard in halves:
        await follow(await start(shard=shard))
    assert versions(tmp_path) == [3, 3]
    records.loads.clear()
    again = [await start(shard=shard) for shard in halves]
    assert records.loads == []
    assert [await who(matcher, records, 1) for matcher in again] == [[], ["p1"]]


async def test_a_gallery_that_left_during_its_merge_stays_away(
    start: Start, records: FakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = await start(folder=None)
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    merged = Gallery.rebased

    def rebased(gallery: Gallery, base: Base) -> Gallery:
        matcher._shelves.drop("default")
        return merged(gallery, base)

    monkeypatch.setattr(Gallery, "rebased", rebased)
    await matcher._upkeep.round()
    assert matcher.describe()["galleries"] == {}
    assert await who(matcher, records, 1) == ["p1"]


@pytest.mark.parametrize("with_files", [True, False])
@pytest.mark.parametrize("storage", ["float32", "int8"])
async def test_merging_while_searching_and_changing_gives_what_a_fresh_load_gives(
    records: FakeRecords,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_files: bool,
    storage: str,
) -> None:
    people = 200
    records.vectors = crowd(people)
    records.make("default", *range(people // 2))
    rng = np.random.default_rng(11)
    place = tmp_path / "galleries" if with_files else None
    matcher = await start(folder=place, storage=storage)
    monkeypatch.setattr(Gallery, "merge_due", property(lambda gallery: gallery.nbytes > 0))
    stop = False

    async def merge() -> None:
        while not stop:
            await matcher._upkeep.round()

    async def change_and_search() -> None:
        changes = 0
        while changes < 200 or matcher.describe()["merges"] < 5:
            changes, person = changes + 1, int(rng.integers(0, people))
            if person in records.people["default"]:
                records.remove(person)
                expected = False
            else:
                records.enrol(person)
                expected = True
            found = await who(matcher, records, person)
            assert (f"p{person}" in found) == expected

    merging = asyncio.create_task(merge())
    try:
        await change_and_search()
    finally:
        stop = True
        await merging
    assert matcher.describe()["merges_failed"] == 0
    fresh = await start(folder=None, storage=storage)
    assert [await who(matcher, records, n) for n in range(people)] == [
        await who(fresh, records, n) for n in range(people)
    ]
    assert default_of(matcher)["samples"] == len(records.people["default"])


async def test_the_upkeep_is_woken_by_loads_and_polls(records: FakeRecords, tmp_path: Path) -> None:
    tuning = MatcherTuning(poll_interval_s=0.01)
    matcher = Matcher(records, tuning, storage="float32", folder=tmp_path / "galleries")
    await matcher.start()
    async with asyncio.timeout(5):
        while not default_of(matcher)["in_file"]:
            await records.asked.wait()
    matcher.check()
    found = await matcher.match("default", "c1", EYE[:1], Query(1))
    assert [match.subject_id for match in found.matches[0]] == ["p0"]
    await matcher.close()
