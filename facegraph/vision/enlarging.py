"""A network's small mask, enlarged to the image inside one window only.

Memory follows the window, one byte a pixel, whatever the number of objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray
from facegraph.vision.masks import Window

TILE = 1024
"""Side of the parts that are enlarged at once, in pixels."""


class Taps(NamedTuple):
    """For each target pixel of one axis the two cells it lies between, and how near the second.

    low, high: (n,) intp; weight: (n,) float32 in 0..1
    """

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: FloatArray

    def part(self, start: int, stop: int) -> Taps:
        return Taps(self.low[start:stop], self.high[start:stop], self.weight[start:stop])


def taps(start: int, stop: int, target: int, source: int) -> Taps:
    """For pixels ``start`` to ``stop`` of ``target`` that ``source`` cells are stretched to.

    Pixels and cells are squares side by side; beyond the outermost centres nothing changes.
    """
    at = (np.arange(start, stop) + 0.5) * (source / target) - 0.5
    at = np.clip(at, 0, source - 1)
    low = at.astype(np.intp)
    return Taps(low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32))


def pixels_above(
    threshold: float, cells: FloatArray, window: Window, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """The pixels of ``window`` whose bilinear mean of the cells is over ``threshold``.

    cells: (h, w), stretched over the whole of a (height, width) image
    """
    left, top, right, bottom = window
    columns = taps(left, right, width, cells.shape[1])
    rows = taps(top, bottom, height, cells.shape[0])
    mask = np.empty((bottom - top, right - left), np.bool_)
    for y in range(0, mask.shape[0], TILE):
        for x in range(0, mask.shape[1], TILE):
            part = _enlarged(cells, rows.part(y, y + TILE), columns.part(x, x + TILE))
            mask[y : y + TILE, x : x + TILE] = part > threshold
    return mask


def _enlarged(cells: FloatArray, rows: Taps, columns: Taps) -> FloatArray:
    first = rows.low[0]
    used = cells[first : rows.high[-1] + 1]
    wide: FloatArray = used[:, columns.low]
    wide += (used[:, columns.high] - wide) * columns.weight
    tall: FloatArray = wide[rows.low - first]
    tall += (wide[rows.high - first] - tall) * rows.weight[:, None]
    return tall
