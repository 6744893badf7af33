"""Greedy non-maximum suppression within each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray


def suppress(
    boxes: FloatArray, classes: npt.NDArray[np.int64], iou: float, limit: int
) -> npt.NDArray[np.intp]:
    """The first ``limit`` rows that no kept earlier row of their class covers by more than ``iou``.

    boxes: (n, 4) float32 x1 y1 x2 y2, none empty, the preferred ones first; classes: (n,)
    """
    kept: list[np.intp] = []
    left = np.arange(len(boxes))
    while len(left) and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(best)
        covered = overlaps(boxes[best], boxes[left]) > iou
        left = left[~covered | (classes[left] != classes[best])]
    return np.array(kept, np.intp)


def overlaps(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of one box, (4,), with each of ``boxes``, (n, 4): (n,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    both = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(both / (np.prod(box[2:] - box[:2]) + areas - both), np.float32)
