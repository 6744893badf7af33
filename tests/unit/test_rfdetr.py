"""RF-DETR-Seg: reading the network's output, refusing files; with the package, the real thing.

Random weights: no checkpoint of the authors is within reach of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import pickle
import re
import socket
import sys
import types
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegraph.errors import ConfigError, ModelMissing, ModelUnavailable
from facegraph.models.places import Licence, ModelFile
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, SegmentOptions
from facegraph.vision.enlarging import TILE
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import decode, window_of
from facegraph.vision.rfdetr import (
    CLASSES,
    COCO_IDS,
    Queries,
    RfDetrSegmenter,
    _weights,
    read,
)

pytestmark = pytest.mark.unit

ALL = SegmentOptions(top_k=1000, score_threshold=0.0)


def queries(count: int, *, grid: tuple[int, int] = (5, 7), seed: int = 0) -> Queries:
    """Random output; some boxes reach beyond the image."""
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 1, (count, 2)), rng.uniform(0.05, 0.7, (count, 2))])
    return Queries(
        rng.uniform(0, 1, (count, 91)).astype(np.float32),
        boxes.astype(np.float32),
        rng.normal(0, 1, (count, *grid)).astype(np.float32),
    )


def one(
    number: int, score: float, box: tuple[float, float, float, float] = (0.5, 0.5, 1.0, 1.0)
) -> Queries:
    """A single query that sees one kind of thing, its mask full."""
    scores = np.zeros((1, 91), np.float32)
    scores[0, number] = score
    return Queries(scores, np.array([box], np.float32), np.ones((1, 4, 4), np.float32))


def segmenter_model(path: Path, config: str = "nano") -> SegmenterModel:
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    return SegmenterModel(
        name=f"rfdetr-seg-{config}",
        kind="rfdetr",
        file=ModelFile(path.name, path, digest, known=False),
        config=config,
        licence=Licence("Apache-2.0", permissive=True),
    )


class Bomb:
    """Creates a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.trace,)


class TestClasses:
    @pytest.mark.parametrize(
        ("number", "label"),
        [
            (1, "person"),
            (11, "fire hydrant"),
            (13, "stop sign"),
            (25, "giraffe"),
            (27, "backpack"),
            (28, "umbrella"),
            (31, "handbag"),
            (44, "bottle"),
            (46, "wine glass"),
            (65, "bed"),
            (67, "dining table"),
            (70, "toilet"),
            (72, "tv"),
            (82, "refrigerator"),
            (84, "book"),
            (90, "toothbrush"),
        ],
    )
    def test_labels(self, number: int, label: str) -> None:
        assert read(one(number, 0.9), SegmentOptions(), 8, 8, "m").labels == (label,)

    @pytest.mark.parametrize("number", [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83])
    def test_numbers_without_a_thing_are_dropped(self, number: int) -> None:
        assert len(read(one(number, 0.9), SegmentOptions(), 8, 8, "m")) == 0

    def test_one_number_for_each_label(self) -> None:
        assert len(COCO_IDS) == len(set(COCO_IDS)) == len(COCO_LABELS)


class TestRead:
    @pytest.mark.parametrize("seed", range(4))
    def test_equals_a_slow_reference(self, seed: int) -> None:
        seen, width, height = queries(12, seed=seed), 61, 37
        options = SegmentOptions(top_k=9, score_threshold=0.4)
        found = read(seen, options, width, height, "m")
        expected = slow(seen, options, width, height)
        assert len(found) == len(expected) == 9
        for row, (label, score, box, mask) in enumerate(expected):
            assert found.labels[row] == label
            assert found.scores[row] == np.float32(score)
            assert found.boxes[row].tolist() == pytest.approx(box, abs=1e-4)
            assert np.array_equal(decode(found.masks[row], width, height), mask)
        assert (found.width, found.height, found.model) == (width, height, "m")

    @pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 900), (7, 5), (40, 2 * TILE + 3)])
    def test_masks_of_any_image_size(self, size: tuple[int, int]) -> None:
        width, height = size
        seen = queries(3, seed=7)
        found = read(seen, ALL, width, height, "m")
        expected = slow(seen, ALL, width, height)
        assert len(found) == len(expected) == 3
        for counts, (*_, mask) in zip(found.masks, expected, strict=True):
            assert np.array_equal(decode(counts, width, height), mask)

    def test_threshold_is_strict(self) -> None:
        seen = one(1, 0.15)
        assert len(read(seen, SegmentOptions(score_threshold=0.15), 8, 8, "m")) == 0
        assert len(read(seen, SegmentOptions(score_threshold=0.1499), 8, 8, "m")) == 1

    def test_equal_scores_keep_the_queries_order(self) -> None:
        seen = queries(20)
        same = Queries(np.round(seen.scores, 1), seen.boxes, seen.masks)
        expected = slow(same, ALL, 9, 9)
        assert len({score for _, score, *_ in expected}) == 1
        found = read(same, ALL, 9, 9, "m")
        assert found.labels == tuple(label for label, *_ in expected)

    def test_no_more_objects_than_queries(self) -> None:
        assert len(read(queries(6), ALL, 20, 20, "m")) == 6

    def test_nothing_found(self) -> None:
        found = read(one(1, 0.1), SegmentOptions(), 8, 6, "m")
        assert (found.labels, found.masks) == ((), ())
        assert found.boxes.shape == (0, 4)
        assert (found.width, found.height) == (8, 6)

    @pytest.mark.parametrize(
        "box",
        [
            (math.nan, 0.5, 0.1, 0.1),
            (0.5, 0.5, math.inf, 0.1),
            (math.inf, 0.5, math.inf, 0.1),
            (0.5, 0.5, 0.0, 0.1),  # no width
            (0.5, 0.5, 0.1, -0.1),
            (2.0, 0.5, 0.1, 0.1),  # beside the image
        ],
    )
    def test_boxes_without_sense_are_dropped(self, box: tuple[float, float, float, float]) -> None:
        sound = (0.5, 0.5, 0.5, 0.5)
        seen = one(1, 0.9, box)
        two = Queries(
            np.vstack([seen.scores, seen.scores / 2]),
            np.array([box, sound], np.float32),
            np.repeat(seen.masks, 2, axis=0),
        )
        found = read(two, SegmentOptions(), 8, 8, "m")
        assert found.boxes.tolist() == [[2, 2, 6, 6]]
        assert found.scores.tolist() == pytest.approx([0.45])

    def test_scores_that_are_no_numbers_are_dropped(self) -> None:
        assert len(read(one(1, math.nan), SegmentOptions(), 8, 8, "m")) == 0

    def test_masks_keep_within_the_box_rounded_outwards(self) -> None:
        found = read(one(1, 0.9, (0.5, 0.5, 0.3, 0.5)), SegmentOptions(), 10, 10, "m")
        assert found.boxes[0].tolist() == pytest.approx([3.5, 2.5, 6.5, 7.5])
        mask = decode(found.masks[0], 10, 10)
        assert mask[2:8, 3:7].all()
        assert mask.sum() == 6 * 4


def slow(
    seen: Queries, options: SegmentOptions, width: int, height: int
) -> list[tuple[str, float, list[float], ByteArray]]:
    """As :func:`read`, pixel by pixel."""
    ranked = sorted(
        (-float(seen.scores[query, number]), query, kind)
        for query in range(len(seen.scores))
        for kind, number in enumerate(COCO_IDS)
    )
    found = []
    for negative, query, kind in ranked[: len(seen.scores)]:
        if not -negative > options.score_threshold:
            continue
        x, y, w, h = (float(value) for value in seen.boxes[query])
        box = [
            min(max((x - w / 2) * width, 0.0), width),
            min(max((y - h / 2) * height, 0.0), height),
            min(max((x + w / 2) * width, 0.0), width),
            min(max((y + h / 2) * height, 0.0), height),
        ]
        mask = np.zeros((height, width), np.uint8)
        for row in range(math.floor(box[1]), math.ceil(box[3])):
            for column in range(math.floor(box[0]), math.ceil(box[2])):
                mask[row, column] = _logit(seen.masks[query], row, column, width, height) > 0
        found.append((COCO_LABELS[kind], -negative, box, mask))
    return found[: options.top_k]


def _logit(grid: Any, row: int, column: int, width: int, height: int) -> float:
    """Bilinear between the four cells around a pixel's centre; cells at the border go on."""
    rows, columns = grid.shape
    y = min(max((row + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
    x = min(max((column + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    above = grid[top, left] * (1 - (x - left)) + grid[top, right] * (x - left)
    below = grid[bottom, left] * (1 - (x - left)) + grid[bottom, right] * (x - left)
    return float(above * (1 - (y - top)) + below * (y - top))


class TestFiles:
    def test_settings_of_the_training_are_no_hindrance(self, tmp_path: Path) -> None:
        path = tmp_path / "good.pth"
        args = argparse.Namespace(num_queries=100)
        torch.save({"model": {"a": torch.arange(3)}, "args": args}, path)
        weights = _weights(path)
        assert list(weights) == ["a"]
        assert weights["a"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickle_bombs_are_refused(self, zipped: bool, tmp_path: Path) -> None:
        path, trace = tmp_path / "bomb.pth", tmp_path / "trace"
        document = {"model": {"a": torch.zeros(1)}, "args": Bomb(trace)}
        torch.save(document, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelMissing, match=r"bomb\.pth is damaged, or holds something else"):
            _weights(path)
        assert not trace.exists()

    def test_plain_pickle_bomb_is_refused(self, tmp_path: Path) -> None:
        path, trace = tmp_path / "bomb.pth", tmp_path / "trace"
        path.write_bytes(pickle.dumps({"model": Bomb(trace)}))
        with pytest.raises(ModelMissing, match="nothing in it was run"):
            _weights(path)
        assert not trace.exists()

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
    def test_damaged_files(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "damaged.pth"
        path.write_bytes(content)
        with pytest.raises(ModelMissing, match=r"damaged\.pth is damaged, or"):
            _weights(path)

    @pytest.mark.parametrize(
        "document", [[1, 2], {"state_dict": {}}, {"model": 5}, {"model": {"a": "text"}}]
    )
    def test_other_checkpoints(self, document: object, tmp_path: Path) -> None:
        path = tmp_path / "other.pth"
        torch.save(document, path)
        with pytest.raises(ConfigError, match="it has no parameters in 'model'"):
            _weights(path)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelMissing, match="there is no file"):
            _weights(tmp_path / "absent.pth")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfdetr", None)
    with pytest.raises(ConfigError, match=r"run: pip install facegraph\[rfdetr\]$"):
        RfDetrSegmenter(segmenter_model(tmp_path / "absent.pth"))


def test_package_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rfdetr.py").write_text("raise RuntimeError('operator torchvision::nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rfdetr", raising=False)
    with pytest.raises(ConfigError, match=r"of one build\? operator torchvision::nms"):
        RfDetrSegmenter(segmenter_model(tmp_path / "absent.pth"))


class FakePackageModel:
    """As the package's models look from outside; sees one person, who fills the image."""

    means = stds = (0.5, 0.5, 0.5)
    resolution = 8

    def __init__(self, pretrain_weights: str, device: str) -> None:
        self.model = self
        self.weights = torch.load(pretrain_weights, weights_only=True)["model"]

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, torch.zeros(91)) for name in ("class_embed.bias", "head.bias")]

    def inference(self, **_: bool) -> None:
        pass

    def inference_model(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(images)
        logits = torch.full((count, 1, 91), -9.0)
        logits[:, :, 1] = 9
        boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(count, 1, 4)
        return boxes, logits, torch.ones(count, 1, 4, 4)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegmenterModel:
    """A model for the package, and in the package's place :class:`FakePackageModel`."""
    package = types.ModuleType("rfdetr")
    package.RFDETRSegNano = FakePackageModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rfdetr", package)
    path = tmp_path / "fake.pth"
    names = ("class_embed.bias", "head.bias", "trained.only")
    torch.save({"model": {name: torch.zeros(91) for name in names}}, path)
    return segmenter_model(path)


class TestFakePackage:
    def test_pictures_become_objects(self, fake: SegmenterModel) -> None:
        segmenter = RfDetrSegmenter(fake)
        found = segmenter.segment([noise(6, 9), noise(2, 3)], [SegmentOptions()] * 2)
        assert [each.labels for each in found] == [("person",)] * 2
        assert [each.boxes.tolist() for each in found] == [[[0, 0, 9, 6]], [[0, 0, 3, 2]]]

    @pytest.mark.parametrize(
        ("name", "weight", "fault"),
        [
            ("head.bias", None, "missing head.bias"),
            ("head.bias", torch.zeros(7), "misshapen head.bias (7 instead of 91)"),
            ("class_embed.bias", torch.zeros(4), "class_embed.bias is (4,), expected (91,)"),
        ],
    )
    def test_faults_are_named(
        self, fake: SegmenterModel, name: str, weight: torch.Tensor | None, fault: str
    ) -> None:
        changed(fake.file.path, fake.file.path, **{name: weight})
        with pytest.raises(ConfigError, match=f"for COCO: {re.escape(fault)}$"):
            RfDetrSegmenter(fake)

    @pytest.mark.parametrize("step", ["__init__", "inference"])
    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("CUDA error: out of memory\nadvice")]
    )
    def test_no_memory_to_load(
        self, fake: SegmenterModel, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
    ) -> None:
        monkeypatch.setattr(FakePackageModel, step, raising(error))
        said = "^rfdetr-seg-nano cannot be loaded: it ran out of memory$"
        with pytest.raises(ModelUnavailable, match=said):
            RfDetrSegmenter(fake)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (MemoryError(), "it ran out of memory"),
            (torch.OutOfMemoryError("CUDA out of memory."), "it ran out of memory"),
            (RuntimeError("sizes differ\nadvice"), "sizes differ"),
        ],
    )
    def test_a_run_that_fails(
        self, fake: SegmenterModel, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        segmenter = RfDetrSegmenter(fake)
        monkeypatch.setattr(segmenter, "_network", raising(error))
        with pytest.raises(ModelUnavailable, match=f"^rfdetr-seg-nano could not run: {reason}$"):
            segmenter.segment([noise(4, 4)], [SegmentOptions()])


def raising(error: Exception) -> Callable[..., None]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.fixture(scope="module")
def offline() -> Any:
    """No connection is tried while a test runs."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module")
def checkpoints(offline: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of random weights for each configuration, in the layout the package writes."""
    rfdetr = import_module("rfdetr")
    folder, paths = tmp_path_factory.mktemp("rfdetr"), {}
    for config, name in CLASSES.items():
        torch.manual_seed(0)
        network = getattr(rfdetr, name)(pretrain_weights=None, device="cpu").model
        paths[config] = folder / f"{config}.pth"
        torch.save({"model": network.model.state_dict(), "args": network.args}, paths[config])
    return paths


def changed(path: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with other parameters, or without some."""
    document = torch.load(path, weights_only=False)
    for name, value in changes.items():
        if value is None:
            del document["model"][name.replace("__", ".")]
        else:
            document["model"][name.replace("__", ".")] = value
    torch.save(document, target)
    return target


def noise(height: int, width: int) -> ByteArray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.skipif(
    find_spec("rfdetr") is None,
    reason="needs the package rfdetr (pip install facegraph[rfdetr])",
)
@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ImportWarning")
@pytest.mark.filterwarnings("ignore:.*pretrain_weights=None")
class TestPackage:
    def test_its_class_numbers(self) -> None:
        theirs = import_module("rfdetr.assets.coco_classes").COCO_CLASSES
        assert dict(zip(COCO_IDS, COCO_LABELS, strict=True)) == theirs

    @pytest.mark.parametrize("config", CLASSES)
    def test_equals_its_own_answers(self, config: str, checkpoints: dict[str, Path]) -> None:
        """On an image of the network's size, where both see the same pixels."""
        model = getattr(import_module("rfdetr"), CLASSES[config])(
            pretrain_weights=str(checkpoints[config]), device="cpu"
        )
        image = noise(model.model.resolution, model.model.resolution)
        theirs = model.predict(image, threshold=0.0, include_source_image=False)
        segmenter = RfDetrSegmenter(segmenter_model(checkpoints[config], config))
        [ours] = segmenter.segment([image], [ALL])
        known = np.isin(theirs.class_id, COCO_IDS)
        count = int(known.sum())
        assert 50 < count <= len(ours)
        assert list(ours.labels[:count]) == list(theirs.data["class_name"][known])
        assert np.allclose(ours.scores[:count], theirs.confidence[known], rtol=0, atol=1e-6)
        assert np.allclose(ours.boxes[:count], theirs.xyxy[known], rtol=0, atol=1e-3)
        for counts, box, whole in zip(ours.masks, ours.boxes, theirs.mask[known], strict=False):
            left, top, right, bottom = window_of(box, ours.width, ours.height)
            window = np.zeros_like(whole)
            window[top:bottom, left:right] = True
            mine = decode(counts, ours.width, ours.height).astype(bool)
            assert np.mean(mine != (whole & window)) < 1e-4  # of pixels with a logit of zero

    def test_input_is_stretched_as_its_own(self, checkpoints: dict[str, Path]) -> None:
        functional = import_module("torchvision.transforms.v2.functional")
        segmenter = RfDetrSegmenter(segmenter_model(checkpoints["nano"]))
        image = noise(413, 977)
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        theirs = functional.normalize(
            functional.resize(pixels, [312, 312], antialias=False),
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
        )
        difference = np.abs(segmenter._blob(image) - theirs.numpy()).max()
        assert difference < 1 / 255 / 0.224  # OpenCV rounds to whole levels

    def test_images_of_several_sizes(self, checkpoints: dict[str, Path]) -> None:
        segmenter = RfDetrSegmenter(segmenter_model(checkpoints["nano"]))
        images = [noise(40, 700), noise(300, 200), noise(1, 1)]
        few = [SegmentOptions(top_k=count, score_threshold=0.0) for count in (3, 1, 2)]
        found = segmenter.segment(images, few)
        assert [(each.width, each.height, len(each)) for each in found] == [
            (700, 40, 3),
            (200, 300, 1),
            (1, 1, 2),
        ]
        [alone] = segmenter.segment(images[1:2], few[1:2])
        assert alone.masks == found[1].masks
        assert segmenter.segment([], []) == []

    def test_description(self, checkpoints: dict[str, Path]) -> None:
        model = segmenter_model(checkpoints["nano"])
        segmenter = RfDetrSegmenter(model, threads=1)
        assert segmenter.name == "rfdetr-seg-nano"
        assert segmenter.describe() == {
            "kind": "rfdetr",
            "pack": "rfdetr-seg-nano",
            "config": "nano",
            "file": "nano.pth",
            "sha256": model.file.sha256,
            "licence": "Apache-2.0",
            "engine": f"rfdetr {metadata.version('rfdetr')}",
            "provider": "cpu",
            "precision": "fp32",
        }

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"class_embed__bias": None}, "class_embed.bias is (0,)"),
            ({"segmentation_head__bias": None}, "missing segmentation_head.bias"),
            (
                {"class_embed__bias": torch.zeros(4), "class_embed__weight": torch.zeros(4, 256)},
                "class_embed.bias is (4,), expected (91,)",
            ),
            ({"query_feat__weight": torch.zeros(7, 256)}, "size mismatch for query_feat.weight"),
        ],
    )
    def test_files_that_do_not_fit(
        self,
        changes: dict[str, torch.Tensor | None],
        reason: str,
        checkpoints: dict[str, Path],
        tmp_path: Path,
    ) -> None:
        """Under a name of the package's own, it would download such a file again."""
        path = changed(checkpoints["nano"], tmp_path / "rf-detr-seg-nano.pt", **changes)
        before = path.read_bytes()
        with pytest.raises(ConfigError, match="no checkpoint of RF-DETR-Seg nano") as caught:
            RfDetrSegmenter(segmenter_model(path))
        assert reason in str(caught.value)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(("config", "of"), [("nano", "small"), ("small", "medium")])
    def test_file_of_another_configuration(
        self, config: str, of: str, checkpoints: dict[str, Path]
    ) -> None:
        """The package would load it, stretched to the other size."""
        with pytest.raises(
            ConfigError, match=rf"{of}\.pth is no checkpoint of RF-DETR-Seg {config}"
        ):
            RfDetrSegmenter(segmenter_model(checkpoints[of], config))

    def test_a_bomb_and_an_absent_file(self, tmp_path: Path) -> None:
        """Under the names that the package would download them by."""
        path, trace = tmp_path / "rf-detr-seg-nano.pt", tmp_path / "trace"
        with pytest.raises(ModelMissing, match=r"there is no file .*rf-detr-seg-nano\.pt"):
            RfDetrSegmenter(segmenter_model(path))
        torch.save({"model": {}, "args": Bomb(trace)}, path)
        with pytest.raises(ModelMissing, match="nothing in it was run"):
            RfDetrSegmenter(segmenter_model(path))
        assert not trace.exists()

    def test_unknown_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="config is 'huge', not nano, small, medium"):
            RfDetrSegmenter(segmenter_model(tmp_path / "absent.pth", "huge"))
