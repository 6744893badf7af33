"""Embeddings as a face model makes them: several samples around each person, strangers near 0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from facegraph.columns import Texts
from facegraph.types import Contract, FloatArray, GalleryRecords, Head

IntArray = npt.NDArray[np.integer]

LIKENESS = 0.7
"""Cosine of two samples of one person, on average."""

KNOWN = 0.75
"""Part of the probes that show somebody enrolled; the others are strangers."""

PROBES = 512

_PART = 65_536


@dataclass(frozen=True, eq=False)
class People:
    """Who is enrolled, and who is looked for.

    embeddings: (n, dimension) float32 of length 1
    row_subjects: (n,) int32: whose sample each row is; nobody's samples lie side by side
    probes: (PROBES, dimension) float32 of length 1, samples that are not enrolled
    known: (PROBES,) bool: which of them show somebody who is
    """

    embeddings: FloatArray
    row_subjects: npt.NDArray[np.int32]
    probes: FloatArray
    known: npt.NDArray[np.bool_]
    per_subject: int

    @classmethod
    def of(cls, samples: int, dimension: int, *, per_subject: int = 4, seed: int = 0) -> People:
        """The same people for the same arguments, every time."""
        random = np.random.default_rng([seed, samples, dimension])
        row_subjects = random.permutation(np.arange(samples, dtype=np.int32) // per_subject)
        subjects = int(row_subjects.max()) + 1
        centres = np.empty((subjects, dimension), np.float32)
        for start in range(0, subjects, _PART):
            centres[start : start + _PART] = _units(random, centres[start : start + _PART].shape)
        embeddings = np.empty((samples, dimension), np.float32)
        for start in range(0, samples, _PART):
            rows = slice(start, start + _PART)
            embeddings[rows] = _around(random, centres[row_subjects[rows]])
        probes = _units(random, (PROBES, dimension))
        known = random.permutation(PROBES) < KNOWN * PROBES
        probes[known] = _around(random, centres[random.integers(0, subjects, known.sum())])
        return cls(embeddings, row_subjects, probes, known, per_subject)

    @property
    def samples(self) -> int:
        return len(self.embeddings)

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    @property
    def subjects(self) -> int:
        return int(self.row_subjects.max()) + 1

    @property
    def contract(self) -> Contract:
        """What the samples are enrolled under where no service says another."""
        return Contract(
            f"benchmark-{self.dimension}", "benchmark", "0" * 64, "arcface-112", self.dimension
        )

    @cached_property
    def records(self) -> GalleryRecords:
        """The people as an index takes them."""
        return GalleryRecords(
            Head("benchmark", 1, 1, self.contract.id, self.dimension, sample_count=self.samples),
            Texts.of(subject_id(number) for number in range(self.subjects)),
            Texts.of(f'["Person {number}", {{}}]' for number in range(self.subjects)),
            Texts.of(sample_id(row) for row in range(self.samples)),
            self.row_subjects,
            self.embeddings,
        )


def subject_id(number: int) -> str:
    """An id of the length that the service draws."""
    return f"00000000-0000-7000-8000-{number:012d}"


def sample_id(row: int) -> str:
    """An id of the length that the service draws."""
    return f"00000000-0000-7000-9000-{row:012d}"


def subject_number(text: str) -> int:
    """Whose :func:`subject_id` this is."""
    return int(text[-12:])


def stranger(random: np.random.Generator, dimension: int) -> FloatArray:
    """(dimension,) float32 of length 1: somebody who is like nobody."""
    return _units(random, (1, dimension)).reshape(dimension)


def _units(random: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    rows = random.standard_normal(shape, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _around(random: np.random.Generator, centres: FloatArray) -> FloatArray:
    rows = LIKENESS**0.5 * centres + (1 - LIKENESS) ** 0.5 * _units(random, centres.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows, np.float32)
