"""From a client's bytes to pixels, with every limit. The only place that opens pictures.

Pillow reads the header; its own guard against bombs is switched off here because ours, which
the operator sets, is checked first and from the header alone.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageFile

from facegraph.decoders import decode_opened
from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.types import ByteArray

Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What Pillow may try. JPEG includes MPO, the file of several pictures that cameras write."""

for _plugin in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")  # each registers itself

ORIENTATION_TAG = 0x0112

REDUCED_FROM = 2_000_000
"""Pixels of a JPEG below which all are decoded: less would save next to nothing, and cost a second
decoding where a face is small."""

FACTORS = (8, 4, 2)

Turn = Callable[[ByteArray], ByteArray]


def _transposed(pixels: ByteArray) -> ByteArray:
    return np.asarray(cv2.transpose(pixels))


def _rotated(code: int) -> Turn:
    return lambda pixels: np.asarray(cv2.rotate(pixels, code))


def _flipped(code: int) -> Turn:
    return lambda pixels: np.asarray(cv2.flip(pixels, code))


UPRIGHT: dict[int, Turn] = {
    2: _flipped(1),
    3: _rotated(cv2.ROTATE_180),
    4: _flipped(0),
    5: _transposed,
    6: _rotated(cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: _rotated(cv2.ROTATE_180)(_transposed(pixels)),
    8: _rotated(cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""EXIF orientation → what makes the picture upright."""

SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """A picture's pixels, (h, w, 3) uint8 RGB, upright, ``factor`` times smaller each way.

    left, top: pixels of the picture by which the first pixel sticks out of it, less than
        ``factor``. So column x of the picture is found at (x + left) / factor.
    """

    rgb: ByteArray
    factor: int = 1
    left: int = 0
    top: int = 0


class Picture:
    """A client's picture, decoded as finely as was asked for so far. For one thread at a time.

    width, height: upright, pixels
    """

    def __init__(self, width: int, height: int, decode: Callable[[int], Raster]) -> None:
        """``decode`` makes the raster that is at most so many times smaller."""
        self.width, self.height = width, height
        self._decode: Callable[[int], Raster] | None = decode
        self._raster: Raster | None = None

    @classmethod
    def of(cls, rgb: ByteArray) -> Picture:
        """From upright pixels (h, w, 3) uint8 RGB."""
        return cls(rgb.shape[1], rgb.shape[0], lambda factor: Raster(rgb))

    def at(self, scale: float) -> Raster:
        """Pixels of at least ``scale`` times the picture's size, or all of them.

        Raises InvalidImage, at the first call if ever.
        """
        if self._decode and (self._raster is None or self._raster.factor * scale > 1):
            raster = self._decode(next((f for f in FACTORS if f * scale <= 1), 1))
            self._raster = raster
            if raster.factor == 1:
                self._decode = None  # and with it the compressed bytes
        assert self._raster is not None
        return self._raster


def open_picture(data: bytes, *, max_pixels: int) -> Picture:
    """The first picture in ``data``, nothing of it decoded where it can be decoded smaller.

    Raises ImageTooLarge from the header alone, InvalidImage.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image has {width}×{height} pixels, at most {max_pixels} are allowed"
        )
    if image.format in ("JPEG", "MPO") and width * height >= REDUCED_FROM:
        if _orientation(image) in SIDEWAYS:
            width, height = height, width
        return Picture(width, height, lambda factor: _decoded(image, data, factor))
    return Picture.of(_decoded(image, data, 1).rgb)


def _decoded(image: ImageFile.ImageFile, data: bytes, factor: int) -> Raster:
    try:
        stored, factor = decode_opened(image, data, factor)
        orientation = _orientation(image)
        turn = UPRIGHT.get(orientation)
        pixels = stored if turn is None else turn(stored)
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise InvalidImage(f"the image is damaged or incomplete: {_said(error)}") from error
    right = stored.shape[1] * factor - image.width
    below = stored.shape[0] * factor - image.height
    left = {2: right, 3: right, 6: below, 7: below}.get(orientation, 0)
    top = {3: below, 4: below, 7: right, 8: right}.get(orientation, 0)
    return Raster(pixels, factor, left, top)


def decode(data: bytes, *, max_pixels: int) -> ByteArray:
    """The first picture in ``data``, upright: (h, w, 3) uint8 RGB.

    Transparent parts show white; 16-bit and float greys are scaled to 8 bits.
    Raises ImageTooLarge before decoding, InvalidImage for everything that is no whole picture
    of a known format.
    """
    return open_picture(data, max_pixels=max_pixels).at(1).rgb


def format_of(data: bytes) -> str:
    """``JPEG``, ``PNG``, …, from the header. Raises InvalidImage."""
    name = _open(data).format
    return "JPEG" if name == "MPO" else str(name)


def colour_profile(data: bytes) -> bytes | None:
    """The ICC profile that the picture carries, as it came; :func:`decode` heeds none.

    Raises InvalidImage.
    """
    profile = _open(data).info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


def _open(data: bytes) -> ImageFile.ImageFile:
    if not data:
        raise InvalidImage("the image is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # as in decode
        raise InvalidImage(f"not an image of a known format ({', '.join(FORMATS)})") from error
    if image.width < 1 or image.height < 1:
        raise InvalidImage(f"the image has {image.width}×{image.height} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        # The base class's: PNG's own would load the picture to look behind its pixels.
        return int(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block says nothing about the pixels
        return 1


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
