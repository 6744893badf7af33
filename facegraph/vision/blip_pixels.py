"""From an image to what BLIP's vision encoder takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facegraph.errors import ConfigError
from facegraph.types import ByteArray, FloatArray

Triple = tuple[float, float, float]

MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
STD: Triple = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pixels, RGB 0..1; BLIP was trained with them."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input; by default as BLIP was trained.

    size: side of the input in pixels; the aspect ratio is not kept
    resample: Pillow's number of the filter
    scale: takes 0..255 to what mean and std are of
    """

    size: int
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255
    mean: Triple = MEAN
    std: Triple = STD

    def blob(self, images: Sequence[ByteArray]) -> FloatArray:
        """(h, w, 3) uint8 RGB each → (n, 3, size, size) float32."""
        side, resampling = (self.size, self.size), Image.Resampling(self.resample)
        squares = [np.asarray(Image.fromarray(rgb).resize(side, resampling)) for rgb in images]
        # A channel has 256 values, so each is computed once.
        scaled = (np.arange(256)[:, None] * self.scale).astype(np.float32)
        mean, std = np.array([self.mean, self.std], np.float32)
        values: FloatArray = (scaled - mean) / std
        return np.stack([np.stack([values[rgb[..., c], c] for c in range(3)]) for rgb in squares])


def read_preprocessing(folder: Path, size: int) -> Preprocessing:
    """As the folder says in `preprocessor_config.json` or `processor_config.json`, if it does.

    size: what the network takes
    Raises ConfigError where the file contradicts it or asks for what this code does not do.
    """
    for name, inner in (("preprocessor_config.json", None), ("processor_config.json", PROCESSOR)):
        path = folder / name
        if path.is_file():
            try:
                values = json.loads(path.read_bytes())
                return _parsed(values if inner is None else values.get(inner, {}), size)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConfigError(f"{path} is no preprocessing of BLIP's: {error}") from error
    return Preprocessing(size)


PROCESSOR = "image_processor"
"""The part of `processor_config.json` that is about pixels."""


def _parsed(values: Mapping[str, Any], size: int) -> Preprocessing:
    told = values.get("size", size)
    if told not in (size, {"height": size, "width": size}):
        raise ValueError(f"size is {told}, the network takes {size}")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not values.get(step, True):
            raise ValueError(f"{step} is off")
    if values.get("do_center_crop") or values.get("do_pad"):
        raise ValueError("it crops or pads")
    mean, std = _triple(values.get("image_mean", MEAN)), _triple(values.get("image_std", STD))
    if 0 in std:
        raise ValueError("image_std holds a 0")
    resample = Image.Resampling(values.get("resample", Image.Resampling.BICUBIC))
    return Preprocessing(size, resample, float(values.get("rescale_factor", 1 / 255)), mean, std)


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue
