"""Which rows are held back together: folds of a cross-validation, and a test set."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from facegraph.recognizers.training_set import ClassArray

LEAST_LEFT = 2
"""Rows that a class keeps to be trained and chosen on."""

_FOLDS, _HELD_OUT = 0, 1
"""What a seed is drawn for: the two splits have nothing to do with each other."""


def fold_count(classes: ClassArray, most: int = 5) -> int:
    """As many as the smallest class has rows, so that each fold has one of every class; 2..most."""
    sizes = np.bincount(classes)
    return max(2, min(most, int(sizes[sizes > 0].min())))


def stratified_folds(classes: ClassArray, k: int, seed: int) -> ClassArray:
    """(n,) int32, the fold of each row, 0..k-1.

    Two folds differ by one row at most, and by one row of each class at most. The same for the
    same classes and seed.
    """
    draw = np.random.default_rng((seed, _FOLDS))
    folds = np.empty(len(classes), np.int32)
    dealt = 0
    for each in np.unique(classes):
        rows = draw.permutation(np.flatnonzero(classes == each))
        folds[rows] = (dealt + np.arange(len(rows))) % k
        dealt += len(rows)
    return folds


def held_out(classes: ClassArray, seed: int, share: float = 0.2) -> npt.NDArray[np.bool_]:
    """(n,) bool, the rows that nothing is trained or chosen on.

    ``share`` of each class, rounded down, and none that would leave it fewer than two.
    """
    draw = np.random.default_rng((seed, _HELD_OUT))
    chosen = np.zeros(len(classes), np.bool_)
    for each in np.unique(classes):
        rows = draw.permutation(np.flatnonzero(classes == each))
        most = max(0, len(rows) - LEAST_LEFT)
        chosen[rows[: min(most, math.floor(share * len(rows)))]] = True
    return chosen
