"""The short ways to pixels: the same pixels as Pillow's, and no damage that Pillow refuses."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from facegraph import decoders, images
from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.images import Raster, decode, open_picture
from facegraph.types import ByteArray, FloatArray

pytestmark = pytest.mark.unit

MANY = 10_000_000
SCALES = (1.0, 0.5, 0.25, 0.125)


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are decoded smaller too."""
    monkeypatch.setattr(images, "REDUCED_FROM", 1)


def scene(width: int = 203, height: int = 149) -> ByteArray:
    """Smooth, different in every corner, and of no multiple of 8 pixels."""
    y, x = np.mgrid[:height, :width]
    waves = 40 * np.sin(x / 9) * np.cos(y / 7)
    parts = [200 * x / width, 200 * y / height, 200 * (1 - x / width)]
    return np.asarray(np.clip(np.stack(parts, -1) + 28 + waves[..., None] / 2, 0, 255), np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> ByteArray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


IMAGE = Image.fromarray(scene())
OPAQUE = saved(IMAGE.convert("RGBA"), "PNG")
EXTRANEOUS = saved(IMAGE, "JPEG", restart_marker_rows=1).replace(
    b"\xff\xd0", b"\x12\x34\xff\xd0", 1
)
"""Two bytes too many before a marker, which libjpeg passes over with a warning."""

MPO = saved(
    IMAGE, "MPO", save_all=True, append_images=[IMAGE.transpose(Image.Transpose.ROTATE_180)]
)


@pytest.mark.parametrize(
    ("data", "quick"),
    [
        (saved(IMAGE, "JPEG"), True),
        (saved(IMAGE, "JPEG", progressive=True), True),
        (saved(IMAGE, "JPEG", subsampling=0, restart_marker_rows=1), True),
        (saved(IMAGE, "JPEG", keep_rgb=True), True),  # no colour transform
        (saved(IMAGE.convert("L"), "JPEG"), True),
        (MPO, True),
        (saved(IMAGE.convert("CMYK"), "JPEG"), False),  # inks, inverted or not: Pillow knows
        (saved(IMAGE, "JPEG") + b"trailing bytes", True),
        (EXTRANEOUS, False),  # Pillow decides
        (saved(IMAGE, "PNG"), True),
        (saved(IMAGE, "PNG", compress_level=0), True),
        (saved(IMAGE.convert("L"), "PNG"), True),
        (OPAQUE, True),
        (saved(IMAGE.convert("1"), "PNG"), False),  # bits
        (saved(IMAGE.convert("P"), "PNG"), False),
        (saved(IMAGE.convert("LA"), "PNG"), False),
        (saved(IMAGE, "PNG", transparency=(1, 2, 3)), False),
        (saved(IMAGE, "BMP"), True),
        (saved(IMAGE.convert("L"), "BMP"), False),
        (saved(IMAGE.convert("P"), "BMP"), False),
    ],
)
def test_the_short_way_gives_pillows_pixels(data: bytes, quick: bool) -> None:
    assert np.array_equal(decode(data, max_pixels=MANY), by_pillow(data))
    with Image.open(io.BytesIO(data)) as image:
        ways = {"PNG": decoders._png, "BMP": decoders._bmp}
        way = ways.get(image.format or "")
        pixels = way(image, data) if way else decoders._jpeg(image, data, 1)
        assert (pixels is not None) == quick


def test_transparency_shows_white_as_pillow_blends_it() -> None:
    rgba = np.dstack([scene(), np.arange(203, dtype=np.uint8)[None].repeat(149, 0)])
    image = Image.fromarray(rgba)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(decode(saved(image, "PNG"), max_pixels=MANY), expected)


@pytest.mark.parametrize("bits", [16, 8], ids=["16 bits", "interlaced"])
def test_odd_pngs_are_left_to_pillow(bits: int) -> None:
    """A picture of one pixel, by hand: Pillow writes neither."""
    interlaced = bits == 8
    header = struct.pack(">IIBBBBB", 1, 1, bits, 2, 0, 0, interlaced)
    row = bytes([0, 10, 0, 20, 0, 30, 0]) if bits == 16 else bytes([0, 10, 20, 30])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(data, max_pixels=MANY).tolist() == [[[10, 20, 30]]]


def test_exif_behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(IMAGE, "PNG")
    late = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    assert np.array_equal(decode(late, max_pixels=MANY), np.rot90(scene(), -1))


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_pixels_lie_where_they_say(scale: float, orientation: int) -> None:
    """Whatever way is up: a reduced pixel shows the pixels that it stands for."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(IMAGE, "JPEG", quality=95, subsampling=0, exif=exif)
    picture = open_picture(data, max_pixels=MANY)
    raster = picture.at(scale)
    full = decode(data, max_pixels=MANY)
    assert raster.factor == round(1 / scale)
    assert (picture.height, picture.width) == full.shape[:2]
    assert max(raster.left, raster.top) < raster.factor
    assert np.abs(shrunk(full, raster).astype(int) - raster.rgb).mean() < 3


def shrunk(full: ByteArray, raster: Raster) -> FloatArray:
    """The mean of the pixels that each pixel of ``raster`` stands for, by its own account."""
    factor = raster.factor
    height, width = raster.rgb.shape[0] * factor, raster.rgb.shape[1] * factor
    below = height - full.shape[0] - raster.top
    right = width - full.shape[1] - raster.left
    padded = np.pad(full, ((raster.top, below), (raster.left, right), (0, 0)), "edge")
    cells = padded.reshape(height // factor, factor, width // factor, factor, 3)
    return np.asarray(cells.mean((1, 3)), np.float32)


@pytest.mark.usefixtures("reduced")
def test_finer_pixels_are_decoded_once_and_stay() -> None:
    picture = open_picture(saved(IMAGE, "JPEG"), max_pixels=MANY)
    coarse = picture.at(0.2)
    assert (coarse.factor, coarse.rgb.shape) == (4, (38, 51, 3))
    assert picture.at(0.1) is coarse
    whole = picture.at(0.6)
    assert (whole.factor, whole.rgb.shape) == (1, (149, 203, 3))
    assert picture.at(1.0) is picture.at(0.1) is whole


def test_only_large_jpegs_are_decoded_smaller() -> None:
    large = Image.new("L", (2000, 1000))
    for name, factor in (("JPEG", 8), ("PNG", 1), ("BMP", 1)):
        assert open_picture(saved(large, name), max_pixels=MANY).at(0.1).factor == factor
    assert open_picture(saved(IMAGE, "JPEG"), max_pixels=MANY).at(0.1).factor == 1


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_cut_jpeg_is_refused_at_every_scale(
    scale: float, options: dict[str, object], kept: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (149, 203, 3), np.uint8)
    data = saved(Image.fromarray(noise), "JPEG", **options)
    with pytest.raises(InvalidImage):
        open_picture(data[: int(len(data) * kept)], max_pixels=MANY).at(scale)


@pytest.mark.usefixtures("reduced")
def test_the_limit_holds_before_any_decoding() -> None:
    with pytest.raises(ImageTooLarge):
        open_picture(saved(IMAGE, "JPEG"), max_pixels=203 * 149 - 1)


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize(
    "data",
    [
        saved(IMAGE, "JPEG"),
        saved(IMAGE, "JPEG", progressive=True),
        saved(IMAGE, "PNG"),
        OPAQUE,
        saved(IMAGE, "BMP"),
    ],
    ids=["JPEG", "progressive", "PNG", "RGBA", "BMP"],
)
def test_damage_is_refused_exactly_where_pillow_refuses_it(data: bytes) -> None:
    rng = np.random.default_rng(5)
    for round_ in range(150):
        damaged = bytearray(data)
        if round_ % 3 == 0:
            del damaged[int(rng.integers(2, len(data))) :]
        elif round_ % 3 == 1:
            damaged[int(rng.integers(2, len(data)))] = int(rng.integers(0, 256))
        else:
            at = int(rng.integers(2, len(data)))
            del damaged[at : at + int(rng.integers(1, 40))]
        assert outcome(bytes(damaged), 1.0) == outcome(bytes(damaged), 0.25) == pillows(damaged)


def test_a_png_damaged_before_it_was_summed_is_refused_or_whole() -> None:
    """Its chunks' sums are right, zlib's is not: nothing but a broken encoder makes one."""
    data = saved(IMAGE, "PNG")
    at = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, at - 4)
    rng = np.random.default_rng(5)
    decoded = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[at + 4 + int(rng.integers(2, length - 4))] ^= 1 << int(rng.integers(0, 8))
        body = bytes(damaged[at : at + 4 + length])
        struct.pack_into(">I", damaged, at + 4 + length, zlib.crc32(body))
        try:
            pixels = images.decode(bytes(damaged), max_pixels=MANY)
        except InvalidImage:
            continue
        decoded += 1
        assert pixels.shape == (IMAGE.height, IMAGE.width, 3)
    assert 0 < decoded < 60


def outcome(data: bytes, scale: float) -> bool:
    try:
        open_picture(data, max_pixels=MANY).at(scale)
    except (InvalidImage, ImageTooLarge):
        return False
    return True


def pillows(data: bytearray) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            if image.width * image.height > MANY:
                return False
            image.load()
    except Exception:  # noqa: BLE001 - it raises anything
        return False
    return True


def test_threads() -> None:
    files = [saved(IMAGE, "JPEG"), saved(IMAGE, "PNG"), OPAQUE, saved(IMAGE, "BMP")]
    alone = [decode(data, max_pixels=MANY) for data in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: decode(data, max_pixels=MANY), files * 8))
    assert all(np.array_equal(got, alone[i % 4]) for i, got in enumerate(together))
