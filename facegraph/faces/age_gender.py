"""Age and gender: the pixels two families of networks want and what their numbers mean.

``dlib-age``, ``dlib-gender``: dlib's networks. They want a square around the upright face, 64 and
32 pixels a side, RGB, minus the mean colour, divided by 256. dlib cuts it by five landmarks of its
own; here it is a fixed part of the ArcFace crop, found by comparing both on 85 faces. The
age is the expectation over 81 classes.

``genderage``: InsightFace's. It wants the box enlarged by half, not turned, 96 pixels a side.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.faces.alignment import transforms, warp
from facegraph.models.packs import AttributeModel
from facegraph.types import ByteArray, Faces, FloatArray

DLIB_CORNER = (8.5, 25.3)
"""Left and top of dlib's square, in pixels of the ArcFace crop."""

DLIB_SQUARE = 95.7

DLIB_MEAN = np.array([122.782, 117.001, 104.298], np.float32)

YEARS = np.arange(81, dtype=np.float32)
YEARS[0] = 0.25  # babies

AGE_SIDE, GENDER_SIDE, GENDERAGE_SIDE = 64, 32, 96

ENLARGED = 1.5


def age_input(rgb: ByteArray, faces: Faces, model: AttributeModel) -> FloatArray:
    """(n, 3, 64, 64) float32; black where the image ends."""
    return _dlib_input(rgb, faces, AGE_SIDE)


def gender_input(rgb: ByteArray, faces: Faces, model: AttributeModel) -> FloatArray:
    """(n, 3, 32, 32) float32; black where the image ends."""
    return _dlib_input(rgb, faces, GENDER_SIDE)


def genderage_input(rgb: ByteArray, faces: Faces, model: AttributeModel) -> FloatArray:
    """(n, 3, 96, 96) float32; black where the image ends."""
    crops = np.zeros((len(faces), GENDERAGE_SIDE, GENDERAGE_SIDE, 3), np.uint8)
    for crop, (x1, y1, x2, y2) in zip(crops, faces.boxes.tolist(), strict=True):
        scale = GENDERAGE_SIDE / (max(x2 - x1, y2 - y1, 1.0) * ENLARGED)
        shift = GENDERAGE_SIDE / 2 - scale * np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        warp(rgb, matrix, crop, border=cv2.BORDER_CONSTANT, average=False)
    return channels_first((crops.astype(np.float32) - model.mean) / model.std)


def age_of(output: FloatArray) -> dict[str, FloatArray]:
    """From (n, 81): the probability of each year."""
    return {"ages": output @ YEARS}


def gender_of(output: FloatArray) -> dict[str, FloatArray]:
    """From (n, 2): the probabilities of female, male."""
    return {"male_probabilities": output[:, 1]}


def genderage_of(output: FloatArray) -> dict[str, FloatArray]:
    """From (n, 3): logits of female, male; centuries."""
    male = 1 / (1 + np.exp(output[:, 0] - output[:, 1]))
    return {"ages": np.maximum(output[:, 2] * 100, 0), "male_probabilities": male}


def channels_first(pixels: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """(n, h, w, 3) → (n, 3, h, w), contiguous."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def _dlib_input(rgb: ByteArray, faces: Faces, side: int) -> FloatArray:
    scale = side / DLIB_SQUARE
    into = np.array([[scale, 0, -scale * DLIB_CORNER[0]], [0, scale, -scale * DLIB_CORNER[1]]])
    into[:, 2] -= 0.5
    crops = np.zeros((len(faces), side, side, 3), np.uint8)
    for crop, matrix in zip(crops, transforms(faces), strict=True):
        warp(rgb, into @ np.vstack([matrix, [0, 0, 1]]), crop)
    return channels_first((crops - DLIB_MEAN) / 256)
