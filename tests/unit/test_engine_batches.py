"""How the embedder cuts crops into runs, and what it gives the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from facegraph.faces import embedding
from facegraph.faces.embedding import EmbeddingModel
from facegraph.faces.heads import ScrfdHead
from facegraph.faces.trials import crop_blob, detector_trial, embedder_trial
from facegraph.models.packs import EmbedderModel
from facegraph.models.places import ModelFile
from facegraph.types import ByteArray, FloatArray

pytestmark = pytest.mark.unit

MEAN, STD = (127.5, 100.0, 90.0), (127.5, 64.0, 32.0)


def model(color: Literal["rgb", "bgr"] = "rgb") -> EmbedderModel:
    file = ModelFile("net.onnx", Path("net.onnx"), "", known=False)
    return EmbedderModel("fake", file, 4, color, MEAN, STD)


class FakeEngine:
    """Row i of a run becomes (its first pixel, 1, 1, rows of the run); keeps the runs' sizes."""

    provider, choice = "fake", None

    def __init__(self, name: str, batch: int | None, best_batch: int) -> None:
        self.name, self.best_batch = name, best_batch
        self.input_shape = (batch, 3, 112, 112)
        self.runs: list[int] = []

    def run(self, batch: FloatArray) -> list[FloatArray]:
        self.runs.append(len(batch))
        rows = np.ones((len(batch), 4), np.float32)
        rows[:, 0], rows[:, 3] = batch[:, 0, 0, 0], 0
        return [rows]


def opened(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> EmbeddingModel:
    pack: Any = SimpleNamespace(embedder=model(), name="fake")
    monkeypatch.setattr(embedding, "open_engine", lambda *_, **__: engine)
    return EmbeddingModel(pack)


def crops(n: int, seed: int = 0) -> ByteArray:
    return np.random.default_rng(seed).integers(0, 256, (n, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "fixed", "best", "n", "runs"),
    [
        ("openvino", None, 1, 3, [1, 1, 1]),
        ("openvino", None, 4, 6, [4, 1, 1]),
        ("openvino", None, 16, 38, [16, 16, 4, 1, 1]),  # it compiles for each size
        ("openvino", 8, 1, 9, [8, 8]),  # the network takes eight: padded
        ("onnxruntime", None, 16, 38, [16, 16, 6]),  # any size costs nothing
        ("onnxruntime", None, 64, 70, [64, 6]),
        ("onnxruntime", 1, 64, 2, [1, 1]),
        ("onnxruntime", None, 4, 0, []),
    ],
)
def test_runs(
    name: str,
    fixed: int | None,
    best: int,
    n: int,
    runs: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine(name, fixed, best)
    pictures = crops(n)
    rows = opened(engine, monkeypatch).embed(pictures)
    assert engine.runs == runs
    first = (pictures[:, 0, 0, 0] - np.float32(MEAN[0])) / np.float32(STD[0])
    assert np.allclose(rows[:, 0] / rows[:, 1], first, atol=1e-5)  # in the order of the crops
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


def test_warm_up_runs_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine("openvino", None, 16)
    opened(engine, monkeypatch).warm_up()
    assert engine.runs == [1, 4, 16]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_blob(color: Literal["rgb", "bgr"]) -> None:
    pictures = crops(3)
    blob = crop_blob(pictures, model(color))
    ordered = pictures if color == "rgb" else pictures[..., ::-1]
    wanted = (ordered - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert blob.dtype == np.float32
    assert blob.flags.c_contiguous
    assert np.array_equal(blob, wanted.transpose(0, 3, 1, 2))


def test_what_is_tried(tmp_path: Path) -> None:
    """Inputs and sizes follow the network's own."""
    embedder, detector = (
        embedder_trial(model(), tmp_path),
        detector_trial(ScrfdHead(), 16, tmp_path),
    )
    free, fixed = (None, 3, 112, 112), (2, 3, 112, 112)
    assert [one.shape for one in embedder.inputs(free)] == [(1, 3, 112, 112)] * 7
    assert [one.shape for one in embedder.inputs(fixed)] == [(2, 3, 112, 112)] * 7
    assert embedder.shapes(free) == [(1, 3, 112, 112), (64, 3, 112, 112)]
    assert embedder.shapes(fixed) == [(2, 3, 112, 112)]
    assert [one.shape for one in detector.inputs((1, 3, None, None))] == [(1, 3, 448, 640)] * 2
    assert [one.shape for one in detector.inputs((1, 3, 320, 320))] == [(1, 3, 320, 320)] * 2
    sizes = np.array(detector.shapes((None, 3, None, None)))
    assert sizes.min(axis=0).tolist() == [1, 3, 256, 256]
    assert sizes.max(axis=0).tolist() == [16, 3, 640, 640]
    assert detector.batches == (1,)
