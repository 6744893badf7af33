"""What the segmenter does around its network: sizes, decoding, suppression, masks, batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.models.places import Licence, ModelFile
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, FloatArray, Segmentation, SegmentOptions
from facegraph.vision import yolo
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import decode, encode
from facegraph.vision.nms import suppress
from facegraph.vision.selection import select
from facegraph.vision.yolo import FREE_SHAPES, Layout, Letterbox, YoloSegmenter, fit

pytestmark = pytest.mark.unit

SHAPE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
COEFFICIENTS = 5
V5 = Layout(80, COEFFICIENTS, objectness=True)
V8 = Layout(80, COEFFICIENTS, objectness=False)


def random_outputs(layout: Layout, seed: int, sharp: float) -> tuple[FloatArray, FloatArray]:
    """Predictions in rows and prototypes; scores and boxes repeat, so that many are equal."""
    rng = np.random.default_rng(seed)
    count = 3 * CELLS if layout.objectness else CELLS
    centres = rng.integers(-4, 25, (count, 2)) * np.array([4, 3])
    sizes = rng.choice([0, 0.5, 8, 16, 24, 64], (count, 2))
    coefficients = rng.normal(size=(count, COEFFICIENTS))
    probabilities = np.zeros((count, 80))
    for row in probabilities:
        row[rng.choice([0, 1, 16, 79], 2)] = rng.integers(0, 5, 2) / 4
    probabilities *= rng.random((count, 1)) < sharp
    parts = [centres, sizes, probabilities, coefficients]
    if layout.objectness:
        parts.insert(2, rng.integers(0, 5, (count, 1)) / 4)
    rows = np.hstack(parts).astype(np.float32)
    prototypes = rng.normal(size=(COEFFICIENTS, SHAPE[0] // 4, SHAPE[1] // 4))
    return rows, prototypes.astype(np.float32)


@dataclass
class Found:
    score: float
    label: int
    box: tuple[float, float, float, float]
    coefficients: list[float]

    def rank(self) -> tuple[float, ...]:
        return (-self.score, self.label, self.box[1], self.box[0])


def slow_candidates(
    rows: FloatArray, layout: Layout, letterbox: Letterbox, threshold: float
) -> list[Found]:
    found = []
    for row in rows.tolist():
        first = 5 if layout.objectness else 4
        classes = row[first : first + 80]
        label = classes.index(max(classes))
        score = classes[label] * (row[4] if layout.objectness else 1)
        if not score > threshold:
            continue
        corners = []
        for axis, side in ((0, letterbox.width), (1, letterbox.height)):
            for sign in (-1, 1):
                place = row[axis] + sign * row[2 + axis] / 2
                place = (place - letterbox.corner[axis]) / letterbox.scale[axis]
                corners.append(min(max(place, 0.0), float(side)))
        left, right, top, bottom = corners
        if right - left >= 1 and bottom - top >= 1:
            found.append(Found(score, label, (left, top, right, bottom), row[first + 80 :]))
    return sorted(found, key=Found.rank)


def slow_iou(one: Found, other: Found) -> float:
    def area(box: tuple[float, float, float, float]) -> float:
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    a, b = one.box, other.box
    both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (area(a) + area(b) - both)


def slow_suppressed(found: list[Found], top_k: int) -> list[Found]:
    kept: list[Found] = []
    for one in found[: yolo.MAX_CANDIDATES]:
        same = [other for other in kept if other.label == one.label]
        if all(slow_iou(other, one) <= yolo.NMS_IOU for other in same):
            kept.append(one)
    return kept[:top_k]


def slow_logits(found: Found, prototypes: FloatArray, letterbox: Letterbox) -> FloatArray:
    """(height, width) of the whole image; far below 0 outside the box."""
    sums = sum(c * p for c, p in zip(found.coefficients, prototypes.astype(float), strict=True))
    logits = np.full((letterbox.height, letterbox.width), -9.0)
    left, top, right, bottom = found.box
    for row in range(math.floor(top), math.ceil(bottom)):
        for column in range(math.floor(left), math.ceil(right)):
            at = []
            for pixel, axis, cells in ((column, 0, 24), (row, 1, 16)):
                place = (pixel + 0.5) * letterbox.scale[axis] + letterbox.corner[axis]
                place = min(max(place * cells / SHAPE[1 - axis] - 0.5, 0), cells - 1)
                low = min(int(place), cells - 2)
                at.append((low, place - low))
            (x, across), (y, down) = at
            upper = sums[y, x] * (1 - across) + sums[y, x + 1] * across
            lower = sums[y + 1, x] * (1 - across) + sums[y + 1, x + 1] * across
            logits[row, column] = upper * (1 - down) + lower * down
    return logits


def segmented(
    rows: FloatArray,
    prototypes: FloatArray,
    layout: Layout,
    letterbox: Letterbox,
    options: SegmentOptions,
) -> Segmentation:
    predictions = rows if layout.objectness else np.ascontiguousarray(rows.T)
    return yolo.objects(predictions, prototypes, layout, letterbox, options, "test")


@pytest.mark.parametrize("layout", [V5, V8], ids=["v5", "v8"])
@pytest.mark.parametrize("size", [(96, 64), (48, 32), (70, 90), (1, 1), (5000, 1), (1, 300)])
@pytest.mark.parametrize(
    ("threshold", "top_k", "sharp"),
    [
        (0.0, 1000, 0.2),
        (0.5, 1000, 1.0),  # many lie at 0.5 exactly: none of them counts
        (0.15, 15, 1.0),
        (0.15, 15, 0.0),  # nothing found
        (1.0, 15, 1.0),  # nothing can be above
        (0.0, 0, 1.0),
    ],
)
def test_equals_the_slow_reference(
    layout: Layout, size: tuple[int, int], threshold: float, top_k: int, sharp: float
) -> None:
    rows, prototypes = random_outputs(layout, 7, sharp)
    letterbox = fit(*size, [SHAPE])
    got = segmented(rows, prototypes, layout, letterbox, SegmentOptions(top_k, threshold))
    want = slow_suppressed(slow_candidates(rows, layout, letterbox, threshold), top_k)
    assert got.labels == tuple(COCO_LABELS[one.label] for one in want)
    assert got.scores.tolist() == [one.score for one in want]
    assert np.allclose(got.boxes, np.array([one.box for one in want]).reshape(-1, 4), atol=1e-3)
    boxes = got.boxes.tolist()  # in float32 an edge may lie on the other side of a whole pixel
    for one, box, counts in list(zip(want, boxes, got.masks, strict=True))[:10]:
        logits = slow_logits(replace(one, box=tuple(box)), prototypes, letterbox)
        sure = np.abs(logits) > 1e-4
        assert np.array_equal(decode(counts, *size).astype(bool)[sure], (logits > 0)[sure])


def test_the_reference_met_ties_and_overlaps() -> None:
    rows, _ = random_outputs(V5, 7, 1.0)
    found = slow_candidates(rows, V5, fit(96, 64, [SHAPE]), 0.15)
    kept = slow_suppressed(found, 1000)
    assert 15 < len(kept) < len(found)
    assert len({one.score for one in kept}) < len(kept) / 5


@pytest.mark.parametrize("layout", [V5, V8], ids=["v5", "v8"])
def test_at_most_so_many_candidates(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "MAX_CANDIDATES", 60)
    rows, prototypes = random_outputs(layout, 3, 1.0)
    letterbox = fit(96, 64, [SHAPE])
    got = segmented(rows, prototypes, layout, letterbox, SegmentOptions(1_000_000, 0.0))
    want = slow_suppressed(slow_candidates(rows, layout, letterbox, 0.0), 1_000_000)
    assert 0 < len(want) < 60
    assert got.labels == tuple(COCO_LABELS[one.label] for one in want)
    assert np.allclose(got.boxes, np.array([one.box for one in want]), atol=1e-3)


@pytest.mark.parametrize("layout", [V5, V8], ids=["v5", "v8"])
@pytest.mark.parametrize(("top_k", "threshold"), [(3, 0.1), (50, 0.3), (1000, 0.5), (0, 0.0)])
def test_wider_options_only_add_at_the_end(layout: Layout, top_k: int, threshold: float) -> None:
    rows, prototypes = random_outputs(layout, 5, 0.5)
    letterbox = fit(70, 90, [SHAPE])
    wide = segmented(rows, prototypes, layout, letterbox, SegmentOptions(1000, 0.05))
    narrow = SegmentOptions(top_k, threshold)
    got = segmented(rows, prototypes, layout, letterbox, narrow)
    want = select(wide, narrow)
    assert (got.labels, got.masks) == (want.labels, want.masks)
    assert np.array_equal(got.boxes, want.boxes)
    assert np.array_equal(got.scores, want.scores)


@pytest.mark.parametrize("column", [0, 2, 4, 60, 85])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_are_no_numbers_are_left_out(column: int, value: float) -> None:
    rows, prototypes = random_outputs(V5, 7, 0.5)
    letterbox = fit(96, 64, [SHAPE])
    options = SegmentOptions(1000, 0.15)
    bad = rows[: CELLS // 2].copy()
    bad[:, column] = value
    got = segmented(np.vstack([bad, rows]), prototypes, V5, letterbox, options)
    want = segmented(rows, prototypes, V5, letterbox, options)
    assert (got.labels, got.masks) == (want.labels, want.masks)


def test_masks_are_exact_at_half_pixels() -> None:
    """A ramp that crosses 0 at a place in the image is cut right there, at any scale."""
    for width, height in ((96, 64), (960, 640), (33, 22), (1000, 301), (100, 2000)):
        letterbox = fit(width, height, [SHAPE])
        for axis, side in ((0, width), (1, height)):
            cells = SHAPE[1 - axis] // 4
            edge = side * 0.37
            place = (edge * letterbox.scale[axis] + letterbox.corner[axis]) / 4 - 0.5
            ramp = np.arange(cells) - place
            prototype = np.zeros((1, 16, 24), np.float32)
            prototype += ramp if axis == 0 else ramp[:, None]
            window = (0, 0, width, height)
            got = yolo.mask_within(window, np.ones(1, np.float32), prototype, letterbox)
            want = np.arange(side) + 0.5 > edge
            line = got[0] if axis == 0 else got[:, 0]
            assert np.array_equal(line, want)
            assert (got == (want if axis == 0 else want[:, None])).all()


def test_strips_and_windows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prototypes = random_outputs(V5, 1, 1.0)
    letterbox = fit(301, 200, [SHAPE])
    coefficients = np.ones(COEFFICIENTS, np.float32)
    whole = yolo.mask_within((0, 0, 301, 200), coefficients, prototypes, letterbox)
    assert 0.2 < whole.mean() < 0.8
    monkeypatch.setattr(yolo, "STRIP_PIXELS", 1000)
    assert np.array_equal(
        yolo.mask_within((0, 0, 301, 200), coefficients, prototypes, letterbox), whole
    )
    part = yolo.mask_within((50, 60, 173, 199), coefficients, prototypes, letterbox)
    assert np.array_equal(part, whole[60:199, 50:173])


@pytest.mark.parametrize(
    ("iou", "limit", "kept"),
    [
        (0.45, 9, [0, 2, 3, 4]),
        (0.45, 2, [0, 2]),
        (0.45, 0, []),
        (0.5, 9, [0, 1, 2, 3, 4]),  # exactly 0.5 is not more
        (0.0, 9, [0, 2, 4]),
    ],
)
def test_suppress(iou: float, limit: int, kept: list[int]) -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [9, 9, 19, 19], [10, 0, 20, 9]], np.float32
    )
    rows = suppress(boxes, np.array([1, 1, 2, 1, 1]), iou, limit)
    assert rows.tolist() == kept


@pytest.mark.parametrize(
    ("size", "inner", "shape"),
    [
        ((640, 480), (480, 640), (480, 640)),
        ((1280, 886), (443, 640), (448, 640)),
        ((1920, 1080), (360, 640), (384, 640)),
        ((1080, 1920), (640, 360), (640, 384)),
        ((500, 500), (640, 640), (640, 640)),
        ((100, 90), (576, 640), (640, 640)),
        ((1, 1), (640, 640), (640, 640)),
        ((5000, 1), (1, 640), (384, 640)),
        ((1, 5000), (640, 1), (640, 384)),
        ((8660, 5773), (427, 640), (448, 640)),
    ],
)
def test_fit(size: tuple[int, int], inner: yolo.Shape, shape: yolo.Shape) -> None:
    assert fit(*size, FREE_SHAPES) == Letterbox(*size, inner, shape)


def test_fit_in_one_size() -> None:
    letterbox = fit(1280, 720, [(640, 640)])
    assert (letterbox.inner, letterbox.corner) == ((360, 640), (0, 140))
    assert letterbox.scale == (0.5, 0.5)


def test_blob() -> None:
    rgb = np.zeros((32, 96, 3), np.uint8) + np.array([255, 51, 0], np.uint8)
    got = yolo.blob(rgb, fit(96, 32, [SHAPE]))
    assert got.shape == (1, 3, 64, 96)
    assert got.dtype == np.float32
    assert np.allclose(got[0, :, 16:48], np.array([1, 0.2, 0])[:, None, None])
    assert np.allclose(got[0, :, :16], 114 / 255)
    assert np.allclose(got[0, :, 48:], 114 / 255)


@pytest.mark.parametrize(
    ("predictions", "prototypes", "layout"),
    [
        ((1, 3 * CELLS, 117), (1, 32, 16, 24), Layout(80, 32, True)),
        ((1, 116, CELLS), (1, 32, 16, 24), Layout(80, 32, False)),
        ((1, 3 * CELLS, 90), (1, 5, 8, 12), Layout(80, 5, True)),
    ],
)
def test_layouts(predictions: tuple[int, ...], prototypes: tuple[int, ...], layout: Layout) -> None:
    blank = (np.zeros(predictions, np.float32), np.zeros(prototypes, np.float32))
    assert yolo.layout_of(*blank, SHAPE) == layout


@pytest.mark.parametrize(
    ("predictions", "prototypes", "said"),
    [
        ((1, CELLS, 116), (1, 32, 16, 24), r"\(1, 126, 116\) and \(1, 32, 16, 24\), 378 or 126"),
        ((1, 100, 6), (1, 32, 16, 24), r"\(1, 100, 6\)"),
        ((1, 3 * CELLS, 85), (1, 32, 16, 24), "hold 48 classes, expected COCO's 80"),
        ((1, 37, CELLS), (1, 32, 16, 24), "hold 1 classes"),
    ],
)
def test_other_networks_are_refused(
    predictions: tuple[int, ...], prototypes: tuple[int, ...], said: str
) -> None:
    blank = (np.zeros(predictions, np.float32), np.zeros(prototypes, np.float32))
    with pytest.raises(ConfigError, match=said):
        yolo.layout_of(*blank, SHAPE)


def pack(path: Path) -> SegmenterModel:
    file = ModelFile(path.name, path, "0" * 64, known=True)
    return SegmenterModel("seen", "yolo", file, None, Licence("MIT", permissive=True))


def test_a_network_of_another_kind(tmp_path: Path) -> None:
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 96])
        for name in ("images", "same")
    ]
    node = helper.make_node("Identity", ["images"], ["same"])
    graph = helper.make_graph([node], "no_segmenter", images[:1], images[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "same.onnx"
    onnx.save(model, path)
    with pytest.raises(ConfigError, match=r"shapes \(1, 3, 64, 96\); expected"):
        YoloSegmenter(pack(path), accelerator="cpu")


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(ConfigError, match=r"cannot load bad\.onnx"):
        YoloSegmenter(pack(path), accelerator="cpu")


class FakeEngine:
    """Finds in every input one object in the middle, whose class is its middle pixel's red."""

    name = "fake"
    provider = "none"

    def __init__(self, input_shape: tuple[int | None, ...], best_batch: int) -> None:
        self.input_shape = input_shape
        self.best_batch = best_batch
        self.ran: list[tuple[int, ...]] = []
        self.fails = False

    def run(self, batch: FloatArray) -> list[FloatArray]:
        if self.fails:
            raise ModelUnavailable("the model could not run")
        self.ran.append(batch.shape)
        count, _, height, width = batch.shape
        cells = height * width // 64 + height * width // 256 + height * width // 1024
        predictions = np.zeros((count, 3 * cells, 86), np.float32)
        predictions[:, 9, :5] = (width / 2, height / 2, 64, 64, 0.5)
        predictions[:, 9, 85] = 1
        for row, image in enumerate(batch):
            predictions[row, 9, 5 + round(float(image[0, height // 2, width // 2]) * 255)] = 1
        return [np.ones((count, 1, height // 4, width // 4), np.float32), predictions]


def opened(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> YoloSegmenter:
    monkeypatch.setattr(yolo, "open_engine", lambda *_, **__: engine)
    return YoloSegmenter(pack(Path("seen.onnx")))


def plain(width: int, height: int, red: int) -> ByteArray:
    return np.full((height, width, 3), (red, 0, 0), np.uint8)


def test_every_shape_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine((None, 3, None, None), 64)
    assert opened(monkeypatch, engine).best_batch == yolo.MAX_BATCH
    assert engine.ran == [(1, 3, *shape) for shape in FREE_SHAPES]


@pytest.mark.parametrize(
    ("batch", "best_batch", "runs"),
    [
        (None, 2, [(2, 480, 640), (1, 480, 640), (2, 640, 640)]),
        (None, 64, [(3, 480, 640), (2, 640, 640)]),
        (None, 1, [(1, 480, 640)] * 3 + [(1, 640, 640)] * 2),
        (1, 64, [(1, 480, 640)] * 3 + [(1, 640, 640)] * 2),  # the file takes no more
    ],
)
def test_images_of_one_shape_run_together(
    monkeypatch: pytest.MonkeyPatch,
    batch: int | None,
    best_batch: int,
    runs: list[tuple[int, int, int]],
) -> None:
    engine = FakeEngine((batch, 3, None, None), best_batch)
    segmenter = opened(monkeypatch, engine)
    engine.ran.clear()
    images = [
        plain(640, 480, 0),
        plain(640, 640, 1),
        plain(320, 240, 2),
        plain(1280, 960, 3),
        plain(64, 64, 4),
    ]
    options = [SegmentOptions(5, 0.1)] * 4 + [SegmentOptions(5, 0.5)]
    said = segmenter.segment(images, options)
    assert engine.ran == [(count, 3, height, width) for count, height, width in runs]
    sizes = [(640, 480), (640, 640), (320, 240), (1280, 960), (64, 64)]
    assert [(one.width, one.height) for one in said] == sizes
    assert [one.labels for one in said] == [(name,) for name in COCO_LABELS[:4]] + [()]
    assert said[3].boxes.tolist() == [[576, 416, 704, 544]]
    assert said[3].masks == (encode(np.ones((128, 128), np.uint8), 576, 416, 1280, 960),)
    assert {one.model for one in said} == {"seen"}


def test_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine((1, 3, 64, 96), 1)
    segmenter = opened(monkeypatch, engine)
    assert engine.ran == [(1, 3, 64, 96)]
    assert segmenter.segment([], []) == []


def test_a_run_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine((1, 3, 64, 96), 1)
    segmenter = opened(monkeypatch, engine)
    engine.fails = True
    with pytest.raises(ModelUnavailable):
        segmenter.segment([plain(10, 10, 0)], [SegmentOptions()])


def test_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = opened(monkeypatch, FakeEngine((1, 3, 64, 96), 1))
    assert segmenter.describe() == {
        "kind": "yolo",
        "pack": "seen",
        "file": "seen.onnx",
        "sha256": "0" * 64,
        "licence": "MIT",
        "engine": "fake",
        "provider": "none",
        "precision": "f32",
    }


def test_a_letterbox_is_what_it_says() -> None:
    letterbox = replace(fit(5000, 1, FREE_SHAPES), inner=(3, 640))
    assert letterbox.scale == (640 / 5000, 3.0)
    assert letterbox.corner == (0, 190)
