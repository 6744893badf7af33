"""Exact top-k over subjects: scores of codes choose rows, their float32 embeddings decide.

Every row is chosen whose score, with its bounds, may reach the best subjects found so far; chosen
rows are scored again by :func:`facegraph.decisions.pair_similarities`, whose values do not depend
on how many probes or rows went through together. So the answer is that of float32 brute force
whatever the codes are, equal samples tie exactly, and a decision is the same on every replica.
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from facegraph.gallery.approximate import widening
from facegraph.gallery.best import Best, first_of_each
from facegraph.gallery.codes import float_codes
from facegraph.gallery.scoring import Coded, Pairs, Scores
from facegraph.gallery.snapshot import Rows, Snapshot
from facegraph.types import FloatArray, Match

PROBES_PER_PASS = 128
"""Scored together; a block's scores then take 4 MiB."""

_MANY_PAIRS = 32_768

_CHEAPER_EXACTLY = 16
"""An exact search costs less than candidates for a probe from one in so many rows."""


def search(
    snapshot: Snapshot,
    probes: FloatArray,
    *,
    limit: int,
    approximate: bool = False,
    pool: Executor | None = None,
    threads: int = 1,
) -> tuple[tuple[Match, ...], ...]:
    """The best ``limit`` subjects for each probe, each with its best sample.

    probes: (n, dimension) float32, L2-normalised
    approximate: the base's rows may be chosen by the snapshot's approximate index, if it has one
    pool: where ``threads`` - 1 more of its threads may help

    Order: similarity descending, then subject id, then sample id.
    """
    if not snapshot.live:
        return ((),) * len(probes)
    found: list[tuple[Match, ...]] = []
    for start in range(0, len(probes), PROBES_PER_PASS):
        part = np.ascontiguousarray(probes[start : start + PROBES_PER_PASS], np.float32)
        best = _approximate(snapshot, part, limit, pool) if approximate else None
        best = best or _exact(snapshot, part, limit, pool, threads)
        found.extend(best.matches())
    return tuple(found)


def _exact(
    snapshot: Snapshot, probes: FloatArray, limit: int, pool: Executor | None, threads: int
) -> Best:
    shared = np.full(len(probes), -np.inf)
    codes = snapshot.base.codes
    stripes = 1 if pool is None else max(1, min(threads, codes.stripes))
    runs = [_Run(snapshot, codes, 0, probes, limit, shared) for _ in range(stripes)]
    helpers = [
        pool.submit(run.over, at, stripes)
        for at, run in enumerate(runs)
        if pool is not None and at > 0
    ]
    runs[0].over(0, stripes)
    best = _among_added(snapshot, probes, limit, shared)
    for helper in helpers:
        helper.result()
    for run in runs:
        best.join(run.best)
    return best


def _among_added(
    snapshot: Snapshot, probes: FloatArray, limit: int, shared: npt.NDArray[np.float64]
) -> Best:
    codes = float_codes(snapshot.added.embeddings, snapshot.added.longest)
    run = _Run(snapshot, codes, snapshot.base.rows, probes, limit, shared)
    run.over()
    return run.best


def _approximate(
    snapshot: Snapshot, probes: FloatArray, limit: int, pool: Executor | None
) -> Best | None:
    """What the approximate index finds; None where it would have to name too many rows."""
    if snapshot.approximation is None:
        return None
    index = snapshot.approximation.index
    best = _among_added(snapshot, probes, limit, np.full(len(probes), -np.inf))
    lacking = np.arange(len(probes))
    for wanted in widening(limit, index.rows):
        if wanted * _CHEAPER_EXACTLY > index.rows:
            return None
        rows = index.candidates(probes[lacking], wanted, pool=pool)
        best.offer(
            np.repeat(lacking, [len(some) for some in rows]), np.concatenate(rows).astype(np.intp)
        )
        lacking = lacking[np.isneginf(best.cuts[lacking])]
        if not len(lacking):
            break
    return best


class _Run:
    """One thread's way over the rows of one array, which begins at row ``first``.

    shared: (probes,) the best cuts of all runs
    """

    def __init__(
        self,
        snapshot: Snapshot,
        codes: Coded,
        first: int,
        probes: FloatArray,
        limit: int,
        shared: npt.NDArray[np.float64],
    ) -> None:
        self.best = Best(snapshot, probes, limit)
        self._snapshot, self._codes, self._first = snapshot, codes, first
        self._probes, self._limit, self._shared = probes, limit, shared
        self._chosen: list[tuple[npt.NDArray[np.intp], Rows]] = []
        self._pairs = 0
        self._scanned = 0

    def over(self, at: int = 0, stride: int = 1) -> None:
        """Looks at the rows of every ``stride``-th step from ``at`` on."""
        scores = self._codes.scores(self._probes)
        settle_at = 1
        for step in range(at, len(scores.factors), stride):
            scores.compute(step)
            first = self._first + step * scores.rows_per_step
            if not self._scanned:
                # Of a first step some of the best, so that most of the others can be left out.
                seed = scores.top(4 * self._limit)
                self._offer(seed.probes, seed.rows + first)
            self._choose(step, scores, first)
            self._scanned += 1
            if self._pairs > _MANY_PAIRS or self._scanned >= settle_at:
                self._settle()
                settle_at = 4 * self._scanned
        self._settle()

    def _choose(self, step: int, scores: Scores, first: int) -> None:
        factors, margins = scores.factors[step], scores.margins[step]
        pairs = scores.reaching((self._shared - margins) / factors)
        if len(pairs.rows) > _MANY_PAIRS:
            near, margin = scores.at(pairs) * factors[pairs.probes], margins[pairs.probes]
            pairs = pairs.take(self._contenders(pairs, first, near - margin, near + margin))
        self._chosen.append((pairs.probes, pairs.rows + first))
        self._pairs += len(pairs.rows)

    def _contenders(
        self,
        pairs: Pairs,
        first: int,
        lower: npt.NDArray[np.float64],
        upper: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.intp]:
        """Those pairs that may be the best of their subject, by the bounds of each."""
        alive = np.flatnonzero(self._snapshot.alive(pairs.rows + first))
        subjects = self._snapshot.subjects_of(pairs.rows[alive] + first)
        order = np.lexsort((subjects, pairs.probes[alive]))
        alive, subjects = alive[order], subjects[order]
        new = first_of_each(pairs.probes[alive], subjects)
        best = np.maximum.reduceat(lower[alive], np.flatnonzero(new))
        kept: npt.NDArray[np.intp] = alive[upper[alive] >= best[np.cumsum(new) - 1]]
        return kept

    def _settle(self) -> None:
        if self._pairs:
            probe = np.concatenate([probe for probe, _ in self._chosen])
            rows = np.concatenate([rows for _, rows in self._chosen])
            self._chosen, self._pairs = [], 0
            self._offer(probe, rows)

    def _offer(self, probe: npt.NDArray[np.intp], rows: Rows) -> None:
        self.best.offer(probe, rows)
        # Two threads may lose one of two updates here; a lower cut only costs time.
        np.maximum(self._shared, self.best.cuts, out=self._shared)
