"""RF-DETR-Seg through the package ``rfdetr``, which is an extra: ``facegraph[rfdetr]``.

Robinson, Robicheaux, Popov, Ramanan, Peri: RF-DETR: Neural Architecture Search for Real-Time
Detection Transformers, 2025. The package builds the network and fills it; what comes out of the
network is read here, because the package would make every mask as large as the image.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch

from facegraph.errors import ConfigError, ModelMissing, ModelUnavailable
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, FloatArray, Segmentation, SegmentOptions
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import encode, window_of

CLASSES = {"nano": "RFDETRSegNano", "small": "RFDETRSegSmall", "medium": "RFDETRSegMedium"}
"""The package's class for each configuration."""

NUMBERS = 91
UNUSED = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS = tuple(number for number in range(NUMBERS) if number not in UNUSED)
"""The class of the network for each of COCO_LABELS: COCO numbers its kinds of things from 1 to 90
and left ten numbers out."""

ROWS = 256
"""Rows of a mask made at once, so that memory does not follow the image's height."""

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What the network says of one image, a row for each of its queries.

    scores: (q, 91) float32, 0..1, a column for each of COCO's numbers
    boxes: (q, 4) float32, x y of the centre, width and height, in parts of the image
    masks: (q, h, w) float32 on a grid over the whole image, above 0 where the object is
    """

    scores: FloatArray
    boxes: FloatArray
    masks: FloatArray


class RfDetrSegmenter:
    """A :class:`facegraph.vision.base.Segmenter`. Nothing here is ever downloaded."""

    def __init__(
        self,
        model: SegmenterModel,
        *,
        threads: int = 1,
        device: Literal["cpu", "cuda"] = "cpu",
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """``model.file`` is a checkpoint as the package publishes and trains them.

        gpu_memory_bytes: most that torch takes of the GPU in this process
        Raises ConfigError without the package, for an unknown configuration and for a file that
        does not fit it, ModelMissing where there is no file.
        """
        package = _package()
        if model.config not in CLASSES:
            raise ConfigError(f"{model.name}: config is {model.config!r}, not {', '.join(CLASSES)}")
        torch.set_num_threads(threads)
        # OpenCV, too, would take every core of the machine for each of its calls.
        cv2.setNumThreads(threads)
        if device == "cuda" and gpu_memory_bytes is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_memory_bytes / total))
        weights = _weights(model.file.path)
        network = _filled(getattr(package, CLASSES[model.config]), weights, model, device)
        self.name = model.name
        self.best_batch = 8 if device == "cuda" else 1
        self._model = model
        self._device = device
        self._side = int(network.model.resolution)
        self._mean = np.array(network.means, np.float32)
        self._std = np.array(network.stds, np.float32)
        self._run = _ready(network)

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        """See :meth:`facegraph.vision.base.Segmenter.segment`."""
        found = []
        for start in range(0, len(images), self.best_batch):
            batch = images[start : start + self.best_batch]
            for row, queries in enumerate(self._look(batch), start):
                height, width = images[row].shape[:2]
                found.append(read(queries, options[row], width, height, self.name))
        return found

    def describe(self) -> dict[str, Any]:
        """See :meth:`facegraph.vision.base.Segmenter.describe`."""
        return {
            "kind": self._model.kind,
            "name": self.name,
            "config": self._model.config,
            "file": self._model.file.name,
            "sha256": self._model.file.sha256,
            "licence": self._model.licence.name,
            "engine": f"rfdetr {metadata.version('rfdetr')}",
            "provider": self._device,
            "precision": "float32",
        }

    def _look(self, images: Sequence[ByteArray]) -> list[Queries]:
        batch = np.stack([self._blob(image) for image in images])
        try:
            with torch.inference_mode():
                boxes, logits, masks = self._run(torch.from_numpy(batch).to(self._device))
                parts = [part.float().cpu().numpy() for part in (logits.sigmoid(), boxes, masks)]
        except RuntimeError as error:  # memory of a GPU that ran out, for one
            raise ModelUnavailable(f"the model could not run: {error}") from error
        return [Queries(*row) for row in zip(*parts, strict=True)]

    def _blob(self, rgb: ByteArray) -> FloatArray:
        """(h, w, 3) uint8 RGB → (3, side, side) float32, stretched as in training."""
        square = cv2.resize(rgb, (self._side, self._side), interpolation=cv2.INTER_LINEAR)
        scaled = (np.asarray(square, np.float32) / 255 - self._mean) / self._std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def read(
    queries: Queries, options: SegmentOptions, width: int, height: int, model: str
) -> Segmentation:
    """The objects of an image of ``width``×``height``.

    As in the package's own reading, a query may stand for several kinds of thing, and no more
    objects are found than there are queries. Equal scores keep the order of the queries.
    """
    scores = queries.scores[:, COCO_IDS].ravel()
    best = np.argsort(-scores, kind="stable")[: len(queries.scores)]
    boxes = _corners(queries.boxes, width, height)
    sound = np.isfinite(queries.boxes) & np.tile(boxes[:, 2:] > boxes[:, :2], 2)
    rows, kinds = np.divmod(best, len(COCO_IDS))
    keep = (scores[best] > options.score_threshold) & sound[rows].all(axis=1)
    best, rows, kinds = (part[keep][: options.top_k] for part in (best, rows, kinds))
    return Segmentation(
        width=width,
        height=height,
        labels=tuple(COCO_LABELS[kind] for kind in kinds),
        scores=scores[best],
        boxes=boxes[rows],
        masks=tuple(_mask(queries.masks[row], boxes[row], width, height) for row in rows),
        model=model,
    )


def _corners(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """(q, 4) parts of the image, centre and size → (q, 4) pixels x1 y1 x2 y2, clipped."""
    size = np.array([width, height, width, height], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # the network's sizes have no bound
        half = boxes[:, 2:] / 2
        corners = np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]) * size
        return np.asarray(np.clip(corners, 0, size), np.float32)


def _mask(grid: FloatArray, box: FloatArray, width: int, height: int) -> bytes:
    """Run lengths of the part of a (h, w) mask in ``box``, bilinear between the cells' centres."""
    left, top, right, bottom = window_of(box, width, height)
    first, second, weight = _between(left, right, width, grid.shape[1])
    wide = grid[:, first] * (1 - weight) + grid[:, second] * weight
    first, second, weight = _between(top, bottom, height, grid.shape[0])
    crop = np.empty((bottom - top, right - left), np.bool_)
    for start in range(0, len(crop), ROWS):
        band = slice(start, start + ROWS)
        lower = weight[band, None]
        crop[band] = wide[first[band]] * (1 - lower) + wide[second[band]] * lower > 0
    return encode(crop, left, top, width, height)


def _between(start: int, stop: int, pixels: int, cells: int) -> tuple[Indices, Indices, FloatArray]:
    """For each pixel of ``start``..``stop`` the cells whose centres it lies between, and how far.

    ``cells`` cover ``pixels``; beyond the outermost centres the outermost cell holds.
    """
    place = (np.arange(start, stop) + 0.5) * cells / pixels - 0.5
    place = np.clip(place, 0, cells - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, cells - 1), (place - first).astype(np.float32)


def _package() -> Any:
    """The package ``rfdetr``; ConfigError where it is not there or does not load."""
    try:
        package = importlib.import_module("rfdetr")
    except ModuleNotFoundError as error:
        if error.name != "rfdetr":
            raise ConfigError(f"rfdetr does not load: {error}") from error
        raise ConfigError(
            "an RF-DETR segmenter needs the package rfdetr; run: pip install facegraph[rfdetr]"
        ) from None
    except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch's
        raise ConfigError(
            f"rfdetr does not load, are torch and torchvision of one build? {error}"
        ) from error
    # It warns of what only matters to training, on every load.
    logging.getLogger("rf-detr").setLevel(logging.ERROR)
    return package


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint, read without running anything that a pickle may hold."""
    if not path.is_file():
        raise ModelMissing(f"there is no file {path}")
    try:
        # What else stands in a checkpoint: the settings it was trained with.
        with torch.serialization.safe_globals([argparse.Namespace, types.SimpleNamespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its exceptions share no public base class
        raise ConfigError(
            f"{path.name} is no checkpoint that is safe to read: it is damaged or holds more than "
            f"tensors and settings ({type(error).__name__})"
        ) from error
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ConfigError(f"{path.name} is no RF-DETR checkpoint: it has no parameters in 'model'")
    return weights


def _filled(
    build: Any, weights: dict[str, torch.Tensor], model: SegmenterModel, device: str
) -> Any:
    """The package's model with these parameters, every one of its own among them."""
    classes = weights.get("class_embed.bias", torch.empty(0)).shape
    if classes != (NUMBERS,):
        raise _unfit(model, f"class_embed.bias is {tuple(classes)}, expected ({NUMBERS},)")
    # By the names of its own files the package downloads what does not load, over what is there;
    # it is given a file of another name, with nothing in it but tensors.
    with tempfile.TemporaryDirectory(prefix="facegraph-") as folder:
        path = Path(folder, "weights.pth")
        torch.save({"model": weights}, path)
        try:
            network = build(pretrain_weights=str(path), device=device)
        except Exception as error:  # as above
            raise _unfit(model, str(error)) from error
    # It fills what it can: the rest would stay random, or be stretched to another size.
    for name, parameter in network.model.model.named_parameters():
        if name not in weights:
            raise _unfit(model, f"{name} is missing")
        if weights[name].shape != parameter.shape:
            shapes = f"{tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
            raise _unfit(model, f"{name} is {shapes}")
    return network


def _ready(network: Any) -> Any:
    """What runs: normalised images (n, 3, side, side) → boxes, logits, masks of each query."""
    try:
        # Otherwise every layer of the decoder would make masks of its own, for training.
        network.inference(compile=False, inplace=True)
    except RuntimeError as error:  # memory of a GPU that does not suffice, for one
        raise ConfigError(f"rfdetr cannot use its device: {error}") from error
    return network.model.inference_model


def _unfit(model: SegmenterModel, reason: str) -> ConfigError:
    short = " ".join(reason.split())[:300]  # the package may list every parameter
    return ConfigError(
        f"{model.file.name} is no checkpoint of RF-DETR-Seg {model.config} for COCO: {short}"
    )
