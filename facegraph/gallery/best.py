"""The best subjects of several probes so far, scored exactly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from facegraph.gallery.snapshot import Rows, Snapshot
from facegraph.types import FloatArray, Match

Probes = npt.NDArray[np.intp]


def first_of_each(probe: Probes, subjects: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which of (n,) sorted pairs are the first of their probe and subject."""
    first = np.ones(len(probe), np.bool_)
    first[1:] = (probe[1:] != probe[:-1]) | (subjects[1:] != subjects[:-1])
    return first


class Best:
    """For each probe the best ``limit`` subjects among the rows offered, each with its best row.

    Order: similarity descending, then subject id, then sample id.

    cuts: (probes,) what a row must reach to change anything; -inf while subjects are lacking
    """

    def __init__(self, snapshot: Snapshot, probes: FloatArray, limit: int) -> None:
        self._snapshot, self._probes, self._limit = snapshot, probes, limit
        self._probe: Probes = np.empty(0, np.intp)
        self._rows: Rows = np.empty(0, np.intp)
        self._subjects: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._similarities: FloatArray = np.empty(0, np.float32)
        self.cuts = np.full(len(probes), -np.inf)

    def offer(self, probe: Probes, rows: Rows) -> None:
        """Takes in ``rows[i]`` for ``probe[i]``; removed rows are passed over."""
        alive = self._snapshot.alive(rows)
        probe, rows = probe[alive], rows[alive]
        subjects = self._snapshot.subjects_of(rows)
        self._merge(probe, rows, subjects, self._snapshot.similarities(rows, self._probes[probe]))

    def join(self, other: Best) -> None:
        """Takes in what ``other`` found for the same probes in other rows."""
        self._merge(other._probe, other._rows, other._subjects, other._similarities)

    def matches(self) -> list[tuple[Match, ...]]:
        """For each probe its subjects, best first."""
        found = self._snapshot.matches(self._rows, self._subjects, self._similarities)
        edges = np.searchsorted(self._probe, np.arange(len(self._probes) + 1)).tolist()
        return [tuple(found[start:end]) for start, end in pairwise(edges)]

    def _merge(
        self,
        probe: Probes,
        rows: Rows,
        subjects: npt.NDArray[np.int32],
        similarities: FloatArray,
    ) -> None:
        if not len(rows):
            return
        self._probe = np.concatenate([self._probe, probe])
        self._rows = np.concatenate([self._rows, rows])
        self._subjects = np.concatenate([self._subjects, subjects])
        self._similarities = np.concatenate([self._similarities, similarities])
        self._keep(self._one_per_subject())
        self._keep(self._best_of_each())

    def _keep(self, kept: npt.NDArray[np.intp]) -> None:
        self._probe, self._rows = self._probe[kept], self._rows[kept]
        self._subjects, self._similarities = self._subjects[kept], self._similarities[kept]

    def _one_per_subject(self) -> npt.NDArray[np.intp]:
        order = np.lexsort((self._rows, -self._similarities, self._subjects, self._probe))
        first = first_of_each(self._probe[order], self._subjects[order])
        starts = np.flatnonzero(first)
        group = np.cumsum(first) - 1
        rows, best = self._rows[order], self._similarities[order]
        equal = best == best[starts][group]
        tied = np.zeros(len(starts), np.bool_)
        tied[group[equal & (rows != rows[starts][group])]] = True
        chosen = order[starts]
        least: dict[int, str] = {}
        for at in np.flatnonzero(equal & tied[group]).tolist():
            one, sample_id = int(group[at]), self._snapshot.sample_id(rows[at])
            if one not in least or sample_id < least[one]:
                least[one], chosen[one] = sample_id, order[at]
        return chosen

    def _best_of_each(self) -> npt.NDArray[np.intp]:
        limit = self._limit
        order = np.lexsort((-self._similarities, self._probe))
        probe, best = self._probe[order], self._similarities[order]
        starts = np.searchsorted(probe, np.arange(len(self._probes) + 1))
        rank = np.arange(len(order)) - starts[probe]
        ties = (probe[1:] == probe[:-1]) & (best[1:] == best[:-1])
        for one in np.unique(probe[1:][ties]):
            part = slice(starts[one], starts[one + 1])
            order[part] = sorted(
                order[part],
                key=lambda at: (
                    -self._similarities[at],
                    self._snapshot.subject_id(int(self._subjects[at])),
                ),
            )
        kept = order[rank < limit]
        full = np.flatnonzero(np.diff(starts) >= limit)
        self.cuts[full] = best[starts[full] + limit - 1]
        return kept
