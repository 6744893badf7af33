"""What the engines of a detector and of an embedder are compared and timed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facegraph.faces import specimens
from facegraph.faces.heads import Head
from facegraph.faces.refinement import SIDE
from facegraph.faces.views import FREE_SHAPES
from facegraph.models.engines import GPU_BATCH, Shape, Trial
from facegraph.models.packs import EmbedderModel
from facegraph.types import CROP_SIZE, ByteArray, FloatArray

BATCHES = (1, 4, 16)
"""Numbers of crops in one run that are tried on a CPU; OpenVINO compiles for each of them."""

COMMON = FREE_SHAPES[1]
"""Of the inputs of a detector that takes any size, that of most photos."""


def embedder_trial(model: EmbedderModel, folder: Path) -> Trial:
    """On the crops of seven people; ``folder`` remembers."""

    def inputs(shape: Shape) -> list[FloatArray]:
        return [_repeated(row[None], shape) for row in crop_blob(specimens.crops(), model)]

    def shapes(shape: Shape) -> list[tuple[int, ...]]:
        rows = [shape[0]] if shape[0] else [1, GPU_BATCH]
        return [(n, 3, CROP_SIZE, CROP_SIZE) for n in rows]

    return Trial(inputs, folder, BATCHES, shapes)


def detector_trial(head: Head, max_batch: int, folder: Path) -> Trial:
    """On a group and a portrait; ``folder`` remembers."""

    def inputs(shape: Shape) -> list[FloatArray]:
        height, width = shape[2] or COMMON[0], shape[3] or COMMON[1]
        canvases = specimens.canvases(height, width)
        return [_repeated(head.blob(canvas), shape) for canvas in canvases]

    def shapes(shape: Shape) -> list[tuple[int, ...]]:
        sides = [(shape[2], shape[3])] if shape[2] and shape[3] else [(SIDE, SIDE), *FREE_SHAPES]
        rows = [shape[0]] if shape[0] else [1, max_batch]
        return [(n, 3, height, width) for n in rows for height, width in sides]

    return Trial(inputs, folder, shapes=shapes)


def crop_blob(crops: ByteArray, model: EmbedderModel) -> FloatArray:
    """(n, 112, 112, 3) uint8 RGB → (n, 3, 112, 112) float32 as the network wants it."""
    ordered = crops if model.color == "rgb" else crops[..., ::-1]
    blob = np.empty((len(crops), 3, CROP_SIZE, CROP_SIZE), np.float32)
    np.subtract(ordered.transpose(0, 3, 1, 2), _by_channel(model.mean), out=blob)
    blob /= _by_channel(model.std)
    return blob


def _by_channel(numbers: tuple[float, float, float]) -> FloatArray:
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


def _repeated(row: FloatArray, shape: Shape) -> FloatArray:
    """One row, as often as the network takes rows."""
    return np.repeat(row, shape[0] or 1, axis=0)
