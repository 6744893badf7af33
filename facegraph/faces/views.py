"""At which scales an image is looked at, and in which pieces.

Networks find faces of about 16 to 500 pixels in their input. So an image is looked at

1. once as a whole, shrunk (never enlarged) to 576 pixels on its longer side, with a black margin
   of 32 pixels, in which networks find faces that the image's border cuts. A face of 3 % of the
   longer side is found. This is the only pass for images up to 1920 pixels on the longer side;
2. in tiles at 0.4 of its size, where the first pass shrank it below 0.3: the faces of 45 pixels
   and more in a photo of 12 megapixels. Tiles overlap by 128 pixels; what lies across a tile's
   inner edge is left to its neighbour, and to the first pass where it is larger than the
   overlap. At most 24 tiles: beyond about 30 megapixels the scale falls;
3. once more at 192 pixels, where nothing was found or a face fills the frame.

Cost, in passes of 640×640: 0.25 for images up to 256 pixels, 0.7 to 1 for others, 10 for
12 megapixels, 25 at most; 0.25 more for the third look; and 0.16 for each small
face that facegraph.faces.refinement looks at again, and for each turned look of
facegraph.faces.upright, three a face at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from facegraph.images import Raster
from facegraph.types import ByteArray

MARGIN = 32
WHOLE_MIN_SCALE = 0.3
TILE_SCALE = 0.4
TILE_OVERLAP = 128
MAX_TILES = 24
CLOSE_UP_SIDE = 192

Shape = tuple[int, int]
"""Height and width of a network's input."""

FREE_SHAPES: tuple[Shape, ...] = (
    (320, 320),
    (448, 640),
    (640, 448),
    (512, 640),
    (640, 512),
    (640, 640),
)
"""Used where the network takes any size: few, because some engines compile for each of them."""


@dataclass(frozen=True, slots=True)
class View:
    """A window of ``shape`` on the image scaled by ``scale``.

    left, top: where the window begins in the scaled image; negative is margin
    cuts: which edges (left, top, right, bottom) have image beyond them
    """

    scale: float
    shape: Shape
    left: int
    top: int
    cuts: tuple[bool, bool, bool, bool] = (False, False, False, False)


def whole(width: int, height: int, shapes: Sequence[Shape]) -> View:
    """The view of the whole image: at the largest scale, then in the smallest input."""
    scales = {shape: _fit(width, height, shape) for shape in shapes}
    best = max(scales.values())
    good = [shape for shape in shapes if scales[shape] >= 0.999 * best]
    shape = min(good, key=lambda shape: shape[0] * shape[1])
    return View(scales[shape], shape, -MARGIN, -MARGIN)


def close_up(width: int, height: int, shapes: Sequence[Shape]) -> View | None:
    """The view in which a face larger than the frame is small; None if the whole view was it."""
    shape = min(shapes, key=lambda shape: shape[0] * shape[1])
    scale = CLOSE_UP_SIDE / max(width, height)
    if scale >= 0.75 * whole(width, height, shapes).scale:
        return None
    return View(scale, shape, -MARGIN, -MARGIN)


def tiles(width: int, height: int, shapes: Sequence[Shape]) -> list[View]:
    """The tiles, row by row; none where the whole view is fine enough."""
    if whole(width, height, shapes).scale >= WHOLE_MIN_SCALE:
        return []
    shape = max(shapes, key=lambda shape: shape[0] * shape[1])
    scale = TILE_SCALE
    while True:
        across = _starts(math.ceil(width * scale) + 2 * MARGIN, shape[1])
        down = _starts(math.ceil(height * scale) + 2 * MARGIN, shape[0])
        if len(across) * len(down) <= MAX_TILES:
            break
        scale *= 0.95
    return [
        View(
            scale,
            shape,
            left - MARGIN,
            top - MARGIN,
            (left > across[0], top > down[0], left < across[-1], top < down[-1]),
        )
        for top in down
        for left in across
    ]


def draw(scaled: ByteArray, view: View) -> ByteArray:
    """The pixels of ``view`` on the image scaled by ``view.scale``; black outside the image."""
    canvas = np.zeros((*view.shape, 3), np.uint8)
    to_top, to_left = max(0, -view.top), max(0, -view.left)
    part = scaled[
        max(0, view.top) : view.top + view.shape[0], max(0, view.left) : view.left + view.shape[1]
    ]
    canvas[to_top : to_top + part.shape[0], to_left : to_left + part.shape[1]] = part
    return canvas


def scaled(raster: Raster, width: int, height: int, scale: float) -> ByteArray:
    """The picture of ``width`` × ``height`` pixels, scaled, from the pixels at hand.

    A point of the picture lies where it would lie had all of them been decoded, to a small part of
    a pixel; rounding the size of what is already small would move it by one.
    """
    if raster.factor == 1:
        return shrink(raster.rgb, scale)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    zoom = (size[0] * raster.factor / width, size[1] * raster.factor / height)
    pixels = cv2.resize(raster.rgb, None, fx=zoom[0], fy=zoom[1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(pixels[: size[1], : size[0]], np.uint8)


def shrink(rgb: ByteArray, scale: float) -> ByteArray:
    """``rgb`` scaled, at least one pixel on each side; averaging where much is lost.

    Averaging by a whole factor first would be five times faster, and turn embeddings by up to
    0.92: that much do landmarks owe to how the pixels of a view were made.
    """
    if scale == 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8)


def _fit(width: int, height: int, shape: Shape) -> float:
    return min(1.0, (shape[1] - 2 * MARGIN) / width, (shape[0] - 2 * MARGIN) / height)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover ``length`` evenly, overlapping by TILE_OVERLAP or more."""
    if length <= window:
        return [0]
    count = math.ceil((length - TILE_OVERLAP) / (window - TILE_OVERLAP))
    return [round(at * (length - window) / (count - 1)) for at in range(count)]
