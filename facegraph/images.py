"""From a client's bytes to pixels, with every limit. The only place that decodes pictures.

Pillow does the decoding; its own guard against bombs is switched off here because ours, which
the operator sets, is checked first and from the header alone.
"""

from __future__ import annotations

import importlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.types import ByteArray

Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What Pillow may try. JPEG includes MPO, the file of several pictures that cameras write."""

for _plugin in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")  # each registers itself

ORIENTATION_TAG = 0x0112

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the picture upright."""

WIDE_GREY = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits; all of them grey."""


def decode(data: bytes, *, max_pixels: int) -> ByteArray:
    """The first picture in ``data``, upright: (h, w, 3) uint8 RGB.

    Transparent parts show white; 16-bit and float greys are scaled to 8 bits.
    Raises ImageTooLarge before decoding, InvalidImage for everything that is no whole picture
    of a known format.
    """
    image = _open(data)
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"the image has {image.width}×{image.height} pixels, at most {max_pixels} are allowed"
        )
    try:
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        pixels = _to_rgb(image if turn is None else image.transpose(turn))
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise InvalidImage(f"the image is damaged or incomplete: {_said(error)}") from error
    return pixels


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
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block says nothing about the pixels
        return 1


def _to_rgb(image: Image.Image) -> ByteArray:
    if image.mode in WIDE_GREY:
        grey = _to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _to_8_bits(grey: npt.NDArray[np.generic]) -> ByteArray:
    """Integers count from 0 to 65535; floats to 1, 255 or 65535, the first that holds them."""
    values = np.nan_to_num(grey.astype(np.float32), posinf=0.0, neginf=0.0)
    top = 65535.0
    if grey.dtype.kind == "f":
        top = next((t for t in (1.0, 255.0) if values.max(initial=0) <= t), top)
    scaled: ByteArray = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
    return scaled


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
