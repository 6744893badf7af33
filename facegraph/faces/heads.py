"""What the output of a detection network means: one class per family of networks.

A head holds no state, so threads share it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.errors import ConfigError
from facegraph.types import ByteArray, FloatArray

STRIDES = (8, 16, 32)

Outputs = Sequence[npt.NDArray[np.float32]]
"""Each (inputs, cells, width), or (cells, width) and (1, cells, width) where one input ran."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Faces before suppression, in pixels of the network's input.

    boxes: (n, 4) float32 x1 y1 x2 y2; landmarks: (n, 5, 2) float32; scores: (n,) float32
    """

    boxes: FloatArray
    landmarks: FloatArray
    scores: FloatArray


class Head(Protocol):
    """``refine_below``: faces smaller in the input get a second look for their landmarks.

    ``lags``: the landmarks lag behind a head that leans, so such faces get turned looks.
    """

    refine_below: float
    lags: bool

    def blob(self, canvas: ByteArray) -> FloatArray:
        """(h, w, 3) uint8 RGB → (1, 3, h, w) float32 as the network wants it."""
        ...

    def decode(self, outputs: Outputs, height: int, width: int, min_score: float, /) -> Candidates:
        """Candidates that score at least ``min_score`` in an input of this size."""
        ...

    def decode_many(
        self, outputs: Outputs, count: int, height: int, width: int, min_score: float, /
    ) -> list[Candidates]:
        """The candidates of each of ``count`` inputs of this size that ran together."""
        ...


class YuNetHead:
    """YuNet 2023: per stride a class and an object score, a box and five points per cell.

    Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023.
    """

    WIDTHS = (1, 1, 1, 1, 1, 1, 4, 4, 4, 10, 10, 10)
    refine_below = 80.0
    lags = True

    def blob(self, canvas: ByteArray) -> FloatArray:
        return _blob(canvas, scale=1.0, mean=0.0, swap=True)  # trained on BGR 0..255

    def decode(self, outputs: Outputs, height: int, width: int, min_score: float) -> Candidates:
        return self.decode_many(outputs, 1, height, width, min_score)[0]

    def decode_many(
        self, outputs: Outputs, count: int, height: int, width: int, min_score: float
    ) -> list[Candidates]:
        corners, strides = _grid(height, width, 1)
        cls, obj, bbox, kps = _columns(outputs, self.WIDTHS, count, len(strides))
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        keep = np.flatnonzero(scores >= min_score)
        cell = keep % len(strides)
        corner, stride, bbox = corners[cell], strides[cell, None], bbox[keep]
        center = (corner + bbox[:, :2]) * stride
        half = np.exp(np.clip(bbox[:, 2:], -20, 20)) * stride / 2
        points = (kps[keep].reshape(-1, 5, 2) + corner[:, None]) * stride[:, None]
        seen = Candidates(np.hstack([center - half, center + half]), points, scores[keep])
        return _by_input(seen, keep // len(strides), count)


class ScrfdHead:
    """SCRFD with five points: per stride a score, four distances and five offsets per anchor.

    Guo, Deng, Lattas, Zafeiriou: Sample and Computation Redistribution for Efficient Face
    Detection, 2021.
    """

    WIDTHS = (1, 1, 1, 4, 4, 4, 10, 10, 10)
    ANCHORS = 2
    refine_below = 0.0
    lags = False

    def blob(self, canvas: ByteArray) -> FloatArray:
        return _blob(canvas, scale=1 / 128, mean=127.5, swap=False)

    def decode(self, outputs: Outputs, height: int, width: int, min_score: float) -> Candidates:
        return self.decode_many(outputs, 1, height, width, min_score)[0]

    def decode_many(
        self, outputs: Outputs, count: int, height: int, width: int, min_score: float
    ) -> list[Candidates]:
        corners, strides = _grid(height, width, self.ANCHORS)
        score, distance, offset = _columns(outputs, self.WIDTHS, count, len(strides))
        keep = np.flatnonzero(score[:, 0] >= min_score)
        cell = keep % len(strides)
        stride = strides[cell, None]
        anchor = corners[cell] * stride
        distance = distance[keep] * stride
        boxes = np.hstack([anchor - distance[:, :2], anchor + distance[:, 2:]])
        points = anchor[:, None] + offset[keep].reshape(-1, 5, 2) * stride[:, None]
        seen = Candidates(boxes, points, score[keep, 0])
        return _by_input(seen, keep // len(strides), count)


HEADS: dict[str, Head] = {"yunet": YuNetHead(), "scrfd": ScrfdHead()}


def _columns(outputs: Outputs, widths: Sequence[int], count: int, cells: int) -> list[FloatArray]:
    """The outputs of all strides joined, part by part: (count · cells, width) each, input after
    input."""
    found = tuple(output.shape[-1] for output in outputs)
    if found != tuple(widths):
        raise ConfigError(f"the detector's outputs are {found} wide, expected {tuple(widths)}")
    rows = sum(output.size // output.shape[-1] for output in outputs[:3])
    inputs = outputs[0].shape[0] if outputs[0].ndim == 3 else 1
    if (inputs, rows) != (count, count * cells):
        raise ConfigError(
            f"the detector's outputs are {rows} rows of {inputs} inputs, "
            f"expected {count * cells} of {count}"
        )
    parts = [output.reshape(count, -1, output.shape[-1]) for output in outputs]
    joined = [np.concatenate(parts[at : at + 3], axis=1) for at in range(0, len(parts), 3)]
    return [part.reshape(-1, part.shape[-1]) for part in joined]


def _by_input(seen: Candidates, inputs: npt.NDArray[np.intp], count: int) -> list[Candidates]:
    """Those of each of ``count`` inputs; ``inputs``: which one each lies in, ascending."""
    if count == 1:
        return [seen]
    ends = np.searchsorted(inputs, np.arange(count + 1))
    return [
        Candidates(seen.boxes[a:b], seen.landmarks[a:b], seen.scores[a:b])
        for a, b in itertools.pairwise(ends)
    ]


def _blob(canvas: ByteArray, *, scale: float, mean: float, swap: bool) -> FloatArray:
    return np.asarray(
        cv2.dnn.blobFromImage(canvas, scale, mean=(mean, mean, mean), swapRB=swap), np.float32
    )


@functools.lru_cache(maxsize=64)
def _grid(height: int, width: int, anchors: int) -> tuple[FloatArray, FloatArray]:
    """Column and row of every cell, and its stride, in the order of the networks' rows."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = height // stride, width // stride
        xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
        cells.append(np.repeat(xy, anchors, axis=0))
        strides.append(np.full(len(cells[-1]), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
