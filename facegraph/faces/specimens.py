"""Real faces to compare engines on, out of pictures that installed packages bring.

Noise is no judge: rounding shows in what a network was trained for. Where a package lacks its
picture, smooth patterns stand in.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np

from facegraph.faces.alignment import align
from facegraph.types import CROP_SIZE, ByteArray, Faces, FloatArray

GROUP = ("insightface", "data/images/t1.jpg")
PORTRAIT = ("skimage", "data/astronaut.png")

GROUP_POINTS = (
    ((497, 324), (545, 337), (516, 360), (488, 373), (528, 384)),
    ((919, 124), (950, 119), (920, 154), (933, 174), (959, 170)),
    ((83, 328), (125, 306), (117, 341), (110, 370), (145, 352)),
    ((764, 402), (808, 404), (777, 427), (766, 443), (804, 444)),
    ((287, 208), (325, 190), (308, 227), (311, 249), (343, 234)),
    ((1146, 323), (1191, 322), (1161, 346), (1152, 370), (1189, 369)),
)
PORTRAIT_POINTS = (((201, 104), (246, 104), (221, 124), (202, 143), (241, 144)),)


@functools.cache
def crops() -> ByteArray:
    """Aligned crops of seven people: (7, 112, 112, 3) uint8 RGB."""
    group, portrait = _picture(*GROUP), _picture(*PORTRAIT)
    if group is None or portrait is None:
        return _patterns(7, (CROP_SIZE, CROP_SIZE))
    return np.concatenate(
        [align(group, _faces(GROUP_POINTS)), align(portrait, _faces(PORTRAIT_POINTS))]
    )


def canvases(height: int, width: int) -> ByteArray:
    """A group and a portrait in the upper left corner of black: (2, height, width, 3) uint8 RGB."""
    pictures = [_picture(*GROUP), _picture(*PORTRAIT)]
    if any(picture is None for picture in pictures):
        return _patterns(2, (height, width))
    drawn = np.zeros((2, height, width, 3), np.uint8)
    for canvas, picture in zip(drawn, pictures, strict=True):
        assert picture is not None
        scale = min(1.0, height / picture.shape[0], width / picture.shape[1])
        size = (int(picture.shape[1] * scale), int(picture.shape[0] * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        canvas[: size[1], : size[0]] = small
    return drawn


def _picture(package: str, path: str) -> ByteArray | None:
    """(h, w, 3) uint8 RGB; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    pixels = cv2.imread(str(Path(spec.origin).parent / path), cv2.IMREAD_COLOR)
    return None if pixels is None else np.ascontiguousarray(pixels[..., ::-1], np.uint8)


def _faces(points: tuple[tuple[tuple[int, int], ...], ...]) -> Faces:
    landmarks: FloatArray = np.array(points, np.float32)
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    return Faces(boxes, landmarks, np.ones(len(landmarks), np.float32))


def _patterns(n: int, size: tuple[int, int]) -> ByteArray:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)
    smooth = [cv2.resize(one, size[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.asarray(smooth, np.uint8)
