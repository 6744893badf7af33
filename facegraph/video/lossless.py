"""Frames as the detector takes pictures: compressed bytes, but without loss and at once."""

from __future__ import annotations

import cv2
import numpy as np

from facegraph.types import ByteArray


def bmp_within(rgb: ByteArray, longest_side: int) -> tuple[bytes, float]:
    """(h, w, 3) uint8 RGB as BMP, shrunk where it is larger; its scale in parts of the frame."""
    height, width = rgb.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".bmp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError(f"a frame of {rgb.shape} cannot be written as BMP")
    return data.tobytes(), scale
