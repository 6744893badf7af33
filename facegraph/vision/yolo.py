"""YOLO-family instance segmentation from an ONNX file: boxes, prototypes and coefficients.

A network answers, for each cell of three grids, a box, a probability for each class and some
coefficients; and a few prototype masks of the whole input. An object's mask is the sum of the
prototypes weighted by its coefficients, cut at its box: Bolya, Zhou, Xiao, Lee: YOLACT: Real-time
Instance Segmentation, 2019. Two layouts of this are read, told apart by the outputs' shapes:

    YOLOv5, v7   (n, 3 × cells, 4 + 1 + classes + coefficients): score = objectness × probability
    YOLOv8       (n, 4 + classes + coefficients, cells): score = probability

Boxes are centre x, centre y, width, height in pixels of the input, which bfloat16 rounds to 4 near
its end: so the network runs in float32, which costs a quarter more where a processor has bfloat16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.errors import ConfigError
from facegraph.models.engines import Accelerator, EngineName, open_engine
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, FloatArray, Segmentation, SegmentOptions
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import Window, encode, window_of
from facegraph.vision.nms import suppress

Shape = tuple[int, int]
"""Height and width of a network's input."""

FREE_SHAPES: tuple[Shape, ...] = (
    (640, 640),
    (480, 640),
    (448, 640),
    (384, 640),
    (640, 480),
    (640, 448),
    (640, 384),
)
"""Used where the network takes any size; 1:1, 4:3, 3:2 and 16:9 fit closely. Few, because some
engines compile for each of them."""

PADDING = 114
"""The grey around an image that does not fill the input, as in training."""

STRIDES = (8, 16, 32)
NMS_IOU = 0.45

MAX_CANDIDATES = 5000
"""Best-scored boxes that are looked at in one image; a crowded one has some hundred."""

MAX_BATCH = 16
"""Images in one run, whatever the engine would take: 25 MB of input, 190 MB of outputs."""

STRIP_PIXELS = 1 << 20
"""A mask is sampled in strips of about so many pixels."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """An image of ``width`` × ``height`` shrunk or enlarged to ``inner``, amid an input ``shape``.

    The sides are scaled each by itself, since both are rounded to whole pixels.
    """

    width: int
    height: int
    inner: Shape
    shape: Shape

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input in one of the image, across and down."""
        return self.inner[1] / self.width, self.inner[0] / self.height

    @property
    def corner(self) -> tuple[int, int]:
        """Left and top of the image in the input."""
        return (self.shape[1] - self.inner[1]) // 2, (self.shape[0] - self.inner[0]) // 2


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands in a row of predictions after the box."""

    classes: int
    coefficients: int
    objectness: bool


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Boxes before suppression, in pixels of the image, best score first; as Segmentation else.

    boxes: (n, 4) float32; classes: (n,) int64; scores: (n,); coefficients: (n, k) float32
    """

    boxes: FloatArray
    classes: npt.NDArray[np.int64]
    scores: FloatArray
    coefficients: FloatArray

    def take(self, rows: npt.NDArray[np.intp]) -> Candidates:
        return Candidates(
            self.boxes[rows], self.classes[rows], self.scores[rows], self.coefficients[rows]
        )


class YoloSegmenter:
    """A :class:`facegraph.vision.base.Segmenter` over an ONNX file."""

    def __init__(
        self,
        model: SegmenterModel,
        *,
        engine: EngineName = "auto",
        accelerator: Accelerator = "auto",
        threads: int = 1,
        concurrency: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """Raises ConfigError where the file does not load or is no such network."""
        self._model = model
        self.name = model.name
        self._engine = open_engine(
            model.file.path,
            engine=engine,
            accelerator=accelerator,
            threads=threads,
            concurrency=concurrency,
            gpu_memory_bytes=gpu_memory_bytes,
            exact=True,
        )
        # OpenCV, too, would take every core of the machine for each of its calls.
        cv2.setNumThreads(threads)
        batch, _, height, width = self._engine.input_shape
        self._shapes = FREE_SHAPES if height is None or width is None else ((height, width),)
        self.best_batch = min(self._engine.best_batch, MAX_BATCH) if batch is None else 1
        # Every shape once, so that no request pays for compiling.
        for shape in self._shapes:
            outputs = self._engine.run(np.zeros((1, 3, *shape), np.float32))
            self._layout = layout_of(*_told_apart(outputs), shape)

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        letterboxes = [fit(image.shape[1], image.shape[0], self._shapes) for image in images]
        same = defaultdict(list)
        for at, letterbox in enumerate(letterboxes):
            same[letterbox.shape].append(at)
        found: dict[int, Segmentation] = {}
        for places in same.values():
            for start in range(0, len(places), self.best_batch):
                part = places[start : start + self.best_batch]
                batch = np.concatenate([blob(images[at], letterboxes[at]) for at in part])
                predictions, prototypes = _told_apart(self._engine.run(batch))
                for row, at in enumerate(part):
                    found[at] = objects(
                        predictions[row],
                        prototypes[row],
                        self._layout,
                        letterboxes[at],
                        options[at],
                        self.name,
                    )
        return [found[at] for at in range(len(images))]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self._model.kind,
            "pack": self.name,
            "file": self._model.file.name,
            "sha256": self._model.file.sha256,
            "licence": self._model.licence.name,
            "engine": self._engine.name,
            "provider": self._engine.provider,
            "precision": "f32",
        }


def fit(width: int, height: int, shapes: Sequence[Shape]) -> Letterbox:
    """The input in which the image is largest; of equal ones the smallest."""
    scales = {shape: min(shape[1] / width, shape[0] / height) for shape in shapes}
    best = max(scales.values())
    shape = min((s for s in shapes if scales[s] == best), key=lambda shape: shape[0] * shape[1])
    inner = (max(1, round(height * best)), max(1, round(width * best)))
    return Letterbox(width, height, inner, shape)


def blob(rgb: ByteArray, letterbox: Letterbox) -> FloatArray:
    """(h, w, 3) uint8 RGB → (1, 3, h, w) float32 in 0..1, letterboxed."""
    height, width = letterbox.inner
    left, top = letterbox.corner
    method = cv2.INTER_AREA if min(letterbox.scale) < 1 else cv2.INTER_LINEAR
    canvas = np.full((*letterbox.shape, 3), PADDING, np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(
        rgb, (width, height), interpolation=method
    )
    return np.asarray(cv2.dnn.blobFromImage(canvas, 1 / 255), np.float32)


def layout_of(predictions: FloatArray, prototypes: FloatArray, shape: Shape) -> Layout:
    """Which network answers so to one input of ``shape``; ConfigError where none known does."""
    cells = sum((shape[0] // stride) * (shape[1] // stride) for stride in STRIDES)
    coefficients = prototypes.shape[1]
    if predictions.shape[1] == 3 * cells:
        layout = Layout(predictions.shape[2] - 5 - coefficients, coefficients, objectness=True)
    elif predictions.shape[2] == cells:
        layout = Layout(predictions.shape[1] - 4 - coefficients, coefficients, objectness=False)
    else:
        raise ConfigError(
            f"no YOLO segmenter: {shape[0]}×{shape[1]} pixels give outputs of shapes "
            f"{predictions.shape} and {prototypes.shape}, {3 * cells} or {cells} boxes expected"
        )
    if layout.classes != len(COCO_LABELS):
        raise ConfigError(
            f"the segmenter's outputs of shapes {predictions.shape} and {prototypes.shape} hold "
            f"{layout.classes} classes, expected COCO's {len(COCO_LABELS)}"
        )
    return layout


def objects(
    predictions: FloatArray,
    prototypes: FloatArray,
    layout: Layout,
    letterbox: Letterbox,
    options: SegmentOptions,
    model: str,
) -> Segmentation:
    """What the network says of one image.

    predictions: 2-dimensional, as in its layout; prototypes: (k, h, w) float32
    """
    seen = candidates(predictions, layout, letterbox, options.score_threshold)
    seen = seen.take(suppress(seen.boxes, seen.classes, NMS_IOU, options.top_k))
    width, height = letterbox.width, letterbox.height
    masks = []
    for box, coefficients in zip(seen.boxes, seen.coefficients, strict=True):
        window = window_of(box, width, height)
        crop = mask_within(window, coefficients, prototypes, letterbox)
        masks.append(encode(crop, window[0], window[1], width, height))
    labels = tuple(COCO_LABELS[number] for number in seen.classes)
    return Segmentation(width, height, labels, seen.scores, seen.boxes, tuple(masks), model)


def candidates(
    predictions: FloatArray, layout: Layout, letterbox: Letterbox, score_threshold: float
) -> Candidates:
    """The best boxes of one image that score above the threshold, each with its best class."""
    rows = predictions if layout.objectness else predictions.T
    if layout.objectness:  # a probability does not raise it
        rows = rows[rows[:, 4] > score_threshold]
    first = 5 if layout.objectness else 4
    probabilities = rows[:, first : first + layout.classes]
    classes = probabilities.argmax(axis=1)
    scores = probabilities.max(axis=1)
    if layout.objectness:
        with np.errstate(invalid="ignore"):  # what is no number goes with the next line
            scores = scores * rows[:, 4]
    above = (scores > score_threshold) & np.isfinite(rows).all(axis=1)
    rows = rows[above]
    boxes = _on_image(rows[:, :4], letterbox)
    seen = Candidates(boxes, classes[above], scores[above], rows[:, first + layout.classes :])
    seen = seen.take(np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)))
    order = np.lexsort((seen.boxes[:, 0], seen.boxes[:, 1], seen.classes, -seen.scores))
    return seen.take(order[:MAX_CANDIDATES])


def mask_within(
    window: Window, coefficients: FloatArray, prototypes: FloatArray, letterbox: Letterbox
) -> npt.NDArray[np.bool_]:
    """An object's mask in the image's own pixels: (h, w) of the window.

    The prototypes' weighted sum is the logit, so above 0 means more probable than not. It is
    sampled bilinearly at the centres of the image's pixels.
    """
    left, top, right, bottom = window
    rows, columns = prototypes.shape[1:]
    x, y = (
        _Axis(scale * cells / length, corner * cells / length)
        for scale, corner, cells, length in zip(
            letterbox.scale, letterbox.corner, (columns, rows), letterbox.shape[::-1], strict=True
        )
    )
    across, down = x.needed(left, right, columns), y.needed(top, bottom, rows)
    logits = np.tensordot(coefficients, prototypes[:, down, across], axes=1)
    mask = np.empty((bottom - top, right - left), np.bool_)
    step = max(1, STRIP_PIXELS // mask.shape[1])
    for start in range(0, len(mask), step):
        strip = mask[start : start + step]
        matrix = np.array(
            [
                [x.scale, 0, x.place(left) - across.start],
                [0, y.scale, y.place(top + start) - down.start],
            ]
        )
        sampled = cv2.warpAffine(
            logits,
            matrix,
            (strip.shape[1], strip.shape[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        np.greater(sampled, 0, out=strip)
    return mask


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the image's pixels lie among the prototypes', along one side."""

    scale: float
    offset: float

    def place(self, pixel: int) -> float:
        """The place of a pixel's centre, where whole numbers are the prototypes' centres."""
        return (pixel + 0.5) * self.scale + self.offset - 0.5

    def needed(self, start: int, stop: int, size: int) -> slice:
        """The prototypes' pixels that those from start to before stop are sampled from."""
        first, last = int(np.floor(self.place(start))), int(np.floor(self.place(stop - 1)))
        return slice(max(0, first), min(size, last + 2))


def _on_image(boxes: FloatArray, letterbox: Letterbox) -> FloatArray:
    """Centre and size in the input → corners in the image, clipped to it."""
    half = boxes[:, 2:] / 2
    corners = np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])
    corners -= np.tile(np.array(letterbox.corner, np.float32), 2)
    corners /= np.tile(np.array(letterbox.scale, np.float32), 2)
    size = np.array([letterbox.width, letterbox.height] * 2, np.float32)
    return np.asarray(np.clip(corners, 0, size), np.float32)


def _told_apart(outputs: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Predictions (n, ·, ·) and prototypes (n, k, h, w), in whatever order they come."""
    predictions = [output for output in outputs if output.ndim == 3]
    prototypes = [output for output in outputs if output.ndim == 4]
    if len(predictions) != 1 or len(prototypes) != 1:
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise ConfigError(
            f"no YOLO segmenter: its outputs have the shapes {shapes}; expected one of three "
            "dimensions (predictions) and one of four (prototypes)"
        )
    return predictions[0], prototypes[0]
