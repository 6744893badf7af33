"""YOLACT whole: a small network with random weights, through its file, to masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.models.places import Licence, ModelFile
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, Segmentation, SegmentOptions
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import decode, window_of
from facegraph.vision.yolact import YolactSegmenter
from facegraph.vision.yolact.configs import CONFIGS, YolactConfig
from facegraph.vision.yolact.network import Yolact
from tests import yolact_reference as reference

pytestmark = pytest.mark.unit

TINY = YolactConfig("tiny", (1, 1, 1, 1), 96, (24, 48, 96, 192, 384))

SIZES = [(640, 480), (97, 61), (1, 1), (40_000, 1), (2, 900)]


def model_at(path: Path, config: str = "tiny") -> SegmenterModel:
    file = ModelFile("tiny.pth", path, "0" * 64, True)
    return SegmenterModel("yolact-tiny", "yolact", file, config, Licence("MIT", True))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return reference.random_state(reference.official_shapes(TINY.blocks))


@pytest.fixture(scope="module")
def model(
    state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SegmenterModel]:
    path = tmp_path_factory.mktemp("yolact") / "tiny.pth"
    torch.save(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", TINY)
        yield model_at(path)
    path.unlink()


@pytest.fixture(scope="module")
def segmenter(model: SegmenterModel) -> YolactSegmenter:
    return YolactSegmenter(model)


def picture(width: int, height: int, seed: int = 0) -> ByteArray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), np.uint8)


def pixels_of(found: Segmentation, row: int) -> npt.NDArray[np.bool_]:
    return decode(found.masks[row], found.width, found.height).astype(np.bool_)


def same(one: Segmentation, other: Segmentation) -> bool:
    return (
        (one.labels, one.masks) == (other.labels, other.masks)
        and np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
    )


def test_the_network_is_the_one_that_the_names_spell(
    segmenter: YolactSegmenter, state: dict[str, Tensor]
) -> None:
    """RGB in; the statistics are ImageNet's, which the authors give in the order BGR."""
    image = picture(96, 96)
    bgr = torch.from_numpy(image[:, :, ::-1].astype(np.float32))
    bgr = (bgr - torch.tensor([103.94, 116.78, 123.68])) / torch.tensor([57.38, 57.12, 58.40])
    with torch.inference_mode():
        found = segmenter._forward([image])
        expected = reference.Network(state, TINY.blocks)(bgr.flip(2).permute(2, 0, 1)[None])
    for part, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(part[0], wanted, rtol=1e-4, atol=1e-4)


def test_the_aspect_ratio_is_not_kept(segmenter: YolactSegmenter) -> None:
    square = picture(96, 96)
    tall = np.repeat(square, 2, axis=0)
    with torch.inference_mode():
        assert torch.equal(segmenter._forward([square]).scores, segmenter._forward([tall]).scores)


def test_everything_equals_loops(segmenter: YolactSegmenter) -> None:
    image, options = picture(40, 30), SegmentOptions(top_k=5, score_threshold=0.3)
    [found] = segmenter.segment([image], [options])
    with torch.inference_mode():
        output = segmenter._forward([image])
    offsets, scores, coefficients, prototypes = (part[0].numpy() for part in output)
    priors = np.array(reference.priors(TINY.size, TINY.scales), np.float32)
    expected = reference.find(offsets, scores, priors, 40, 30, 5, 0.3)
    assert len(expected) == 5
    assert found.labels == tuple(COCO_LABELS[one.label] for one in expected)
    assert found.scores.tolist() == [one.score for one in expected]
    np.testing.assert_allclose(found.boxes, [one.box for one in expected], rtol=1e-4, atol=1e-4)
    for row, one in enumerate(expected):
        left, top, right, bottom = window_of(found.boxes[row], 40, 30)
        wanted = np.zeros((30, 40), np.bool_)
        for y in range(top, bottom):
            for x in range(left, right):
                value = reference.mask_value(prototypes, coefficients[one.prior], x, y, 40, 30)
                wanted[y, x] = value > 0.5
        np.testing.assert_array_equal(pixels_of(found, row), wanted)


@pytest.mark.parametrize("size", SIZES)
def test_segmentations_are_valid(segmenter: YolactSegmenter, size: tuple[int, int]) -> None:
    width, height = size
    [found] = segmenter.segment([picture(width, height)], [SegmentOptions(20, 0.2)])
    assert (found.width, found.height, found.model) == (width, height, "yolact-tiny")
    assert len(found) == 20
    assert set(found.labels) <= set(COCO_LABELS)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.2).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    areas = []
    for row in range(len(found)):
        mask = pixels_of(found, row)
        assert mask.shape == (height, width)
        left, top, right, bottom = window_of(found.boxes[row], width, height)
        areas.append(mask[top:bottom, left:right].sum())
        assert mask.sum() == areas[-1]
    assert max(areas) > 0


def test_nothing_found(segmenter: YolactSegmenter) -> None:
    [found] = segmenter.segment([picture(30, 20)], [SegmentOptions(15, 1.0)])
    assert (len(found), found.labels, found.masks) == (0, (), ())
    assert found.boxes.shape == (0, 4)
    assert segmenter.segment([], []) == []


def test_each_image_has_its_options(segmenter: YolactSegmenter) -> None:
    images = [picture(50, 40, 1), picture(40, 60, 2), picture(50, 40, 1)]
    options = [SegmentOptions(3), SegmentOptions(15, 0.9), SegmentOptions(7)]
    together = segmenter.segment(images, options)
    for image, option, found in zip(images, options, together, strict=True):
        assert same(found, segmenter.segment([image], [option])[0])
    assert [len(together[0]), len(together[2])] == [3, 7]
    assert together[0].masks == together[2].masks[:3]


def test_a_batch_answers_as_one_by_one(
    segmenter: YolactSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run for two images may add in another order, so the last bits are free."""
    images, options = [picture(200, 150, 3), picture(96, 96, 4)], [SegmentOptions(10)] * 2
    alone = segmenter.segment(images, options)
    monkeypatch.setattr(segmenter, "best_batch", 2)
    for one, other in zip(alone, segmenter.segment(images, options), strict=True):
        assert one.labels == other.labels
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)
        for row in range(len(one)):
            differ = pixels_of(one, row) != pixels_of(other, row)
            assert differ.mean() < 0.001


def test_equal_input_equal_output(model: SegmenterModel, segmenter: YolactSegmenter) -> None:
    image, options = picture(300, 200, 5), SegmentOptions(15, 0.15)
    first, second = segmenter.segment([image, image], [options, options])
    [other] = YolactSegmenter(model).segment([image], [options])
    assert same(first, second)
    assert same(first, other)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried\nadvice"), MemoryError(), RuntimeError("x")],
)
def test_a_run_that_fails_is_model_unavailable(
    segmenter: YolactSegmenter, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(segmenter, "_forward", fail)
    with pytest.raises(ModelUnavailable, match=r"^yolact-tiny could not run: ") as caught:
        segmenter.segment([picture(5, 5)], [SegmentOptions()])
    assert "advice" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("to_empty", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        ("load_state_dict", RuntimeError("not enough memory: you tried to allocate 9 bytes.")),
        ("speed_up", MemoryError()),
        ("to", torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_a_network_that_does_not_fit_is_model_unavailable(
    model: SegmenterModel, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Yolact, step, fail)
    with pytest.raises(ModelUnavailable, match=r"^yolact-tiny cannot be loaded: it ran out of"):
        YolactSegmenter(model)


def test_no_memory_to_read_is_no_damaged_file(
    model: SegmenterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ModelUnavailable, match=r"cannot be loaded: it ran out of memory$"):
        YolactSegmenter(model)


def test_threads_are_those_asked_for(model: SegmenterModel) -> None:
    before = torch.get_num_threads()
    try:
        YolactSegmenter(model, threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_bf16_stays_near_fp32(model: SegmenterModel, segmenter: YolactSegmenter) -> None:
    rounded = YolactSegmenter(model, precision="bf16")
    assert rounded.describe()["precision"] == "bf16"
    image = picture(96, 96)
    with torch.inference_mode():
        exact, near = segmenter._forward([image]), rounded._forward([image])
    assert all(part.dtype == torch.float32 for part in near)
    assert not torch.equal(exact.scores, near.scores)
    assert (exact.prototypes - near.prototypes).norm() < 0.05 * exact.prototypes.norm()


def test_description(segmenter: YolactSegmenter) -> None:
    assert segmenter.describe() == {
        "kind": "yolact",
        "pack": "yolact-tiny",
        "config": "tiny",
        "file": "tiny.pth",
        "sha256": "0" * 64,
        "licence": "MIT",
        "engine": "torch",
        "provider": "cpu",
        "precision": "fp32",
    }
    assert (segmenter.name, segmenter.best_batch) == ("yolact-tiny", 1)


def test_an_unknown_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="yolact has no configuration darknet53: base, im700"):
        YolactSegmenter(model_at(tmp_path / "x.pth", "darknet53"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there_is_refused(model: SegmenterModel) -> None:
    with pytest.raises(ConfigError, match="finds no CUDA device"):
        YolactSegmenter(model, accelerator="cuda")
