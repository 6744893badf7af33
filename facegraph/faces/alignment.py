"""``arcface-112-v1``: the 5-point similarity transform to the 112×112 crop ArcFace introduced.

The transform is the least-squares one of Umeyama (1991). In the plane, with points as complex
numbers, it has a closed form: centred points z and template w give the factor
``a = Σ conj(z)·w / Σ |z|²``, whose modulus is the scale and whose angle is the rotation.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.images import Raster
from facegraph.types import CROP_SIZE, ByteArray, Faces, FloatArray

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Where the five points lie in the crop, pixels."""

MIN_SPREAD = 0.05
"""Points closer together than this part of their box say nothing about the face's pose."""

Matrices = npt.NDArray[np.float64]


def align(rgb: ByteArray, faces: Faces) -> ByteArray:
    """The crops of ``faces`` in the image ``rgb`` (h, w, 3): (n, 112, 112, 3) uint8 RGB."""
    crops = np.zeros((len(faces), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    for crop, matrix in zip(crops, transforms(faces), strict=True):
        warp(rgb, matrix, crop)
    return crops


def transforms(faces: Faces) -> Matrices:
    """(n, 2, 3) float64 per face: image pixels → crop pixels.

    Points that collapse into one or are not finite are replaced by a square around the box.
    """
    matrices = similarity(faces.landmarks)
    boxes = faces.boxes.astype(np.float64)
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    spread = np.linalg.norm(np.ptp(faces.landmarks.astype(np.float64), axis=1), axis=1)
    with np.errstate(invalid="ignore"):
        poor = ~(spread >= MIN_SPREAD * side) | ~np.isfinite(matrices).all(axis=(1, 2))
    matrices[poor] = _from_boxes(boxes[poor])
    return matrices


def similarity(landmarks: FloatArray) -> Matrices:
    """(n, 5, 2) points → (n, 2, 3) float64; not finite where all five points are one."""
    points = landmarks.astype(np.float64) @ np.array([1, 1j])
    target = TEMPLATE @ np.array([1, 1j])
    middle = points.mean(axis=1, keepdims=True)
    z, w = points - middle, target - target.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (z.conj() * w).sum(axis=1) / (np.abs(z) ** 2).sum(axis=1)
        shift = target.mean() - a * middle[:, 0]
    rows = [np.stack([a.real, -a.imag, shift.real], 1), np.stack([a.imag, a.real, shift.imag], 1)]
    return np.stack(rows, axis=1)


def _from_boxes(boxes: Matrices) -> Matrices:
    scale = CROP_SIZE / np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 1.0)
    shift = CROP_SIZE / 2 - scale[:, None] * (boxes[:, :2] + boxes[:, 2:]) / 2
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = shift
    return matrices


def sample(raster: Raster, matrix: npt.NDArray[np.float64], crop: ByteArray) -> None:
    """As :func:`warp`, ``matrix`` taking pixels of the picture that ``raster`` is of."""
    smaller = _grown(raster.factor, raster.factor)
    smaller[:2, 2] -= raster.left, raster.top
    warp(raster.rgb, matrix @ smaller, crop)


def warp(
    rgb: ByteArray,
    matrix: npt.NDArray[np.float64],
    crop: ByteArray,
    *,
    border: int = cv2.BORDER_CONSTANT,
    average: bool = True,
) -> None:
    """Fill the square ``crop`` with what ``matrix`` (2, 3) brings into it.

    border: what lies outside the image; by default it is black

    Only the part of the image that the crop shows is touched: warpAffine refuses sides of
    32,768 pixels and more. A face much larger than the crop is first shrunk by a whole factor,
    averaging, because bilinear sampling would skip pixels (aliasing); ``average`` False is for
    models that were trained on skipped ones.
    """
    side = crop.shape[0]
    window = _window(matrix, side, rgb.shape[1], rgb.shape[0])
    if window is None:
        return
    left, top, right, bottom = window
    part = rgb[top:bottom, left:right]
    matrix = matrix @ _moved(left, top)
    factor = int(1 / np.hypot(matrix[0, 0], matrix[1, 0])) if average else 1
    if factor > 1:
        height, width = part.shape[:2]
        size = (max(1, width // factor), max(1, height // factor))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix @ _grown(width / size[0], height / size[1])
    cv2.warpAffine(part, matrix, (side, side), dst=crop, borderMode=border)


def _window(
    matrix: npt.NDArray[np.float64], side: int, width: int, height: int
) -> tuple[int, int, int, int] | None:
    """The part of the image that the crop shows, with 2 pixels around; None if there is none."""
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) - 0.5
    inside = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T)
    margin = 2 + 1 / np.hypot(matrix[0, 0], matrix[1, 0])
    low = np.floor(inside.min(axis=1) - margin)
    high = np.ceil(inside.max(axis=1) + margin)
    left, top = np.clip(low, 0, (width, height)).astype(int)
    right, bottom = np.clip(high, 0, (width, height)).astype(int)
    return (left, top, right, bottom) if right > left and bottom > top else None


def _moved(left: int, top: int) -> npt.NDArray[np.float64]:
    return np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])


def _grown(x: float, y: float) -> npt.NDArray[np.float64]:
    """Shrunken pixels → pixels; the centres of pixels lie at whole coordinates."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
