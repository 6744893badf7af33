"""A detector's graph that was made to take several pictures gives what it gave for each alone."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from facegraph.faces.heads import HEADS
from facegraph.models.engines import Engine, open_engine
from facegraph.models.free_batch import free_batch
from facegraph.types import FloatArray
from tests.unit.detector_graphs import ANCHORS, Kind, detector
from tests.unit.graphs import serialised, value

pytestmark = pytest.mark.unit

SIDE = 96

CELLS = 12**2 + 6**2 + 3**2
"""Of the three strides."""


def opened(model: bytes) -> Engine:
    return open_engine(model, engine="onnxruntime", accelerator="cpu", exact=True)


def noise(count: int, side: int, seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "side", "batch"),
    [
        ("scrfd", None, 1),  # as det_500m.onnx: the last Transposes merge batch and cells
        ("scrfd", SIDE, 1),  # as ..._shape320x320.onnx: the Resize names the whole size, too
        ("yunet", None, 1),  # as the prepared YuNet: the Reshapes name a batch of 1
        ("yunet", SIDE, 1),
        ("scrfd", None, "n"),  # says that it takes several, and would mix their rows
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_gives_what_single_runs_give(
    kind: Kind, side: int | None, batch: int | str, count: int
) -> None:
    model = detector(kind, side, batch=batch)
    freed = free_batch(model)
    assert freed is not None
    engine, published = opened(freed), opened(model)
    assert engine.input_shape == (None, 3, side, side)
    pictures = noise(count, SIDE)
    together = engine.run(pictures)
    for at in range(count):
        alone = published.run(pictures[at : at + 1])
        for got, want in zip(together, alone, strict=True):
            assert np.array_equal(got[at], want.reshape(got.shape[1:]))


@pytest.mark.parametrize("kind", ["scrfd", "yunet"])
def test_the_faces_are_the_same(kind: Kind) -> None:
    """Down to a score at which some cells of every picture are candidates, and some are not."""
    model, head = detector(kind), HEADS[kind]
    freed = free_batch(model)
    assert freed is not None
    pictures = noise(4, SIDE)
    seen = head.decode_many(opened(freed).run(pictures), 4, SIDE, SIDE, 0.5)
    published = opened(model)
    for at, one in enumerate(seen):
        alone = head.decode(published.run(pictures[at : at + 1]), SIDE, SIDE, 0.5)
        assert 0 < len(alone.scores) < CELLS * ANCHORS[kind]
        assert np.array_equal(one.boxes, alone.boxes)
        assert np.array_equal(one.landmarks, alone.landmarks)
        assert np.array_equal(one.scores, alone.scores)


def mixing() -> bytes:
    """The mean over all pictures is taken from each of them."""
    constants = [numpy_helper.from_array(np.array(axes, np.int64), n) for n, axes in AXES.items()]
    return serialised(
        [
            helper.make_node("ReduceMean", ["input", "pictures"], ["mean"]),
            helper.make_node("Sub", ["input", "mean"], ["rest"]),
            helper.make_node("ReduceMean", ["rest", "columns"], ["out"], keepdims=0),
        ],
        [value("input", 1, 3, "h", "w")],
        [value("out", 1, 3, "h")],
        constants,
    )


AXES = {"pictures": [0], "columns": [3]}


def merged() -> bytes:
    """The rows of all pictures are put one after the other, in a way that is not known."""
    shape = numpy_helper.from_array(np.array([-1, 8], np.int64), "shape")
    node = helper.make_node("Reshape", ["input", "shape"], ["out"])
    return serialised([node], [value("input", 1, 3, 64, 64)], [value("out", "rows", 8)], [shape])


def of_one_size() -> bytes:
    """A Reshape that names all of its result's sides."""
    shape = numpy_helper.from_array(np.array([1, 1536, 8], np.int64), "shape")
    node = helper.make_node("Reshape", ["input", "shape"], ["out"])
    return serialised([node], [value("input", 1, 3, 64, 64)], [value("out", 1, 1536, 8)], [shape])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (mixing(), "would err by"),
        (merged(), "would err by inf"),
        (of_one_size(), "cannot be changed"),
        (b"nonsense", "cannot be changed"),
    ],
)
def test_what_cannot_be_freed_stays_as_it_is(
    model: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "facegraph"):
        assert free_batch(model) is None
    (record,) = caplog.records
    assert reason in record.getMessage()


def test_nothing_but_the_batch_is_changed() -> None:
    model = onnx.load_from_string(detector("scrfd"))
    freed = free_batch(detector("scrfd"))
    assert freed is not None
    after = onnx.load_from_string(freed)
    assert [node.op_type for node in after.graph.node] == [n.op_type for n in model.graph.node]
    assert list(after.graph.initializer)[: len(model.graph.initializer)] == list(
        model.graph.initializer
    )
    assert [value.name for value in after.graph.output] == [v.name for v in model.graph.output]
    assert free_batch(detector("scrfd")) == freed
