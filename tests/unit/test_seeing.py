"""Looks that run together give what each gives alone, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph.faces.heads import HEADS, Candidates
from facegraph.faces.looks import Look
from facegraph.faces.seeing import Sight
from facegraph.models.engines import Engine, open_engine
from facegraph.models.shared import SharedEngine, open_shared
from facegraph.types import FloatArray
from tests.unit.detector_graphs import Kind, detector

pytestmark = pytest.mark.unit


class CountingEngine:
    """A CPU's engine that says what it gains from, and remembers the shapes of its runs."""

    def __init__(self, model: Path | bytes, best_batch: int) -> None:
        self._engine = open_engine(model, engine="onnxruntime", accelerator="cpu", exact=True)
        self.best_batch = best_batch
        self.published = isinstance(model, Path)
        self.runs: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: FloatArray) -> list[FloatArray]:
        self.runs.append(batch.shape)
        return self._engine.run(batch)


class Opening:
    """Opens engines, and keeps them to be asked."""

    def __init__(self, best_batch: int) -> None:
        self._best_batch = best_batch
        self.opened: list[CountingEngine] = []

    def __call__(self, model: Path | bytes) -> Engine:
        self.opened.append(CountingEngine(model, self._best_batch))
        return self.opened[-1]


@pytest.fixture(params=["scrfd", "yunet"])
def kind(request: pytest.FixtureRequest) -> Kind:
    name: Kind = request.param
    return name


@pytest.fixture
def file(kind: Kind, tmp_path: Path) -> Path:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector(kind))
    return path


def looks(*kinds: tuple[int, int, float]) -> list[Look]:
    """From height, width and least score; the pixels are noise."""
    rng = np.random.default_rng(4)
    return [Look(rng.integers(0, 256, (h, w, 3), np.uint8), least) for h, w, least in kinds]


MIXED = looks(
    (64, 64, 0.5),
    (64, 96, 0.5),
    (64, 64, 0.5),
    (64, 64, 0.7),  # another score: it is decoded by itself
    (64, 96, 0.5),
    (64, 64, 0.5),
    (64, 64, 0.5),
)


def equal(one: Sequence[Candidates], other: Sequence[Candidates]) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("boxes", "landmarks", "scores")
    )


@pytest.mark.parametrize(
    ("best_batch", "max_batch", "sizes"),
    [
        (1, 8, [1] * 7),  # a CPU
        (8, 8, [1, 2, 4]),  # four of one kind, two of another, one
        (8, 2, [1, 2, 2, 2]),
        (8, 1, [1] * 7),
    ],
)
def test_looks(kind: Kind, file: Path, best_batch: int, max_batch: int, sizes: list[int]) -> None:
    opening = Opening(best_batch)
    sight = Sight(open_shared(file, max_batch, opening, may_gain=True), HEADS[kind])
    seen = sight.see(MIXED)
    assert sorted(shape[0] for shape in opening.opened[-1].runs) == sizes
    alone = Sight(CountingEngine(file, 1), HEADS[kind])
    assert equal(seen, [one for look in MIXED for one in alone.see([look])])
    assert sum(len(one.scores) for one in seen) > 20
    assert sight.see([]) == []


def test_a_new_limit_holds_from_the_next_run_on(kind: Kind, file: Path) -> None:
    opening = Opening(8)
    sight = Sight(open_shared(file, 8, opening, may_gain=True), HEADS[kind])
    sight.limit(2)
    assert sight.most == 2
    assert len(sight.see(looks(*[(64, 64, 0.5)] * 4))) == 4
    assert [shape[0] for shape in opening.opened[-1].runs] == [2, 2]


def test_a_limit_that_changes_meanwhile_loses_nothing(
    kind: Kind, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(8)
    sight = Sight(open_shared(file, 4, opening, may_gain=True), HEADS[kind])
    engine = opening.opened[-1]
    run = engine.run

    def changing(batch: FloatArray) -> list[FloatArray]:
        sight.limit(1 if sight.most > 1 else 4)
        return run(batch)

    monkeypatch.setattr(engine, "run", changing)
    many = looks(*[(64, 64, 0.5)] * 9)
    seen = sight.see(many)
    alone = Sight(CountingEngine(file, 1), HEADS[kind])
    assert equal(seen, [one for look in many for one in alone.see([look])])


@pytest.mark.parametrize(
    ("best_batch", "may_gain", "published", "shared"),
    [
        (1, False, True, False),  # no GPU
        (64, True, False, True),  # a GPU
        (1, True, False, False),  # one that did not work, so it went on with the CPU
    ],
)
def test_which_graph_runs(
    file: Path, best_batch: int, may_gain: bool, published: bool, shared: bool
) -> None:
    opening = Opening(best_batch)
    engine = open_shared(file, 16, opening, may_gain=may_gain)
    assert [made.published for made in opening.opened] == [published]
    assert isinstance(engine, SharedEngine) == shared
    assert engine.input_shape == (1 if published else None, 3, None, None)
    assert Sight(engine, HEADS["scrfd"]).most == (16 if shared else 1)


def test_what_cannot_be_changed_runs_as_it_is(
    kind: Kind, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.models.free_batch.TOLERANCE", -1.0)
    opening = Opening(64)
    engine = open_shared(file, 16, opening, may_gain=True)
    assert engine is opening.opened[0]
    sight = Sight(engine, HEADS[kind])
    assert (sight.most, len(sight.see(MIXED))) == (1, 7)
