"""Whether a face is a person before the camera or a picture of one: MiniFASNet.

Each network looks at the face's box with its surroundings, where the rim of a screen or of a sheet
of paper shows; how much of them is said by its ``scale``. The box is moved inside the image
where it sticks out and made smaller where it is larger. The answers of all networks are averaged.

It was made for a person close to a camera. Two of three photos that professionals had lit came
out as pictures, which they are.
"""

from __future__ import annotations

import cv2
import numpy as np

from facegraph.faces.age_gender import channels_first
from facegraph.models.packs import AttributeModel
from facegraph.types import ByteArray, Faces, FloatArray

SIDE = 80

LIVE = 0.5
"""At or above this probability a face counts as live."""

REAL = 1
"""The class of persons; the other two are pictures of them."""


def liveness_input(rgb: ByteArray, faces: Faces, model: AttributeModel) -> FloatArray:
    """(n, 3, 80, 80) float32, BGR 0..255."""
    crops = np.zeros((len(faces), SIDE, SIDE, 3), np.uint8)
    for crop, box in zip(crops, faces.boxes.tolist(), strict=True):
        left, top, right, bottom = surroundings(box, model.scale, rgb.shape[1], rgb.shape[0])
        crop[:] = cv2.resize(rgb[top:bottom, left:right], (SIDE, SIDE))[..., ::-1]
    return channels_first(crops.astype(np.float32))


def surroundings(
    box: list[float], scale: float, width: int, height: int
) -> tuple[int, int, int, int]:
    """The box enlarged ``scale`` times, or as often as the image allows: left, top, right, bottom
    in whole pixels, at least one each way, inside the image."""
    x1, y1, x2, y2 = box
    w, h = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    scale = min(scale, (width - 1) / w, (height - 1) / h)
    left, right = _placed((x1 + x2) / 2, w * scale, width)
    top, bottom = _placed((y1 + y2) / 2, h * scale, height)
    return left, top, right, bottom


def _placed(centre: float, length: float, limit: int) -> tuple[int, int]:
    start = min(max(centre - length / 2, 0.0), limit - 1 - length)
    return int(start), int(start + length) + 1


def live_of(output: FloatArray) -> dict[str, FloatArray]:
    """From (n, 3) logits."""
    weights = np.exp(output - output.max(axis=1, keepdims=True))
    return {"live_probabilities": weights[:, REAL] / weights.sum(axis=1)}
