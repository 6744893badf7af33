"""YOLACT behind the seam of segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from facegraph.errors import ConfigError
from facegraph.models.vision_packs import SegmenterModel
from facegraph.types import ByteArray, FloatArray, Segmentation, SegmentOptions
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import encode, window_of
from facegraph.vision.torch_device import Accelerator, Precision, open_device
from facegraph.vision.yolact.assembly import assemble
from facegraph.vision.yolact.checkpoint import load_network
from facegraph.vision.yolact.configs import CONFIGS
from facegraph.vision.yolact.network import Output
from facegraph.vision.yolact.postprocess import Objects, find_objects
from facegraph.vision.yolact.priors import make_priors

MEAN = (123.68, 116.78, 103.94)
STD = (58.40, 57.12, 57.38)
"""Of ImageNet's pixels, RGB 0..255, as the authors rounded them."""

GPU_BATCH = 8


class YolactSegmenter:
    """A YOLACT checkpoint of its authors, loaded. One thread at a time calls it."""

    def __init__(
        self,
        model: SegmenterModel,
        *,
        threads: int = 1,
        accelerator: Accelerator = "cpu",
        gpu_memory_bytes: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """``threads`` holds for all of torch in this process, as does ``gpu_memory_bytes``.

        Raises ConfigError where the configuration or the device is none, or the checkpoint is
        another network's, ModelMissing where it is absent or damaged, ModelUnavailable where the
        device has no room for it.
        """
        if model.config not in CONFIGS:
            raise ConfigError(f"yolact has no configuration {model.config}: {', '.join(CONFIGS)}")
        self._config = CONFIGS[model.config]
        self._model = model
        self._precision = precision
        self._torch = open_device(accelerator, threads=threads, memory_bytes=gpu_memory_bytes)
        self._device = self._torch.device
        self._torch.attempt(self._load, f"{model.name} cannot be loaded")
        self.name = model.name
        self.best_batch = 1 if self._device.type == "cpu" else GPU_BATCH

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        """The objects of each (h, w, 3) uint8 RGB image; ``best_batch`` of them in one run.

        Raises ModelUnavailable where the run fails or memory runs out.
        """
        pairs = list(zip(images, options, strict=True))
        failure = f"{self.name} could not run"
        return self._torch.attempt_in_batches(self._run, pairs, self.best_batch, failure)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self._model.kind,
            "pack": self.name,
            "config": self._config.name,
            "file": self._model.file.name,
            "sha256": self._model.file.sha256,
            "licence": self._model.licence.name,
            "engine": "torch",
            "provider": self._device.type,
            "precision": self._precision,
        }

    def _load(self) -> None:
        network = load_network(self._model.file.path, self._config)
        network.speed_up()
        self._network = network.to(self._device)
        self._priors = make_priors(self._config).to(self._device)
        self._mean = torch.tensor(MEAN, device=self._device)
        self._std = torch.tensor(STD, device=self._device)

    @torch.inference_mode()
    def _run(self, pairs: list[tuple[ByteArray, SegmentOptions]]) -> list[Segmentation]:
        output = self._forward([image for image, _ in pairs])
        found = []
        for row, (image, options) in enumerate(pairs):
            height, width = image.shape[:2]
            objects = find_objects(
                output.offsets[row],
                output.scores[row],
                output.coefficients[row],
                self._priors,
                width=width,
                height=height,
                options=options,
            )
            found.append(self._answer(objects, output.prototypes[row], width, height))
        return found

    def _forward(self, images: list[ByteArray]) -> Output:
        size = (self._config.size, self._config.size)
        # The aspect ratio is not kept: so the authors trained it.
        squares = [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in images]
        pixels: Tensor = torch.from_numpy(np.stack(squares)).to(self._device)
        # Images lie in memory channels last already, so the view needs no copy.
        batch = ((pixels - self._mean) / self._std).permute(0, 3, 1, 2)
        rounded = self._precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=rounded):
            output: Output = self._network(batch)
        return output

    def _answer(
        self, objects: Objects, prototypes: Tensor, width: int, height: int
    ) -> Segmentation:
        shapes: FloatArray = prototypes.cpu().numpy()
        masks = []
        for box, coefficients in zip(objects.boxes, objects.coefficients, strict=True):
            window = window_of(box, width, height)
            crop = assemble(shapes, coefficients, window, width, height)
            masks.append(encode(crop, window[0], window[1], width, height))
        labels = tuple(COCO_LABELS[index] for index in objects.classes)
        return Segmentation(
            width, height, labels, objects.scores, objects.boxes, tuple(masks), self.name
        )
