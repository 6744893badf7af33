"""Collections that are searched approximately, because they say so or are large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from facegraph.config import MatcherTuning
from facegraph.gallery.approximate import Approximate
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import SearchMode
from tests.unit.fake_records import FakeRecords, who
from tests.unit.test_gallery import unit
from tests.unit.test_matcher_upkeep import follow

PEOPLE = 5000


@pytest.fixture(scope="module")
def crowd() -> FakeRecords:
    records = FakeRecords(unit(np.random.default_rng(4).normal(size=(PEOPLE + 3, 128))))
    records.make("default", *range(PEOPLE))
    return records


@pytest.fixture
async def matcher(crowd: FakeRecords) -> AsyncIterator[Matcher]:
    matcher = Matcher(crowd, MatcherTuning(poll_interval_s=60))
    matcher._upkeep.start = lambda: None  # type: ignore[method-assign]  # the test's rounds
    await matcher.start()
    yield matcher
    await matcher.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates approximate indexes were asked for."""
    wanted: list[int] = []
    candidates = Approximate.candidates

    def counted(self: Approximate, probes: Any, number: int, **options: Any) -> Any:
        wanted.append(number)
        return candidates(self, probes, number, **options)

    monkeypatch.setattr(Approximate, "candidates", counted)
    return wanted


def described(matcher: Matcher) -> dict[str, Any]:
    gallery = matcher.describe_gallery("default")
    assert gallery is not None
    return gallery


@pytest.mark.parametrize(
    ("mode", "above", "approximate", "reason"),
    [
        ("auto", None, False, "nobody asked for it"),
        ("auto", PEOPLE - 1, True, "it has more samples than that"),
        ("auto", PEOPLE, False, "it has no more than that"),
        ("exact", 1, False, "its own choice stands above the size"),
        ("approximate", None, True, "its own choice"),
    ],
)
async def test_who_is_searched_approximately(
    crowd: FakeRecords,
    matcher: Matcher,
    asked: list[int],
    mode: SearchMode,
    above: int | None,
    approximate: bool,
    reason: str,
) -> None:
    crowd.change(search_mode=mode)
    matcher.reconfigure(MatcherTuning(poll_interval_s=60, approximate_above=above))
    assert described(matcher)["search"] == "exact"
    await follow(matcher)
    asked.clear()
    assert await who(matcher, crowd, 77) == ["p77"]
    assert (asked == [256]) == approximate, reason
    gallery = described(matcher)
    assert gallery["search"] == ("approximate" if approximate else "exact")
    if approximate:
        recall = gallery["approximate"]["recall"]
        assert (recall["limit"], recall["probes"]) == (5, 256)
        assert recall["at_1"] > 0.9


async def test_changes_show_at_once_and_a_collection_may_change_its_mind(
    crowd: FakeRecords, matcher: Matcher, asked: list[int]
) -> None:
    crowd.change(search_mode="approximate")
    await follow(matcher)
    assert described(matcher)["search"] == "approximate"
    crowd.enrol(PEOPLE)
    crowd.remove(5)
    asked.clear()
    assert await who(matcher, crowd, PEOPLE) == [f"p{PEOPLE}"]
    assert await who(matcher, crowd, 5) == []
    assert asked == [256, 256]
    crowd.change(search_mode="exact")
    assert await who(matcher, crowd, 6) == ["p6"]
    assert asked == [256, 256]
    await follow(matcher)
    assert described(matcher)["approximate"] is None


async def test_what_must_not_miss_anybody_is_searched_exactly(
    crowd: FakeRecords, matcher: Matcher, asked: list[int]
) -> None:
    crowd.change(search_mode="approximate")
    await follow(matcher)
    asked.clear()
    probe = crowd.vectors[8:9]
    queries = [Query(1, exact=True), Query(1), Query(1, exact=True)]
    answers = await asyncio.gather(*(matcher.match("default", "c1", probe, q) for q in queries))
    assert [answer.matches[0][0].subject_id for answer in answers] == ["p8", "p8", "p8"]
    assert asked == [256]


async def test_a_merge_keeps_it_approximate(
    crowd: FakeRecords, matcher: Matcher, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.change(search_mode="approximate")
    await follow(matcher)
    monkeypatch.setattr("facegraph.matching.upkeep.ERASE_AFTER_S", 0.0)
    crowd.remove(9)
    await follow(matcher)
    assert matcher.describe()["merges"] == 1
    assert described(matcher)["search"] == "approximate"
    assert await who(matcher, crowd, 9) == []
    assert await who(matcher, crowd, 10) == ["p10"]
    assert len(asked) > 1
