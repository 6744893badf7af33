"""How soon an enrolment is seen: by strong searches, and by eventual ones.

Strong is fresh by law: the first search after the answer sees the sample, or none. So what it costs
is measured: the time of that first search, on another matcher than the one before, beside an
ordinary one. Eventual sees it when its matcher has polled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import numpy as np

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.people import stranger
from benchmarks.gallery.report import Table
from facegraph.config import MatcherTuning
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.store import Store
from facegraph.types import FloatArray, NewSample, SearchResult

COLUMNS = ("what", "times", "p50 ms", "p99 ms", "of an ordinary one", "not seen")

STRONG_A_SECOND, EVENTUAL_A_SECOND = 600, 120
"""Enrolments for each second of a turn."""

ENROLMENT, FIRST, ORDINARY = "enrolment", "first search after it", "ordinary search"

_LOOK_S = 0.002


def run(cell: Cell) -> None:
    """Adds the table; only where ``cell`` is the largest."""
    if cell.largest:
        asyncio.run(_run(cell, cell.database))


async def _run(cell: Cell, url: str) -> None:
    cell.say("freshness")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(url))
        matchers = [ours.matcher(await stack.enter_async_context(Store.open(url))) for _ in "ab"]
        for matcher in matchers:
            await matcher.start()
            stack.push_async_callback(matcher.close)
        people = _Enrolments(cell, store)
        table = cell.report.table("freshness", f"{cell}: freshness, two matchers", COLUMNS)
        strong = await _strong(people, matchers, int(STRONG_A_SECOND * cell.options.seconds))
        _add(table, ENROLMENT, strong[ENROLMENT])
        parts = [
            first / ordinary
            for first, ordinary in zip(strong[FIRST], strong[ORDINARY], strict=True)
        ]
        _add(table, FIRST, strong[FIRST], float(np.median(parts)), people.unseen)
        _add(table, ORDINARY, strong[ORDINARY])
        delays = await _eventual(people, matchers, int(EVENTUAL_A_SECOND * cell.options.seconds))
        _add(table, "delay, eventual", delays)
        polled = MatcherTuning().poll_interval_s
        table.notes.append(
            f"A matcher polls every {polled:g} s; strong searches do not wait for it."
        )


class _Enrolments:
    """Strangers who are enrolled one by one."""

    def __init__(self, cell: Cell, store: Store) -> None:
        self.random = np.random.default_rng(cell.options.seed)
        self.cell, self.unseen, self._store = cell, 0, store

    async def enrol(self) -> tuple[FloatArray, str]:
        """The probe that finds whom, when the enrolment is acknowledged."""
        embedding = stranger(self.random, self.cell.dimension)
        contract = self.cell.people.contract
        enrolled = await self._store.create_subject(
            COLLECTION, contract=contract, samples=[NewSample(embedding)]
        )
        return embedding[None], enrolled.subject.id

    async def search(self, matcher: Matcher, probe: FloatArray, query: Query) -> SearchResult:
        return await matcher.match(COLLECTION, self.cell.people.contract.id, probe, query)


async def _strong(
    people: _Enrolments, matchers: Sequence[Matcher], times: int
) -> dict[str, list[float]]:
    """Seconds of enrolments, of first searches and of ordinary ones."""
    took: dict[str, list[float]] = {ENROLMENT: [], FIRST: [], ORDINARY: []}
    for number in range(max(2, times)):
        matcher = matchers[number % len(matchers)]
        began = time.perf_counter()
        probe, subject_id = await people.enrol()
        enrolled = time.perf_counter()
        found = await people.search(matcher, probe, ours.SEARCH)
        first = time.perf_counter()
        await people.search(matcher, probe, ours.SEARCH)
        took[ENROLMENT].append(enrolled - began)
        took[FIRST].append(first - enrolled)
        took[ORDINARY].append(time.perf_counter() - first)
        people.unseen += _best(found) != subject_id
    return took


async def _eventual(people: _Enrolments, matchers: Sequence[Matcher], times: int) -> list[float]:
    """Seconds until each was seen, at any moment between two polls."""
    delays = []
    interval = MatcherTuning().poll_interval_s
    for number in range(max(2, times)):
        await asyncio.sleep(float(people.random.uniform(0, interval)))
        probe, subject_id = await people.enrol()
        began = time.perf_counter()
        matcher = matchers[number % len(matchers)]
        found = await people.search(matcher, probe, ours.EVENTUAL)
        while _best(found) != subject_id:
            await asyncio.sleep(_LOOK_S)
            found = await people.search(matcher, probe, ours.EVENTUAL)
        delays.append(time.perf_counter() - began)
    return delays


def _best(found: SearchResult) -> str:
    return found.matches[0][0].subject_id


def _add(
    table: Table,
    name: str,
    took: Sequence[float],
    of_ordinary: float | None = None,
    unseen: int | None = None,
) -> None:
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    table.add(name, len(took), float(p50), float(p99), of_ordinary, unseen)
