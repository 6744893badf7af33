"""How often an approximate search finds what an exact one finds, on a collection's own data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facegraph.gallery.approximate import BuildCancelled
from facegraph.types import FloatArray, Match

Search = Callable[[FloatArray, int], Sequence[Sequence[Match]]]
"""Probes (m, d) and a limit in; the best subjects of each out, best first."""

_PROBES_PER_PASS = 64
_NOISE_ROWS = 1024
_PAIRS = 1024
_USUAL_CLOSENESS = 0.5
_LEAST_CLOSENESS, _MOST_CLOSENESS = 0.25, 0.95


@dataclass(frozen=True, slots=True)
class Recall:
    """Of the exact search's subjects, the share that the approximate one finds, in 0..1.

    at_1: of the best subjects alone
    at_limit: of the best ``limit``
    probes: how many searches this was measured by
    """

    at_1: float
    at_limit: float
    limit: int
    probes: int


def measure_recall(
    exact: Search,
    approximate: Search,
    probes: FloatArray,
    *,
    limit: int = 5,
    cancelled: Callable[[], bool] = lambda: False,
) -> Recall:
    """Both searches' answers to probes (m, d) compared; m > 0.

    Subjects that are as similar as one the exact search names are as good. BuildCancelled is
    raised within some probes of ``cancelled()``.
    """
    if not len(probes):
        raise ValueError("recall needs at least one probe")
    first: list[float] = []
    every: list[float] = []
    for start in range(0, len(probes), _PROBES_PER_PASS):
        if cancelled():
            raise BuildCancelled
        some = probes[start : start + _PROBES_PER_PASS]
        for truth, found in zip(exact(some, limit), approximate(some, limit), strict=True):
            first.append(_found(truth[:1], found[:1]))
            every.append(_found(truth, found))
    return Recall(float(np.mean(first)), float(np.mean(every)), limit, len(probes))


def _found(truth: Sequence[Match], found: Sequence[Match]) -> float:
    """The share of ``truth`` in ``found``."""
    if not truth:
        return 1.0
    subjects, least = {match.subject_id for match in truth}, truth[-1].similarity
    good = sum(match.subject_id in subjects or match.similarity >= least for match in found)
    return min(good, len(truth)) / len(truth)


def recall_probes(
    embeddings: FloatArray, row_subjects: npt.NDArray[np.int32], count: int, *, seed: int = 0
) -> FloatArray:
    """New pictures of enrolled people, as (count, d) float32, made of a collection's own samples.

    embeddings: (n, d) float32, L2-normalised, n > 0; some thousand rows are read
    row_subjects: (n,) index of each row's subject

    A row itself is no honest probe: it finds itself at similarity 1, whatever the index. So each
    probe is a random row moved away from it, in a direction that varies as the collection does
    (a random mixture of other rows, without their mean), until it is as near to the row as some
    two samples of one person in this collection are to each other; 0.5 where nobody has two.
    It then is near one sample, where a true picture is near all of that person's: recall is a
    little higher in use. Strangers are no probes, for they are near nobody: which of many far
    subjects comes first says nothing. Such far ones do fill the places after the first.
    """
    random = np.random.default_rng(seed)
    rows = random.choice(len(embeddings), count, replace=count > len(embeddings))
    origins = np.asarray(embeddings[rows], np.float64)
    noise = _noise(embeddings, count, random)
    noise -= np.einsum("nd,nd->n", noise, origins)[:, np.newaxis] * origins
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    near = random.choice(_closeness(embeddings, row_subjects, random), count)[:, np.newaxis]
    probes = near * origins + np.sqrt(1 - near**2) * noise
    unit: FloatArray = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _noise(
    embeddings: FloatArray, count: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Directions with the covariance of ``embeddings``, a little of every other beside."""
    size = min(len(embeddings), _NOISE_ROWS)
    rows = np.sort(random.choice(len(embeddings), size, replace=False))
    some = np.asarray(embeddings[rows], np.float64)
    some -= some.mean(axis=0)
    mixed = random.standard_normal((count, size)) @ some / np.sqrt(size)
    mixed += 0.01 * random.standard_normal(mixed.shape) / np.sqrt(mixed.shape[1])
    return np.asarray(mixed, np.float64)


def _closeness(
    embeddings: FloatArray, row_subjects: npt.NDArray[np.int32], random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Similarities of two different samples of one subject, of a random part of the subjects."""
    chosen = random.choice(len(row_subjects), min(len(row_subjects), _PAIRS), replace=False)
    rows = np.flatnonzero(np.isin(row_subjects, row_subjects[chosen]))
    rows = rows[np.lexsort((random.random(len(rows)), row_subjects[rows]))]
    same = np.flatnonzero(row_subjects[rows[1:]] == row_subjects[rows[:-1]])
    same = random.permutation(same)[:_PAIRS]
    left, right = embeddings[rows[same]], embeddings[rows[same + 1]]
    near = np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64))
    near = near[near < _MOST_CLOSENESS]
    if not len(near):
        return np.array([_USUAL_CLOSENESS])
    return np.asarray(np.maximum(near, _LEAST_CLOSENESS), np.float64)
