"""How well a face can be recognised, in parts, from its pixels and landmarks.

Every part is scaled so that 1/2, its bar, is where the default pack's embedding of a spoilt
picture has turned to a cosine of 0.85 against the clean one (74 faces, blurred, darkened,
brightened and shrunk step by step); for the pose, where half of the face's area is turned away.

sharpness   variance of the Laplacian in parts of the grey values' own, logarithmic from 0.001 to
            0.3. It is measured at the picture's own resolution, or at the crop's where that is
            coarser: never enlarged, so a small face is not blurred by being small, and one that
            somebody enlarged is.
brightness  the least of three: the mean grey value, logarithmic from 4 to 64; from 250 down to
            180; and contrast, the deviation in parts of the mean, up to 0.12.
size        pixels between the eyes, as if it looked ahead, logarithmic from 4 to 35, which is what
            the aligned crop holds.
pose        the square of the part of the face's front that looks into the camera.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.faces.alignment import TEMPLATE, transforms, warp
from facegraph.faces.pose import Rotations
from facegraph.types import CROP_SIZE, QUALITY_PARTS, ByteArray, Faces, FloatArray

BAR = 0.5
"""A part below it is a reason."""

REASONS = ("blurred", "too_dark", "too_bright", "low_contrast", "too_small", "turned_away")

EYE_DISTANCE = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])
"""Pixels between the eyes in the aligned crop."""

FACE = (0.25, 0.95, 0.18, 0.82)
"""The face without hair and background: top, bottom, left, right, in parts of the crop."""

LEAST_SIDE = 12
"""A crop of fewer pixels a side is not measured but enlarged to this."""

GREY_NOISE = 20.0
"""Added to the variance of grey values: rounding alone must not look sharp."""


def measure(
    rgb: ByteArray, faces: Faces, turned: Rotations
) -> tuple[FloatArray, tuple[tuple[str, ...], ...]]:
    """The parts (n, 4) float32 in 0..1, as ``QUALITY_PARTS`` orders them, and each face's reasons.

    turned: (n, 3, 3), see :func:`facegraph.faces.pose.rotations`
    """
    parts = np.zeros((len(faces), len(QUALITY_PARTS)), np.float32)
    reasons = []
    for row, matrix, rotation in zip(parts, transforms(faces), turned, strict=True):
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        sharpness, light = _pixels(rgb, matrix, scale)
        size = _ramp(EYE_DISTANCE / scale, 4, 35)
        pose = max(0.0, float(rotation[2, 2])) ** 2
        row[:] = sharpness, min(light.values()), size, pose
        told = {"blurred": sharpness, **light, "too_small": size, "turned_away": pose}
        reasons.append(tuple(reason for reason in REASONS if told[reason] < BAR))
    return parts, tuple(reasons)


def score(parts: FloatArray) -> FloatArray:
    """(n, 4) → (n,): a face is as good as its weakest part."""
    return np.asarray(parts.min(axis=1), np.float32)


def _pixels(
    rgb: ByteArray, matrix: npt.NDArray[np.float64], scale: float
) -> tuple[float, dict[str, float]]:
    """Sharpness, and brightness by what would be wrong with it."""
    grey = _grey(rgb, matrix, scale)
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE))
    top, bottom, left, right = (round(part * len(grey)) for part in FACE)
    grey, edges = grey[top:bottom, left:right], edges[top:bottom, left:right]
    mean, deviation = float(grey.mean()), float(grey.std())
    light = {
        "too_dark": _ramp(mean, 4, 64),
        "too_bright": float(np.clip((250 - mean) / 70, 0, 1)),
        "low_contrast": min(1.0, deviation / max(mean, 1) / 0.12),
    }
    return _ramp(float(edges.var()) / (deviation**2 + GREY_NOISE), 0.001, 0.3), light


def _grey(rgb: ByteArray, matrix: npt.NDArray[np.float64], scale: float) -> FloatArray:
    """The aligned crop, not enlarged; where the image ends, its border goes on."""
    side = max(LEAST_SIDE, round(CROP_SIZE / max(scale, 1)))
    factor = side / CROP_SIZE
    shrunk = factor * matrix
    shrunk[:, 2] += (factor - 1) / 2  # the centres of pixels lie at whole coordinates
    crop = np.zeros((side, side, 3), np.uint8)
    warp(rgb, shrunk, crop, border=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.float32)


def _ramp(value: float, low: float, high: float) -> float:
    """0 at ``low`` and below, 1 at ``high`` and above, logarithmic between."""
    return float(np.clip(np.log(max(value, low) / low) / np.log(high / low), 0, 1))
