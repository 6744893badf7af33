"""Real detectors with a free batch: what they see in several pictures is what they see in each.

Engines on a CPU gain nothing from batches, so one is made to say that it does; a GPU takes the same
way.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facegraph.config import DetectorTuning, Settings
from facegraph.errors import InvalidImage, ModelUnavailable
from facegraph.faces import detection
from facegraph.faces.detection import Detector
from facegraph.faces.heads import HEADS
from facegraph.models.engines import Engine, open_engine
from facegraph.models.free_batch import free_batch
from facegraph.models.packs import FacePack
from facegraph.models.shared import SharedEngine
from facegraph.types import ByteArray, Detection, FloatArray
from facegraph.workers import DetectorWorker
from tests.photos import ASTRONAUT, GROUP, GROUP_FACES, NO_FACE, PORTRAIT, assets, encoded, pixels

pytestmark = pytest.mark.model

FILES = {
    "det_500m.onnx": "scrfd",
    "scrfd_2.5g_bnkps.onnx": "scrfd",
    "scrfd_500m_bnkps_shape320x320.onnx": "scrfd",
    "yunet_n_640_640.onnx": "yunet",
    "yunet_n_dynamic.onnx": "yunet",
}

PHOTOS = (GROUP, ASTRONAUT, PORTRAIT, NO_FACE)


def opened(model: Path | bytes) -> Engine:
    return open_engine(model, engine="onnxruntime", accelerator="cpu", exact=True)


def canvas(path: Path, side: int) -> ByteArray:
    return np.asarray(cv2.resize(pixels(path), (side, side)), np.uint8)


@pytest.mark.parametrize("name", ["opencv", *FILES])
def test_a_batch_gives_what_single_runs_give(name: str, opencv_pack: FacePack) -> None:
    """Bit for bit; where the size is fixed, onnxruntime fuses other nodes: within 1e-5."""
    file = opencv_pack.detector.file.path if name == "opencv" else assets("detect", name)
    head = HEADS[FILES.get(name, "yunet")]
    freed = free_batch(file)
    assert freed is not None
    engine, published = opened(freed), opened(file)
    assert engine.input_shape == (None, *published.input_shape[1:])
    side = engine.input_shape[2] or 320
    blobs = [head.blob(canvas(path, side)) for path in PHOTOS]
    together = engine.run(np.concatenate(blobs))
    for at, blob in enumerate(blobs):
        for got, want in zip(together, published.run(blob), strict=True):
            if name == "scrfd_500m_bnkps_shape320x320.onnx":
                assert np.allclose(got[at], want.reshape(got[at].shape), atol=1e-5)
            else:
                assert np.array_equal(got[at], want.reshape(got[at].shape))
    seen = head.decode_many(together, len(blobs), side, side, 0.6)
    assert len(seen[0].scores) >= GROUP_FACES
    assert len(seen[1].scores) >= 1
    assert len(seen[3].scores) == 0


class Gaining:
    """An engine that says it gains from batches; counts them, and fails at a grey of 77."""

    best_batch = 8

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: FloatArray) -> list[FloatArray]:
        self.batches.append(len(batch))
        if (batch[:, :, 40, 40] == 77).any():
            raise ModelUnavailable("the model could not run")
        return self._engine.run(batch)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Gaining]:
    """Those that detectors open from now on."""
    made: list[Gaining] = []

    def open_gaining(model: Path | bytes, **options: Any) -> Gaining:
        made.append(Gaining(open_engine(model, **(options | {"accelerator": "cpu"}))))
        return made[-1]

    monkeypatch.setattr(detection, "open_engine", open_gaining)
    monkeypatch.setattr(detection, "cuda_available", lambda: True)
    return made


def same(one: Detection, other: Detection) -> bool:
    return all(
        np.array_equal(getattr(one.faces, name), getattr(other.faces, name))
        for name in ("boxes", "landmarks", "detection_scores")
    ) and np.array_equal(one.crops, other.crops)


async def test_neighbours_are_not_harmed(detector: Detector, engines: list[Gaining]) -> None:
    """A damaged picture, one that the network fails at and one whose client goes away."""
    worker = DetectorWorker(Settings(engine="onnxruntime"), DetectorTuning(max_batch=8))
    photos = [path.read_bytes() for path in PHOTOS] * 4
    poison = encoded(np.full((200, 200, 3), 77, np.uint8))
    tasks = [
        asyncio.create_task(worker.detect(data, max_faces=20, crops=True))
        for data in (*photos[:5], photos[0][:5000], poison, *photos[5:])
    ]
    damaged, poisoned, gone = tasks[5], tasks[6], tasks.pop(9)
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(InvalidImage):
        await damaged
    with pytest.raises(ModelUnavailable):
        await poisoned
    wanted = [detector.detect(data, max_faces=20, crops=True) for data in photos[:4]]
    answers = [await task for task in (*tasks[:5], *tasks[7:])]
    kept = [*range(7), *range(8, len(photos))]
    assert len(answers) == len(kept)
    assert all(same(got, wanted[at % 4]) for at, got in zip(kept, answers, strict=True))
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert max(engines[-1].batches) > 1
    await worker.close()


def test_tiles_of_one_picture_run_together(opencv_pack: FacePack, engines: list[Gaining]) -> None:
    rgb = np.zeros((3000, 4000, 3), np.uint8)
    rgb[1000:1886, 1500:2780] = pixels(GROUP)
    plain = Detector(opencv_pack, DetectorTuning(max_batch=1), engine="onnxruntime")
    batched = Detector(opencv_pack, DetectorTuning(max_batch=8), engine="onnxruntime")
    assert (plain.at_once, batched.at_once) == (1, 8)
    want, got = plain.detect_pixels(rgb), batched.detect_pixels(rgb)
    assert len(got) == GROUP_FACES
    assert np.array_equal(got.boxes, want.boxes)
    assert np.array_equal(got.landmarks, want.landmarks)
    assert set(engines[0].batches) == {1}
    assert max(engines[1].batches) == 8


def test_a_network_that_cannot_be_changed(
    opencv_pack: FacePack,
    engines: list[Gaining],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes on with one picture a run."""
    monkeypatch.setattr("facegraph.models.free_batch.TOLERANCE", -1.0)
    with caplog.at_level(logging.WARNING, "facegraph"):
        detector = Detector(opencv_pack, DetectorTuning(max_batch=8), engine="onnxruntime")
    assert len([r for r in caplog.records if r.name == "facegraph.models.free_batch"]) == 1
    assert detector.at_once == 1
    assert len(detector.detect_pixels(pixels(GROUP))) == GROUP_FACES
    assert set(engines[-1].batches) == {1}


def test_every_size_is_warm(opencv_pack: FacePack, engines: list[Gaining]) -> None:
    detector = Detector(opencv_pack, DetectorTuning(max_batch=4), engine="onnxruntime")
    detector.warm_up()
    sizes = SharedEngine(engines[-1], 4).sizes
    assert engines[-1].batches == sizes * 7
