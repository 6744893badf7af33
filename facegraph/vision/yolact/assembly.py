"""One object's mask: its mix of the prototypes, in the image's pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray
from facegraph.vision.enlarging import pixels_above
from facegraph.vision.masks import Window


def assemble(
    prototypes: FloatArray, coefficients: FloatArray, window: Window, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """The object's pixels inside ``window`` of a (height, width) image.

    prototypes: (k, h, w), coefficients: (k,)
    A pixel belongs to the object where the bilinear mean of the cells' sigmoids is over one half.
    """
    cells = _sigmoid(np.tensordot(coefficients, prototypes, axes=1))
    return pixels_above(0.5, cells, window, width, height)


def _sigmoid(x: FloatArray) -> FloatArray:
    # The tanh form never overflows.
    return np.asarray(0.5 + 0.5 * np.tanh(x / 2), np.float32)
