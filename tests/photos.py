"""Pictures that installed packages bring, and the shared assets where this machine has them."""

from __future__ import annotations

import io
import os
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facegraph.types import ByteArray


def _file(package: str, *parts: str) -> Path:
    return Path(str(resources.files(package))).joinpath(*parts)


GROUP = _file("insightface", "data", "images", "t1.jpg")
"""1280×886, six faces of about 100 pixels."""

PORTRAIT = _file("insightface", "data", "images", "Tom_Hanks_54745.png")
"""112×112, one face that fills the frame."""

ASTRONAUT = _file("skimage", "data", "astronaut.png")
"""512×512, one face."""

NO_FACE = _file("skimage", "data", "chelsea.png")
"""451×300, a cat."""

GROUP_FACES = 6


def pixels(path: Path) -> ByteArray:
    """(h, w, 3) uint8 RGB."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def resized(rgb: ByteArray, size: tuple[int, int]) -> ByteArray:
    """``rgb`` at (width, height); averaging where it shrinks."""
    method = cv2.INTER_AREA if size[0] < rgb.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8)


def encoded(rgb: ByteArray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format, **options)
    return buffer.getvalue()


def assets(*parts: str) -> Path:
    """A path among the shared assets; skips the test where they are absent."""
    root = os.environ.get("FACEGRAPH_TEST_ASSETS")
    folder = Path(root) if root else Path(__file__).parents[2] / "shared" / "assets"
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared assets (FACEGRAPH_TEST_ASSETS)")
    return path
