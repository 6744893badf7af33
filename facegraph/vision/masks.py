"""Masks as COCO's compressed run lengths, made and read without an array of the whole image.

A mask's runs go down its columns, left to right, beginning with zeros; ``counts`` is the string
that pycocotools makes of their lengths. The ingress imports this module: nothing heavy here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from facegraph.types import ByteArray, FloatArray

Box = FloatArray | Sequence[float]
"""x1 y1 x2 y2 in pixels."""

Window = tuple[int, int, int, int]
"""left, top, right, bottom in whole pixels; right and bottom are the first beyond."""

Places = npt.NDArray[np.int64]


def window_of(box: Box, width: int, height: int) -> Window:
    """The pixels that ``box`` touches: rounded outwards, clipped to the image; maybe none."""
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return left, top, max(left, right), max(top, bottom)


def encode(
    crop: npt.NDArray[np.bool_] | ByteArray, left: int, top: int, width: int, height: int
) -> bytes:
    """The counts of a (height, width) mask that is ``crop`` at (left, top) and zero elsewhere.

    crop: (h, w) bool or uint8; what is not zero belongs to the mask
    Time and memory follow the crop. Raises ValueError where it does not lie in the image.
    """
    rows, columns = crop.shape
    if min(left, top) < 0 or left + columns > width or top + rows > height:
        raise ValueError(
            f"a crop of {columns}×{rows} at {left}, {top} is not within {width}×{height}"
        )
    fenced = np.zeros((columns, rows + 2), np.int8)
    fenced[:, 1:-1] = crop.T != 0
    steps = np.diff(fenced, axis=1)
    column, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    offset = (left + column.astype(np.int64)) * height + top
    return _compressed(offset + starts, offset + ends, width, height)


def decode(counts: bytes, width: int, height: int) -> ByteArray:
    """(height, width) uint8: 1 in the mask, 0 elsewhere."""
    return decode_window(counts, width, height, (0, 0, width, height))


def decode_window(counts: bytes, width: int, height: int, window: Window) -> ByteArray:
    """The part of the mask within ``window``, which lies in the image: (h, w) uint8, 0 or 1.

    Time and memory follow the window and the number of runs.
    """
    left, top, right, bottom = window
    starts, ends = _runs(counts)
    column, starts, ends = _by_column(starts, ends, height, left, right)
    starts, ends = np.clip((starts, ends), top, bottom) - top
    seen = starts < ends
    crop = np.zeros((right - left, bottom - top + 1), np.int8)
    crop[column[seen] - left, starts[seen]] = 1
    crop[column[seen] - left, ends[seen]] = -1
    np.cumsum(crop, axis=1, out=crop)
    return np.ascontiguousarray(crop[:, :-1].T).view(np.uint8)


def area(counts: bytes, width: int, height: int) -> int:
    """Pixels in the mask."""
    return int(coco.area({"size": [height, width], "counts": counts}))


def coverage(counts: bytes, width: int, height: int, box: Box) -> float:
    """How much of ``box`` the mask covers, 0..1, counted in the pixels that the box touches."""
    crop = decode_window(counts, width, height, window_of(box, width, height))
    return float(np.count_nonzero(crop) / crop.size) if crop.size else 0.0


def box_iou(counts: bytes, width: int, height: int, box: Box) -> float:
    """Intersection over union of the mask and the pixels that ``box`` touches; 0 if all empty."""
    crop = decode_window(counts, width, height, window_of(box, width, height))
    both = int(np.count_nonzero(crop))
    either = area(counts, width, height) + crop.size - both
    return both / either if either else 0.0


def png(counts: bytes, width: int, height: int) -> bytes:
    """The mask as a grey PNG of one bit a pixel, white on black."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(decode(counts, width, height).view(np.bool_)).save(buffer, "PNG")
    return buffer.getvalue()


def _compressed(starts: Places, ends: Places, width: int, height: int) -> bytes:
    """The counts of runs of ones from ``starts`` to before ``ends``, both ascending."""
    # A run that ends at a column's bottom goes on where the next begins at its top.
    apart = starts[1:] != ends[:-1]
    starts = np.concatenate([starts[:1], starts[1:][apart]])
    ends = np.concatenate([ends[:-1][apart], ends[-1:]])
    bounds = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [width * height]])
    lengths = np.diff(bounds)
    if lengths.size > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]
    plain = {"size": [height, width], "counts": lengths.astype(np.uint32)}
    return bytes(coco.frPyObjects(plain, height, width)["counts"])


def _runs(counts: bytes) -> tuple[Places, Places]:
    """Where the runs of ones start and end (first pixel beyond), counted down the columns.

    A length is written in groups of 5 bits, low ones first, each in the low bits of a character
    less 48 whose bit 6 says that more follow; the last group's top bit is the sign. From the
    fourth on, it is the difference to the length two before.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    lengths = np.add.reduceat((digits & 31) << (5 * place), first)
    lengths -= ((digits[last] & 16) != 0).astype(np.int64) << (5 * (last - first + 1))
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    bounds = np.cumsum(lengths)
    starts, ends = bounds[0::2], bounds[1::2]
    return starts[: len(ends)], ends


def _by_column(
    starts: Places, ends: Places, height: int, left: int, right: int
) -> tuple[Places, Places, Places]:
    """The runs cut at the columns' ends: column, first row, row beyond; only of left..right."""
    starts, ends = np.clip((starts, ends), left * height, right * height)
    filled = starts < ends
    starts, ends = starts[filled], ends[filled]
    first = starts // height
    columns = (ends - 1) // height - first + 1
    begin = np.cumsum(columns) - columns
    column = np.arange(columns.sum()) - np.repeat(begin - first, columns)
    top = column * height
    starts = np.maximum(np.repeat(starts, columns), top) - top
    ends = np.minimum(np.repeat(ends, columns), top + height) - top
    return column, starts, ends
