"""Exact top-k over subjects: one matrix product, then the few candidates scored exactly.

The product (BLAS, float32) only selects. What it selects is scored again by
:func:`facegraph.decisions.similarities`, whose values do not depend on how many probes or rows
went through together, so equal samples tie exactly and a decision is the same on every replica.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facegraph.decisions import similarities
from facegraph.gallery.snapshot import Snapshot
from facegraph.types import FloatArray, Match

ROUNDING = np.float32(1e-5)
"""More than a float32 product of two unit vectors can be off by."""

SCORES_PER_PASS = 16 * 2**20
"""Similarities held at once: 64 MiB of float32."""


def search(snapshot: Snapshot, probes: FloatArray, *, limit: int) -> tuple[tuple[Match, ...], ...]:
    """The best ``limit`` subjects for each probe, each with its best sample.

    probes: (n, dimension) float32, L2-normalised

    Order: similarity descending, then subject id, then sample id.
    """
    if not snapshot.rows:
        return ((),) * len(probes)
    step = max(1, SCORES_PER_PASS // snapshot.rows)
    found: list[tuple[Match, ...]] = []
    for start in range(0, len(probes), step):
        part = probes[start : start + step]
        scores = part @ snapshot.embeddings.T
        scores[:, snapshot.dead] = -np.inf
        found.extend(
            _best(snapshot, probe, row, limit) for probe, row in zip(part, scores, strict=True)
        )
    return tuple(found)


def _best(
    snapshot: Snapshot, probe: FloatArray, scores: FloatArray, limit: int
) -> tuple[Match, ...]:
    rows = _candidates(snapshot, scores, limit)
    values = similarities(snapshot.embeddings[rows], probe)
    ranked = sorted(
        (-float(value), snapshot.subject(row).id, snapshot.sample_ids[row], int(row))
        for row, value in zip(rows, values, strict=True)
    )
    best: dict[str, Match] = {}
    for negative, subject_id, sample_id, row in ranked:
        if subject_id not in best:
            if len(best) == limit:
                break
            record = snapshot.subject(row)
            best[subject_id] = Match(subject_id, sample_id, -negative, record.name, record.metadata)
    return tuple(best.values())


def _candidates(snapshot: Snapshot, scores: FloatArray, limit: int) -> npt.NDArray[np.intp]:
    """Rows that hold the best ``limit`` subjects' best samples, whatever the rounding.

    Takes ever more of the best rows until they name enough subjects: a subject with a thousand
    samples must not crowd the others out.
    """
    wanted = 4 * limit
    while wanted < snapshot.live:
        at = snapshot.rows - wanted
        cut = np.partition(scores, at)[at]
        if len(np.unique(snapshot.row_subjects[scores >= cut])) >= limit:
            return _contenders(snapshot, scores, np.flatnonzero(scores >= cut - ROUNDING))
        wanted *= 8
    return _contenders(snapshot, scores, np.flatnonzero(np.isfinite(scores)))


def _contenders(
    snapshot: Snapshot, scores: FloatArray, rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Those of ``rows`` that may be their subject's best once scored exactly."""
    best = np.full(len(snapshot.subjects), -np.inf, np.float32)
    subjects = snapshot.row_subjects[rows]
    np.maximum.at(best, subjects, scores[rows])
    return rows[scores[rows] >= best[subjects] - ROUNDING]
