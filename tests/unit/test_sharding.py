"""Searches over shards: merged as if there were none, and nothing lost in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegraph import sharding
from facegraph.errors import (
    CollectionNotFound,
    ContractMismatch,
    FacegraphError,
    GalleryBehind,
    ModelUnavailable,
    Overloaded,
    ShardUnavailable,
    StoreUnavailable,
    TimedOut,
)
from facegraph.graph import Query
from facegraph.sharding import ShardedSearch, merged
from facegraph.types import WHOLE, FloatArray, Match, SearchResult, Shard

PROBES = np.zeros((1, 2), np.float32)
WHOLLY = Query(3)
PARTLY = Query(3, partial=True)


def match(subject: str, similarity: float, sample: str = "x") -> Match:
    return Match(subject, sample, similarity, None, {})


def answer(version: int, *found: Match, threshold: float | None = None) -> SearchResult:
    """Of one probe."""
    return SearchResult(version, threshold, (found,))


Outcome = SearchResult | BaseException | Callable[[], Awaitable[SearchResult]]


class FakeMatcher:
    """Answers each search with the next of ``outcomes``, the last one again and again."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[Shard] = []
        self.asked_at: list[tuple[str, int] | None] = []
        self.cancelled = 0

    async def __call__(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query, shard: Shard
    ) -> SearchResult:
        assert (collection_id, contract_id) == ("c", "k")
        self.asked.append(shard)
        self.asked_at.append(query.at)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, SearchResult):
            return outcome
        if isinstance(outcome, BaseException):
            raise outcome
        try:
            return await outcome()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def never() -> SearchResult:
    await asyncio.Event().wait()
    raise AssertionError


async def searched(matchers: Sequence[FakeMatcher], query: Query = WHOLLY) -> SearchResult:
    return await ShardedSearch(matchers).match("c", "k", PROBES, query)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "PATIENCE_S", 0.05)


GALLERY = st.dictionaries(
    st.text("abcé", min_size=1, max_size=3),
    st.sampled_from([0.9, 0.5, 0.5000001, -0.2]),
    max_size=9,
)


@given(
    galleries=st.lists(GALLERY, min_size=1, max_size=3),
    count=st.integers(1, 5),
    limit=st.integers(1, 6),
    data=st.data(),
)
def test_merged_as_if_never_shared(
    galleries: list[dict[str, float]], count: int, limit: int, data: st.DataObject
) -> None:
    """One gallery per probe, so that several probes differ; equal similarities are common."""

    def best(found: Mapping[str, float], shard: int | None = None) -> tuple[Match, ...]:
        rows = [match(s, v) for s, v in found.items() if shard is None or home[s] == shard]
        return tuple(sorted(rows, key=lambda m: (-m.similarity, m.subject_id))[:limit])

    names = {name for found in galleries for name in found}
    home = {name: data.draw(st.integers(0, count - 1)) for name in sorted(names)}
    answers = {
        shard: SearchResult(7, 0.4, tuple(best(found, shard) for found in galleries))
        for shard in range(count)
    }
    whole = tuple(best(found) for found in galleries)
    assert merged(answers, count, limit) == SearchResult(7, 0.4, whole, (), count)


@pytest.mark.parametrize(
    ("answers", "version", "threshold"),
    [
        ({0: answer(5, threshold=0.3), 1: answer(4, threshold=0.4)}, 4, 0.3),  # read later: newer
        ({0: answer(4, threshold=0.4), 1: answer(5)}, 4, None),  # taken away meanwhile
        ({1: answer(6, threshold=0.4), 2: answer(6, threshold=0.4)}, 6, 0.4),
    ],
)
def test_the_version_is_the_least_and_the_threshold_the_newest(
    answers: dict[int, SearchResult], version: int, threshold: float | None
) -> None:
    found = merged(answers, 3, 5)
    assert (found.version, found.threshold) == (version, threshold)
    assert found.missing_shards == tuple({0, 1, 2} - answers.keys())


def test_no_probes_no_matches() -> None:
    nothing = SearchResult(3, None, ())
    assert merged({0: nothing, 1: nothing}, 2, 5).matches == ()


async def test_one_shard_is_asked_as_the_whole_and_answers_for_itself() -> None:
    whole = answer(1, match("a", 0.5))
    matcher = FakeMatcher(whole)
    assert await searched([matcher], PARTLY) is whole
    assert matcher.asked == [WHOLE]
    with pytest.raises(Overloaded, match="full"):
        await searched([FakeMatcher(Overloaded("full"))], PARTLY)


async def test_all_shards_are_asked_at_once() -> None:
    together = asyncio.Barrier(3)

    async def meet() -> SearchResult:
        await together.wait()
        return answer(1)

    matchers = [FakeMatcher(meet) for _ in range(3)]
    assert (await searched(matchers)).shards == 3
    assert [matcher.asked for matcher in matchers] == [[Shard(i, 3)] for i in range(3)]


HERE = answer(1, match("a", 0.5), match("b", 0.4))
THERE = answer(1, match("c", 0.45))


@pytest.mark.parametrize(
    "lost",
    [
        GalleryBehind("behind"),
        StoreUnavailable("no database"),
        Overloaded("full"),
        TimedOut("too slow"),
        ModelUnavailable("replicas are being replaced"),
        ShardUnavailable("the number of shards is being changed"),
    ],
    ids=lambda error: error.code,
)
async def test_a_lost_shard_is_told(lost: FacegraphError, caplog: pytest.LogCaptureFixture) -> None:
    matchers = [FakeMatcher(HERE), FakeMatcher(lost), FakeMatcher(THERE)]
    with pytest.raises(ShardUnavailable) as caught:
        await searched(matchers)
    assert str(caught.value) == f"1 of 3 shards cannot be searched now (shard 1: {lost})"
    assert caught.value.errors == ({"shard": 1, "code": lost.code, "detail": lost.detail},)
    assert caplog.records == []
    found = await searched(matchers, PARTLY)
    assert [m.subject_id for m in found.matches[0]] == ["a", "c", "b"]
    assert (found.missing_shards, found.shards) == ((1,), 3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"partial answers, for want of shard 1: {lost}"


async def test_the_log_is_not_flooded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ShardedSearch([FakeMatcher(HERE), FakeMatcher(Overloaded("full"))])
    for _ in range(100):
        await search.match("c", "k", PROBES, PARTLY)
    assert len(caplog.records) == 1
    monkeypatch.setattr(sharding, "TELL_EVERY_S", 0.0)
    for _ in range(2):
        await ShardedSearch([FakeMatcher(HERE), FakeMatcher(Overloaded("full"))]).match(
            "c", "k", PROBES, PARTLY
        )
    assert len(caplog.records) == 3


@pytest.mark.parametrize("query", [WHOLLY, PARTLY])
@pytest.mark.parametrize(
    "error",
    [
        CollectionNotFound("deleted meanwhile"),
        ContractMismatch("another model"),
        FacegraphError("a bug"),  # neither is a loss, so no part is an answer
    ],
    ids=lambda error: error.code,
)
async def test_what_is_no_loss_is_the_answer(error: FacegraphError, query: Query) -> None:
    matchers = [FakeMatcher(HERE), FakeMatcher(Overloaded("full")), FakeMatcher(error)]
    with pytest.raises(FacegraphError) as caught:
        await searched(matchers, query)
    assert caught.value is error


@pytest.mark.parametrize("query", [WHOLLY, PARTLY])
async def test_all_lost(query: Query) -> None:
    away = StoreUnavailable("no database")
    with pytest.raises(StoreUnavailable) as caught:  # no shard is to blame
        await searched([FakeMatcher(away), FakeMatcher(away)], query)
    assert caught.value is away
    with pytest.raises(ShardUnavailable, match="2 of 2 shards"):
        await searched([FakeMatcher(away), FakeMatcher(Overloaded("full"))], query)


async def test_a_bug_is_not_swallowed_and_ends_the_others() -> None:
    hung = FakeMatcher(never)
    search = asyncio.ensure_future(searched([FakeMatcher(ZeroDivisionError()), hung], WHOLLY))
    await asyncio.sleep(0)
    assert not search.done()  # what the others say may matter more
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert hung.cancelled == 1
    with pytest.raises(ZeroDivisionError):
        await searched([FakeMatcher(ZeroDivisionError()), FakeMatcher(HERE)], PARTLY)


async def test_a_partial_search_does_not_wait_for_a_shard_that_hangs() -> None:
    hung = FakeMatcher(never)
    found = await searched([FakeMatcher(HERE), hung, FakeMatcher(Overloaded("full"))], PARTLY)
    assert (found.missing_shards, hung.cancelled) == ((1, 2), 1)


async def test_a_slow_shard_is_waited_for_as_long_as_none_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quickest sets the pace: a failure does not, however early."""
    monkeypatch.setattr(sharding, "PATIENCE_S", 3600.0)
    failed = asyncio.Event()

    async def fails() -> SearchResult:
        failed.set()
        raise Overloaded("full")

    async def slow() -> SearchResult:
        await failed.wait()
        return HERE

    found = await searched([FakeMatcher(fails), FakeMatcher(slow), FakeMatcher(slow)], PARTLY)
    assert found.missing_shards == (0,)


def moved(version: int, *found: Match, stamp: str = "", incarnation: str = "i") -> SearchResult:
    return replace(answer(version, *found), stamp=stamp, incarnation=incarnation)


@pytest.mark.parametrize(
    ("first", "second", "rounds", "found"),
    [
        # A person enrolled anew at 11 in shard 1, whose old subject goes from shard 0 at 12: the
        # first answers show neither, so shard 0 tells of 10.
        ([moved(12), moved(10, match("old", 0.9))], [moved(10)], (2, 1), ["old"]),
        # It was merged meanwhile and cannot tell, so everybody is asked anew.
        ([moved(12)], [moved(10), moved(12, match("new", 0.9))], (3, 2), ["new"]),
        # The collection was deleted and made again between the two: shard 0 told of the old one.
        (
            [moved(90, match("old", 0.9), incarnation="j"), moved(2)],
            [moved(2)],
            (2, 2),
            [],
        ),
        # The same, where a backup came as far as what was lost: only its stamp tells.
        (
            [moved(2, match("old", 0.9), stamp="of the old"), moved(2, stamp="of the new")],
            [moved(2, stamp="of the new")],
            (2, 2),
            [],
        ),
    ],
)
async def test_parts_of_different_versions_are_asked_for_again(
    first: list[Outcome], second: list[Outcome], rounds: tuple[int, int], found: list[str]
) -> None:
    one, other = FakeMatcher(*first), FakeMatcher(*second)
    result = await searched([one, other])
    assert [m.subject_id for m in result.matches[0]] == found
    assert (len(one.asked), len(other.asked)) == rounds


async def test_who_is_ahead_is_asked_for_the_version_of_the_last() -> None:
    one, other = FakeMatcher(moved(12), moved(10)), FakeMatcher(moved(10))
    assert (await searched([one, other])).version == 10
    assert one.asked_at == [None, ("i", 10)]
    assert other.asked_at == [None]


async def test_parts_that_never_agree_are_no_answer() -> None:
    with pytest.raises(GalleryBehind, match="one version"):
        await searched([FakeMatcher(moved(12)), FakeMatcher(moved(10))])


async def test_eventual_takes_what_is_there() -> None:
    one, other = FakeMatcher(answer(4)), FakeMatcher(answer(3, match("a", 0.9)))
    found = await searched([one, other], replace(WHOLLY, consistency="eventual"))
    assert (found.version, len(one.asked), len(other.asked)) == (3, 1, 1)


async def test_a_shard_lost_between_the_rounds() -> None:
    def shards() -> list[FakeMatcher]:
        return [FakeMatcher(answer(4, match("a", 0.9))), FakeMatcher(answer(3), Overloaded("full"))]

    with pytest.raises(ShardUnavailable, match=r"1 of 2 shards .*shard 1: full"):
        await searched(shards())
    found = await searched(shards(), PARTLY)
    assert (found.version, found.missing_shards) == (4, (1,))
