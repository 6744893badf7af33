"""What brute force answers: every float32 row in float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gallery.people import IntArray, People
from benchmarks.gallery.turns import Way

LIMIT = 5
"""Subjects asked for, everywhere."""

_PART = 32_768


@dataclass(frozen=True, slots=True)
class Recall:
    """Of the probes asked.

    top_1: part whose best subject is right; known: the same of probes that show somebody enrolled
    top_5: of the five best, the part found
    """

    top_1: float
    known: float
    top_5: float


def best_subjects(people: People) -> list[list[int]]:
    """The best ``LIMIT`` subjects of each probe.

    So many rows are kept that they name enough subjects, whoever they belong to.
    """
    keep = min(people.samples, LIMIT * people.per_subject)
    probes = people.probes.astype(np.float64)
    values = np.empty((len(probes), 0))
    rows = np.empty((len(probes), 0), np.intp)
    for start in range(0, people.samples, _PART):
        part = probes @ people.embeddings[start : start + _PART].astype(np.float64).T
        best = _highest(part, min(keep, part.shape[1]))
        values = np.hstack([values, np.take_along_axis(part, best, 1)])
        rows = np.hstack([rows, best + start])
        best = _highest(values, min(keep, values.shape[1]))
        values, rows = np.take_along_axis(values, best, 1), np.take_along_axis(rows, best, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return grouped(np.take_along_axis(rows, order, 1), people.row_subjects)


def grouped(rows: IntArray, row_subjects: npt.NDArray[np.int32]) -> list[list[int]]:
    """The first ``LIMIT`` subjects that rows, (n, k), best first, belong to."""
    return [list(dict.fromkeys(line))[:LIMIT] for line in row_subjects[rows].tolist()]


def recall(
    way: Way,
    numbers: Callable[[Any], list[list[int]]],
    people: People,
    truth: Sequence[Sequence[int]],
    *,
    batch: int,
    seconds: float,
) -> Recall:
    """How ``way`` answers, of as many probes as it manages in about ``seconds``."""
    found: list[list[int]] = []
    end = time.perf_counter() + seconds
    while len(found) < len(truth) and (not found or time.perf_counter() < end):
        found += numbers(way(people.probes[len(found) : len(found) + batch]))
    pairs = list(zip(found, truth, strict=False))
    right = np.array([got[:1] == wanted[:1] for got, wanted in pairs])
    shared = [len(set(got) & set(wanted)) / len(wanted) for got, wanted in pairs]
    known = people.known[: len(right)]
    return Recall(float(right.mean()), float(right[known].mean()), float(np.mean(shared)))


def _highest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    return np.argpartition(values, values.shape[1] - count, axis=1)[:, -count:]
