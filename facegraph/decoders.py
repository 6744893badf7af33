"""From an opened picture's bytes to its pixels, by the fastest way that notices damage.

Plain files, which are nearly all, take a short way of their own: JPEG libjpeg-turbo straight into
the array, shrunk on the way where less is wanted; PNG a decoder whose inflating is twice as fast as
zlib's; BMP no decoder at all. Each of them refuses what Pillow refuses, and what it refuses or
does not know goes to Pillow, which has the last word. One thing is not looked at: the checksum of a
PNG's inflated pixels, beside those of its chunks, which are. docs/models.md has the times.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import kornia_rs.io
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile

from facegraph.types import ByteArray

WIDE_GREY = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits; all of them grey."""

PNG_MODES = {"L": "mono", "RGB": "rgb", "RGBA": "rgba"}
"""Pillow's mode → kornia's, of 8 bits a channel."""

MAX_CHUNKS = 20_000
"""Of a PNG's pixels; ordinary ones are of 8 KB and more."""


def decode_opened(image: ImageFile.ImageFile, data: bytes, factor: int) -> tuple[ByteArray, int]:
    """The pixels (h, w, 3) uint8 RGB of ``image``, opened from ``data``, as they are stored, and
    how many times they are smaller each way, rounded up.

    factor: 1, 2, 4 or 8, how many times they may be; only JPEG heeds it
    Raises whatever Pillow raises for a damaged picture.
    """
    if image.format in ("JPEG", "MPO"):
        pixels = _jpeg(image, data, factor)
        if pixels is not None:
            return pixels, factor
    quick = {"PNG": _png, "BMP": _bmp}.get(image.format or "")
    pixels = quick(image, data) if quick else None
    if pixels is None:
        image.load()
        pixels = _rgb(image)
    return pixels, 1


def _jpeg(image: ImageFile.ImageFile, data: bytes, factor: int) -> ByteArray | None:
    """None where there is anything to complain about, or the colours are not of screens."""
    if image.mode not in ("L", "RGB"):
        return None
    size = -(-image.height // factor), -(-image.width // factor)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=size[0], min_width=size[1], min_factor=factor, strict=True
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == size else None


def _png(image: ImageFile.ImageFile, data: bytes) -> ByteArray | None:
    """None where the picture is of another kind than most, or damaged."""
    mode = PNG_MODES.get(image.mode)
    plain = mode and [tile.args for tile in image.tile] == [image.mode]  # 8 bits a channel
    if not plain or {"interlace", "transparency"} & image.info.keys() or _animated(image):
        return None
    try:
        if not _ends_with_pixels(data, image.tile[0].offset - 8):
            return None  # what says which way is up may follow, where only Pillow's load looks
        pixels = kornia_rs.io.decode_image_png_u8(data, (image.height, image.width), mode)
    except Exception:  # noqa: BLE001 - whatever it is, Pillow tells what is wrong
        return None
    if mode == "rgba":
        return _opaque(pixels)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if mode == "mono" else pixels)


def _ends_with_pixels(data: bytes, at: int) -> bool:
    """Whether nothing but pixels lies between the chunk that begins there and the end."""
    for _ in range(MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", data, at)
        if name != b"IDAT":
            return bool(name == b"IEND")
        at += 12 + length
    return False


def _bmp(image: ImageFile.ImageFile, data: bytes) -> ByteArray | None:
    """None where the pixels are not three bytes each, uncompressed and all there."""
    (tile,) = image.tile
    if tile.codec_name != "raw" or not isinstance(tile.args, tuple) or tile.args[0] != "BGR":
        return None
    _, stride, direction = tile.args
    shape = (image.height, image.width, 3)
    try:
        rows = np.ndarray(shape, np.uint8, data, tile.offset, (stride, 3, 1))
    except (TypeError, ValueError):
        return None
    pixels = cv2.cvtColor(rows, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels if direction > 0 else cv2.flip(pixels, 0))


def _animated(image: Image.Image) -> bool:
    return bool(getattr(image, "is_animated", False))


def _rgb(image: Image.Image) -> ByteArray:
    """What Pillow decoded. Transparent parts show white; wide greys are scaled to 8 bits."""
    if image.mode in WIDE_GREY:
        grey = _to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        return _opaque(np.asarray(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _opaque(rgba: ByteArray) -> ByteArray:
    """(h, w, 4) on white: (h, w, 3)."""
    if rgba[..., 3].min() < 255:
        image = Image.fromarray(rgba)
        rgba = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))
    return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB))


def _to_8_bits(grey: npt.NDArray[Any]) -> ByteArray:
    """Integers count from 0 to 65535; floats to 1, 255 or 65535, the first that holds them."""
    values = np.nan_to_num(grey.astype(np.float32), posinf=0.0, neginf=0.0)
    top = 65535.0
    if grey.dtype.kind == "f":
        top = next((t for t in (1.0, 255.0) if values.max(initial=0) <= t), top)
    scaled: ByteArray = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
    return scaled
