"""Segmenters on photos: what is in them, looked up by eye, and masks that lie in their boxes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from facegraph.config import settings_from
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.places import Licence, ModelFile
from facegraph.models.vision_packs import DEFAULT_SEGMENTER, SegmenterModel, find_segmenter
from facegraph.types import ByteArray, Segmentation, SegmentOptions
from facegraph.vision.masks import box_iou, decode, window_of
from facegraph.vision.selection import select
from facegraph.vision.yolo import YoloSegmenter
from tests.photos import GROUP, GROUP_FACES, assets, pixels

pytestmark = pytest.mark.model

LIKELY = SegmentOptions(top_k=100, score_threshold=0.25)

PHOTOS: dict[str, dict[str, int]] = {
    "darknet/dog.jpg": {"dog": 1, "bicycle": 1, "truck": 1},
    "darknet/eagle.jpg": {"bird": 1},
    "darknet/giraffe.jpg": {"giraffe": 1, "zebra": 1},
    "darknet/horses.jpg": {"horse": 4},
    "darknet/kite.jpg": {"kite": 5, "person": 5},
    "darknet/person.jpg": {"person": 1, "dog": 1, "horse": 1},
    "detectron/19064748793_bb942deea1_k.jpg": {"car": 8},
    "detectron/24274813513_0cfd2ce6d0_k.jpg": {"person": 8},
    "detectron/33823288584_1d21cf0a26_k.jpg": {"person": 6, "bicycle": 3},
    "detectron/33887522274_eebd074106_k.jpg": {"bus": 1, "car": 1, "person": 3},
    "detectron/34501842524_3c858b3080_k.jpg": {"stop sign": 1, "car": 2},
    "ultralytics/bus.jpg": {"bus": 1, "person": 3},
    "ultralytics/zidane.jpg": {"person": 2, "tie": 1},
}
"""What is plainly to be seen; there may be more of it, far away."""

NOTHING_ELSE = ("darknet/eagle.jpg", "darknet/giraffe.jpg", "darknet/person.jpg")


def nano() -> SegmenterModel:
    """YOLOv5n-seg, of one input size."""
    path = assets("segment", "yolov5n-seg.onnx")
    file = ModelFile(path.name, path, "e823ee088db41b38", known=True)
    return SegmenterModel("yolov5n-seg", "yolo", file, None, Licence("AGPL-3.0", permissive=False))


def default_pack() -> SegmenterModel:
    """YOLOv5s-seg, of any input size."""
    try:
        return find_segmenter(settings_from({}), DEFAULT_SEGMENTER)
    except ModelMissing as missing:
        pytest.skip(f"needs the default segmenter: {missing}")


@pytest.fixture(scope="module", params=[nano, default_pack], ids=["yolov5n", "yolov5s"])
def model(request: pytest.FixtureRequest) -> SegmenterModel:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def segmenter(model: SegmenterModel) -> YoloSegmenter:
    return YoloSegmenter(model, accelerator="cpu")


def photo(name: str) -> ByteArray:
    return pixels(assets("photos", *name.split("/")))


def segmented(segmenter: YoloSegmenter, rgb: ByteArray) -> Segmentation:
    return segmenter.segment([rgb], [LIKELY])[0]


@pytest.mark.parametrize("name", PHOTOS)
def test_what_is_in_a_photo(segmenter: YoloSegmenter, name: str) -> None:
    found = Counter(segmented(segmenter, photo(name)).labels)
    assert found >= Counter(PHOTOS[name]), found
    if name in NOTHING_ELSE:
        assert found == Counter(PHOTOS[name])


def test_six_people_at_a_table(segmenter: YoloSegmenter) -> None:
    found = Counter(segmented(segmenter, pixels(GROUP)).labels)
    assert found["person"] == GROUP_FACES
    assert found["dining table"] == 1
    assert found["cup"] >= 5


def test_masks_lie_in_their_boxes_and_fill_them(segmenter: YoloSegmenter) -> None:
    ious, extents = [], []
    for name in PHOTOS:
        said = segmented(segmenter, photo(name))
        assert list(said.scores) == sorted(said.scores, reverse=True)
        assert (said.boxes >= 0).all()
        assert (said.boxes <= np.array([said.width, said.height] * 2)).all()
        for box, counts in zip(said.boxes, said.masks, strict=True):
            mask = decode(counts, said.width, said.height)
            left, top, right, bottom = window_of(box, said.width, said.height)
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            ious.append(box_iou(counts, said.width, said.height, box))
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            sides = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            extents.append(sides / ((bottom - top) * (right - left)))
    print(
        f"\n{segmenter.name}: {len(ious)} objects; mask against box: mean IoU {np.mean(ious):.3f}, "
        f"least {min(ious):.3f}; a mask's own box covers {np.mean(extents):.3f} of its box"
    )
    # A rectangle has 1, an ellipse 0.79, a person with arms apart 0.4.
    assert 0.55 < np.mean(ious) < 0.8
    assert np.mean(np.array(ious) > 0.3) > 0.95
    assert np.mean(extents) > 0.9


def test_a_mask_is_where_its_object_is(segmenter: YoloSegmenter) -> None:
    """Places on and beside the animals, read off the photo."""
    said = segmented(segmenter, photo("darknet/person.jpg"))
    masks = {
        label: decode(counts, said.width, said.height)
        for label, counts in zip(said.labels, said.masks, strict=True)
    }
    person, dog, horse = (180, 225), (300, 90), (200, 540)
    beside = [(100, 100), (390, 300), (300, 320)]
    for label, place in (("person", person), ("dog", dog), ("horse", horse)):
        assert masks[label][place], label
        others = {person, dog, horse, *beside} - {place}
        assert not any(masks[label][other] for other in others), label


def test_large_and_small_pictures_agree(segmenter: YoloSegmenter) -> None:
    rgb = photo("darknet/person.jpg")
    once, twice = (
        segmented(segmenter, np.repeat(np.repeat(rgb, times, axis=0), times, axis=1))
        for times in (1, 3)
    )
    assert sorted(once.labels) == sorted(twice.labels)
    for label, box, counts in zip(once.labels, once.boxes, once.masks, strict=True):
        at = twice.labels.index(label)
        assert np.allclose(twice.boxes[at] / 3, box, atol=4)
        large = decode(twice.masks[at], twice.width, twice.height)[1::3, 1::3].astype(bool)
        small = decode(counts, once.width, once.height).astype(bool)
        assert (large & small).sum() / (large | small).sum() > 0.95


def test_several_at_once_are_each_as_alone(segmenter: YoloSegmenter) -> None:
    photos = [photo(name) for name in list(PHOTOS)[:6]]
    together = segmenter.segment(photos, [SegmentOptions(top_k=at) for at in range(6)])
    for at, (rgb, said) in enumerate(zip(photos, together, strict=True)):
        alone = select(segmenter.segment([rgb], [SegmentOptions()])[0], SegmentOptions(top_k=at))
        assert (said.labels, said.masks) == (alone.labels, alone.masks)
        assert np.array_equal(said.boxes, alone.boxes)
        assert len(said) <= at


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 40_000), (7, 7)])
def test_odd_shapes(segmenter: YoloSegmenter, shape: tuple[int, int]) -> None:
    said = segmented(segmenter, np.zeros((*shape, 3), np.uint8))
    assert (said.height, said.width) == shape
    assert said.labels == ()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree(model: SegmenterModel, segmenter: YoloSegmenter, engine: str) -> None:
    other = YoloSegmenter(model, engine=engine, accelerator="cpu")  # type: ignore[arg-type]
    assert other.describe()["engine"] == engine
    for name in ("darknet/person.jpg", "ultralytics/bus.jpg"):
        ours, theirs = segmented(other, photo(name)), segmented(segmenter, photo(name))
        assert ours.labels == theirs.labels
        assert np.allclose(ours.boxes, theirs.boxes, atol=0.1)
        for one, two in zip(ours.masks, theirs.masks, strict=True):
            a, b = (decode(c, ours.width, ours.height).astype(bool) for c in (one, two))
            assert (a ^ b).sum() <= 0.001 * b.sum() + 2


def test_describe(segmenter: YoloSegmenter, model: SegmenterModel) -> None:
    said = segmenter.describe()
    assert (said["kind"], said["pack"], said["file"]) == ("yolo", model.name, model.file.name)
    assert said["sha256"] == model.file.sha256
    assert (said["licence"], said["engine"]) == (model.licence.name, "onnxruntime")
    assert (said["provider"], said["precision"]) == ("CPUExecutionProvider", "f32")


def test_a_damaged_file(model: SegmenterModel, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(model.file.path.read_bytes()[:100_000])
    file = ModelFile(path.name, path, "0" * 64, known=False)
    broken = SegmenterModel(model.name, "yolo", file, None, model.licence)
    with pytest.raises(ConfigError, match=r"cut\.onnx"):
        YoloSegmenter(broken, accelerator="cpu")
