"""What collections were at each of their versions, to hold a search's answer against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from facegraph.decisions import similarities
from facegraph.types import Contract, FloatArray, Match, NewSample
from tests.store.making import CONTRACT

EVERYBODY = 100

Told = tuple[str, str, float, str | None]
"""Subject id, sample id, similarity, name."""


@cache
def points(dimension: int) -> FloatArray:
    """(8, dimension) float32, L2-normalised; what is enrolled, and what is looked for."""
    rows = np.random.default_rng(dimension).normal(size=(8, dimension))
    rows[6] = rows[1] + 1e-5 * rows[2]
    rows[7] = rows[0]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@cache
def _table(dimension: int) -> list[list[float]]:
    rows = points(dimension)
    table: list[list[float]] = np.array([similarities(rows, probe) for probe in rows]).tolist()
    return table


@dataclass(frozen=True, eq=False)
class World:
    """A collection at one version.

    subjects: id → name; samples: id → (subject id, row of :func:`points`)
    """

    version: int = 0
    contract: Contract = CONTRACT
    subjects: Mapping[str, str | None] = field(default_factory=dict)
    samples: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @cached_property
    def told(self) -> list[list[Told]]:
        """For each of the points everybody, best first."""
        return [self._ranked(row) for row in _table(self.contract.dimension)]

    def _ranked(self, row: Sequence[float]) -> list[Told]:
        best: dict[str, Told] = {}
        for negative, subject, sample in sorted(
            (-row[point], subject, sample) for sample, (subject, point) in self.samples.items()
        ):
            best.setdefault(subject, (subject, sample, -negative, self.subjects[subject]))
        return list(best.values())


@dataclass(frozen=True, eq=False)
class Enrolment:
    """A subject with new samples; ``anew``: in place of what it has.

    samples: id → row of :func:`points`
    """

    subject: str
    name: str
    samples: Mapping[str, int]
    contract: Contract = CONTRACT
    anew: bool = False

    def new_samples(self) -> list[NewSample]:
        rows = points(self.contract.dimension)
        return [NewSample(rows[point], id=sample) for sample, point in self.samples.items()]

    def after(self, world: World) -> World:
        kept = dict(world.samples)
        if self.anew:
            kept = {key: held for key, held in kept.items() if held[0] != self.subject}
        kept |= {sample: (self.subject, point) for sample, point in self.samples.items()}
        contract = self.contract if self.samples else world.contract
        subjects = {**world.subjects, self.subject: self.name}
        return World(world.version + 1, contract, subjects, kept)


@dataclass(frozen=True, eq=False)
class Erasure:
    """A subject goes, or one of its samples."""

    subject: str
    sample: str | None = None

    def after(self, world: World) -> World:
        subjects, kept = dict(world.subjects), dict(world.samples)
        if self.sample is not None:
            del kept[self.sample]
        else:
            del subjects[self.subject]
            kept = {key: held for key, held in kept.items() if held[0] != self.subject}
        return World(world.version + 1, world.contract, subjects, kept)


@dataclass(frozen=True, eq=False)
class Clearing:
    """Everybody goes."""

    def after(self, world: World) -> World:
        return World(world.version + 1, world.contract)


Write = Enrolment | Erasure | Clearing


class Life:
    """One incarnation of a collection: a world for each version."""

    def __init__(self, contract: Contract = CONTRACT, version: int = 0) -> None:
        self.worlds = {version: World(version, contract)}
        self.threshold: float | None = None

    @property
    def now(self) -> World:
        return self.worlds[max(self.worlds)]

    def take(self, written: Mapping[int, Write]) -> None:
        """Writes by the versions they were answered: dense, and in the order of commits."""
        for version in sorted(written):
            assert version == self.now.version + 1
            self.worlds[version] = written[version].after(self.now)


def told(matches: Sequence[Sequence[Match]]) -> list[list[Told]]:
    """What a search answered, as worlds tell it."""
    return [[(m.subject_id, m.sample_id, m.similarity, m.name) for m in row] for row in matches]
