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
from typing import Any

import cv2
import numpy as np
import torch

from facegraph.errors import ConfigError
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, FloatArray, Segmentation, SegmentOptions
from facegraph.vision.enlarging import pixels_above
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import encode, window_of
from facegraph.vision.state_dicts import is_state_dict, misfits, read_checkpoint
from facegraph.vision.torch_device import Accelerator, open_device, ran_out_of_memory

CLASSES = {"nano": "RFDETRSegNano", "small": "RFDETRSegSmall", "medium": "RFDETRSegMedium"}
"""The package's class for each configuration."""

NUMBERS = 91
UNUSED = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS = tuple(number for number in range(NUMBERS) if number not in UNUSED)
"""The class of the network for each of COCO_LABELS: COCO numbers its kinds of things from 1 to 90
and left ten numbers out."""

GPU_BATCH = 8


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
        accelerator: Accelerator = "cpu",
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """``model.file`` is a checkpoint as the package publishes and trains them.

        ``threads`` and ``gpu_memory_bytes`` hold for all of torch in this process.
        Raises ConfigError without the package or the device, for an unknown configuration and for
        a file that does not fit it, ModelMissing where there is no file or it is damaged,
        ModelUnavailable where the device has no room for it.
        """
        package = _package()
        if model.config not in CLASSES:
            raise ConfigError(f"{model.name}: config is {model.config!r}, not {', '.join(CLASSES)}")
        self._model = model
        self._torch = open_device(accelerator, threads=threads, memory_bytes=gpu_memory_bytes)
        self._device = self._torch.device
        build = getattr(package, CLASSES[model.config])
        self._torch.attempt(lambda: self._load(build), f"{model.name} cannot be loaded")
        self.name = model.name
        self.best_batch = 1 if self._device.type == "cpu" else GPU_BATCH

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        """See :meth:`facegraph.vision.base.Segmenter.segment`."""
        pairs = list(zip(images, options, strict=True))
        failure = f"{self.name} could not run"
        return self._torch.attempt_in_batches(self._run, pairs, self.best_batch, failure)

    def describe(self) -> dict[str, Any]:
        """See :meth:`facegraph.vision.base.Segmenter.describe`."""
        return {
            "kind": self._model.kind,
            "pack": self.name,
            "config": self._model.config,
            "file": self._model.file.name,
            "sha256": self._model.file.sha256,
            "licence": self._model.licence.name,
            "engine": f"rfdetr {metadata.version('rfdetr')}",
            "provider": self._device.type,
            "precision": "fp32",
        }

    def _load(self, build: Any) -> None:
        model = _filled(build, _weights(self._model.file.path), self._model, self._device.type)
        # Otherwise every layer of the decoder would make masks of its own, for training.
        model.inference(compile=False, inplace=True)
        self._network = model.model.inference_model
        self._side = int(model.model.resolution)
        self._mean = np.array(model.means, np.float32)
        self._std = np.array(model.stds, np.float32)

    @torch.inference_mode()
    def _run(self, pairs: list[tuple[ByteArray, SegmentOptions]]) -> list[Segmentation]:
        batch = np.stack([self._blob(image) for image, _ in pairs])
        boxes, logits, masks = self._network(torch.from_numpy(batch).to(self._device))
        parts = [part.float().cpu().numpy() for part in (logits.sigmoid(), boxes, masks)]
        return [
            read(Queries(*row), options, image.shape[1], image.shape[0], self.name)
            for (image, options), *row in zip(pairs, *parts, strict=True)
        ]

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
    window = window_of(box, width, height)
    crop = pixels_above(0, grid, window, width, height)
    return encode(crop, window[0], window[1], width, height)


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
    # What else stands in a checkpoint: the settings it was trained with.
    checkpoint = read_checkpoint(path, argparse.Namespace, types.SimpleNamespace)
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not is_state_dict(weights) or not all(map(torch.is_tensor, weights.values())):
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
        except Exception as error:  # torch's and the package's share no base class
            if ran_out_of_memory(error):
                raise
            raise _unfit(model, str(error)) from error
    # It fills what it can: the rest would stay random, or be stretched to another size.
    parameters = dict(network.model.model.named_parameters())
    used = {name: weights[name] for name in parameters if name in weights}
    if faults := misfits(used, parameters):
        raise _unfit(model, faults)
    return network


def _unfit(model: SegmenterModel, reason: str) -> ConfigError:
    short = " ".join(reason.split())[:300]  # the package may list every parameter
    return ConfigError(
        f"{model.file.name} is no checkpoint of RF-DETR-Seg {model.config} for COCO: {short}"
    )
