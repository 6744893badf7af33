"""The default segmenter's graph: its real weights against the network in torch, and photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facegraph.config import settings_from
from facegraph.errors import ModelMissing
from facegraph.models.engines import EngineName, open_engine
from facegraph.models.torchfile import Array, Checkpoint, Record
from facegraph.models.vision_packs import SegmenterModel, find_segmenter
from facegraph.types import FloatArray
from facegraph.vision.labels import COCO_LABELS
from tests.photos import assets, pixels
from tests.yolov5_network import SegmentationModel

pytestmark = pytest.mark.model

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def model() -> SegmenterModel:
    try:
        return find_segmenter(settings_from(), "yolov5s-seg")
    except ModelMissing as error:
        pytest.skip(str(error))


def state_of(opened: Checkpoint, module: Record, prefix: str = "") -> dict[str, Array]:
    """Every tensor of a module of a checkpoint, by its name in a state dict."""
    found = {}
    for name, value in (module.state["_parameters"] | module.state["_buffers"]).items():
        if value is not None:
            found[prefix + name] = opened.tensor(value)
    for name, part in module.state["_modules"].items():
        found |= state_of(opened, part, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("name", ENGINES)
def test_real_weights_give_what_the_network_in_torch_gives(
    model: SegmenterModel, name: EngineName
) -> None:
    """Unfused, from the published file, every key used; at a size that is not square."""
    torch.set_num_threads(1)
    published = model.file.path.with_name(model.file.name)
    opened = Checkpoint(published.read_bytes())
    network = SegmentationModel(
        (32, 64, 128, 256, 512), (1, 2, 3, 1), classes=80, masks=32, inner=128
    ).eval()
    state = {
        key: torch.from_numpy(value.astype(np.float32))
        for key, value in state_of(opened, opened.root["model"]).items()
    }
    assert not any(network.load_state_dict(state, strict=True))
    images = np.random.default_rng(5).random((2, 3, 96, 160), np.float32)
    with torch.inference_mode():
        wanted = [value.numpy() for value in network(torch.from_numpy(images))]
    engine = open_engine(model.file.path, engine=name, accelerator="cpu", exact=True)
    got = engine.run(images)
    assert [value.shape for value in got] == [(2, 945, 117), (2, 32, 24, 40)]
    for ours, theirs in zip(got, wanted, strict=True):
        assert np.abs(ours - theirs).max() < 1e-3


def letterboxed(path: Path) -> tuple[FloatArray, float]:
    """(1, 3, h, w) in 0..1 with at most 640 pixels a side, multiples of 32, grey at the margins;
    and the scale."""
    rgb = pixels(path)
    height, width = rgb.shape[:2]
    scale = 640 / max(height, width)
    size = round(width * scale), round(height * scale)
    canvas = np.full((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32, 3), 114, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(rgb, size)
    return (canvas.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32), scale


BY_EYE: dict[str, dict[str, tuple[int, int, int, int]]] = {
    # photo: what is in it, and where its clearest instance is (x1 y1 x2 y2), checked by eye
    "darknet/dog.jpg": {"dog": (132, 217, 314, 542)},
    "darknet/horses.jpg": {"horse": (5, 184, 316, 411)},
    "darknet/giraffe.jpg": {"zebra": (248, 207, 425, 439), "giraffe": (164, 29, 427, 446)},
    "darknet/eagle.jpg": {"bird": (129, 83, 603, 442)},
    "darknet/person.jpg": {
        "horse": (405, 138, 600, 345),
        "person": (190, 99, 275, 375),
        "dog": (64, 264, 204, 348),
    },
    "ultralytics/bus.jpg": {"person": (223, 405, 348, 859), "bus": (9, 218, 799, 793)},
}
SURE = 0.65
NEAR_PX = 12


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("photo", BY_EYE)
def test_the_strongest_predictions_are_right(
    model: SegmenterModel, name: EngineName, photo: str
) -> None:
    """In the engine's own precision: what it is sure of, the surest first, and where."""
    images, scale = letterboxed(assets("photos", *photo.split("/")))
    engine = open_engine(model.file.path, engine=name, accelerator="cpu")
    rows, prototypes = (output[0] for output in engine.run(images))
    assert prototypes.shape == (32, images.shape[2] // 4, images.shape[3] // 4)
    scores = rows[:, 4, None] * rows[:, 5:85]
    best = scores.max(0)
    sure = [int(kind) for kind in np.argsort(-best) if best[kind] > SURE]
    assert [COCO_LABELS[kind] for kind in sure] == list(BY_EYE[photo])
    for kind, box in zip(sure, BY_EYE[photo].values(), strict=True):
        x, y, width, height = rows[scores[:, kind].argmax(), :4] / scale
        found = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        assert found == pytest.approx(box, abs=NEAR_PX)
