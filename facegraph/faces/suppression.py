"""One box per face out of the many that a network answers, and what those many agree on.

Many boxes are compared at once, so a picture with a hundred faces costs some products of arrays
and not a pass over all boxes for each of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facegraph.faces.heads import Candidates
from facegraph.types import FloatArray

MAX_CANDIDATES = 5000
"""Best-scored boxes looked at in one image; a group photo has some hundred."""

VOTE_OVERLAP = 0.5

BLOCK = 128
"""Boxes whose pairs are compared before those they cover are left out of the rest."""

MAX_PAIRS = 2**18
"""Pairs of a face and a candidate that are compared at once: some MB."""


def suppressed(boxes: FloatArray, scores: FloatArray, iou: float) -> npt.NDArray[np.intp]:
    """Rows that no better-scored box covers by ``iou`` or more, best first; ties in order."""
    left = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    kept = [left[:0]]
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        best = block[_uncovered(overlaps(boxes[block], boxes[block]) >= iou)]
        left = left[~(overlaps(boxes[best], boxes[left]) >= iou).any(axis=0)]
        kept.append(best)
    return np.concatenate(kept)


def votes(rows: npt.NDArray[np.intp], seen: Candidates) -> FloatArray:
    """The landmarks (n, 5, 2) that all candidates agree on for the boxes of these ``rows``, each by
    its squared score.

    A network answers for one face from several cells; their mean is steadier than the best.
    """
    step = max(1, MAX_PAIRS // max(1, len(seen.scores)))
    parts = [_votes(rows[at : at + step], seen) for at in range(0, len(rows), step)]
    return np.concatenate([np.zeros((0, 5, 2), np.float32), *parts])


def overlaps(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of each of ``boxes`` with each of ``others``: (n, m) float32."""
    x1, y1, x2, y2 = boxes.T[:, :, None]
    left, top, right, bottom = others.T
    width = np.clip(np.minimum(x2, right) - np.maximum(x1, left), 0, None)
    common = width * np.clip(np.minimum(y2, bottom) - np.maximum(y1, top), 0, None)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - common
    return np.asarray(common / np.maximum(union, 1e-9), np.float32)


def _uncovered(covers: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Rows left when each, from the first on, removes those after it that it covers.

    covers: (n, n). A round settles every row that nothing unsettled covers; chains are short.
    """
    covers = np.triu(covers, 1)
    kept = np.zeros(len(covers), np.bool_)
    unsettled = ~kept
    while unsettled.any():
        sure = unsettled & ~covers[unsettled].any(axis=0)
        kept |= sure
        unsettled &= ~sure & ~covers[sure].any(axis=0)
    return kept


def _votes(rows: npt.NDArray[np.intp], seen: Candidates) -> FloatArray:
    near = overlaps(seen.boxes[rows], seen.boxes) >= VOTE_OVERLAP
    near[np.arange(len(rows)), rows] = True  # reduceat wants a vote for every face
    faces, cells = np.nonzero(near)
    weights = seen.scores[cells].astype(np.float64) ** 2
    points = seen.landmarks[cells].reshape(-1, 10) * weights[:, None]
    begins = np.searchsorted(faces, np.arange(len(rows)))
    sums = np.add.reduceat(np.column_stack([points, weights]), begins)
    mean = sums[:, :10] / np.maximum(sums[:, 10:], 1e-9)
    return mean.astype(np.float32).reshape(-1, 5, 2)
