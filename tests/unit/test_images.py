"""The resolver from bytes to pixels: formats, modes, orientation, limits, damage."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.images import decode, format_of
from facegraph.types import ByteArray

MANY = 10_000_000


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def scene(width: int = 64, height: int = 48) -> ByteArray:
    """Smooth, so that lossy formats keep it, and different in every corner."""
    y, x = np.mgrid[:height, :width]
    parts = [255 * x / width, 255 * y / height, 255 * (1 - x / width)]
    return np.stack(parts, -1).astype(np.uint8)


def noise(side: int = 200) -> ByteArray:
    return np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + crc


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_formats(format: str, options: dict[str, object], tolerance: int) -> None:
    data = saved(Image.fromarray(scene()), format, **options)
    pixels = decode(data, max_pixels=MANY)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - scene()).max() <= tolerance
    assert format_of(data) == format


def test_first_frame_of_gif_and_mpo() -> None:
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    gif = saved(red, "GIF", save_all=True, append_images=[blue])
    assert decode(gif, max_pixels=MANY)[3, 3].tolist() == [255, 0, 0]
    mpo = saved(red, "MPO", save_all=True, append_images=[blue])
    assert format_of(mpo) == "JPEG"
    assert decode(mpo, max_pixels=MANY)[3, 3, 0] > 250


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format: str, orientation: int) -> None:
    """The table of the EXIF standard: what row 0 and column 0 of the stored picture show."""
    upright = scene()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif)
    assert np.array_equal(decode(data, max_pixels=MANY), upright)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_nonsense_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene()), "PNG", exif=exif)
    assert np.array_equal(decode(data, max_pixels=MANY), scene())


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (Image.new("L", (4, 4), 77), "PNG", [77, 77, 77]),
        (Image.new("1", (4, 4), 1), "PNG", [255, 255, 255]),
        (Image.new("LA", (4, 4), (100, 0)), "PNG", [255, 255, 255]),  # transparent shows white
        (Image.new("RGBA", (4, 4), (200, 0, 0, 255)), "PNG", [200, 0, 0]),
        (Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG", [204, 204, 204]),  # a fifth of black
        (Image.new("P", (4, 4), 0), "PNG", [0, 0, 0]),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", [255, 0, 0]),
        (Image.fromarray(np.full((4, 4), 0x8080, np.uint16)), "PNG", [128, 128, 128]),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), "TIFF", [255, 255, 255]),
        (Image.fromarray(np.full((4, 4), 257, np.int32)), "TIFF", [1, 1, 1]),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF", [128, 128, 128]),
        (Image.fromarray(np.full((4, 4), 200.0, np.float32)), "TIFF", [200, 200, 200]),
        (Image.fromarray(np.full((4, 4), 65535.0, np.float32)), "TIFF", [255, 255, 255]),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF", [0, 0, 0]),
    ],
)
def test_modes(image: Image.Image, format: str, expected: list[int]) -> None:
    pixels = decode(saved(image, format), max_pixels=MANY)
    assert pixels.shape == (4, 4, 3)
    assert pixels[2, 2].tolist() == expected


def test_transparent_colour_of_a_palette_shows_white() -> None:
    data = saved(Image.new("P", (4, 4), 0), "PNG", transparency=0)
    assert decode(data, max_pixels=MANY)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated(format: str, kept: float) -> None:
    whole = saved(Image.fromarray(noise()), format)
    with pytest.raises(InvalidImage):
        decode(whole[: int(len(whole) * kept)], max_pixels=MANY)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_progressive_jpeg(kept: float) -> None:
    whole = saved(Image.fromarray(noise()), "JPEG", progressive=True)
    with pytest.raises(InvalidImage):
        decode(whole[: int(len(whole) * kept)], max_pixels=MANY)


def with_broken_chunk_type() -> bytes:
    return saved(Image.fromarray(noise()), "PNG").replace(b"IDAT", b"\x00\xff!?", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am no picture",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        png_header(0, 0),
        png_header(0, 10),
        png_header(10, 10),
        with_broken_chunk_type(),
        saved(Image.new("RGB", (8, 8)), "ICO"),  # a format nobody promised
        b"/etc/passwd",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_invalid(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(data, max_pixels=MANY)


def test_random_damage_raises_nothing_else() -> None:
    rng = np.random.default_rng(7)
    for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        whole = bytearray(saved(Image.fromarray(scene()), name))
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 8):
                damaged[at] = rng.integers(0, 256)
            try:
                assert decode(bytes(damaged), max_pixels=MANY).shape[2] == 3
            except (InvalidImage, ImageTooLarge):
                continue


def test_pixels_are_counted_before_decoding() -> None:
    rows = zlib.compress(bytes(1000))
    bomb = png_header(60_000, 60_000) + struct.pack(">I", len(rows)) + b"IDAT" + rows
    with pytest.raises(ImageTooLarge, match="60000×60000"):
        decode(bomb, max_pixels=50_000_000)


def test_limit_is_inclusive() -> None:
    data = saved(Image.fromarray(scene()), "PNG")
    assert decode(data, max_pixels=64 * 48).shape == (48, 64, 3)
    with pytest.raises(ImageTooLarge):
        decode(data, max_pixels=64 * 48 - 1)


def test_broken_exif_does_not_spoil_the_picture() -> None:
    data = saved(
        Image.fromarray(scene()), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"
    )
    assert np.array_equal(decode(data, max_pixels=MANY), scene())
