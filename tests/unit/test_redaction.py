"""Redacted pixels cannot be read back, others stay as they were, and nothing else comes along."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from facegraph import redaction
from facegraph.errors import ImageTooLarge, InvalidImage, InvalidRequest
from facegraph.redaction import (
    FaceRegion,
    MaskRegion,
    Method,
    OutputFormat,
    Redacted,
    Region,
    redact,
)
from facegraph.types import ByteArray
from facegraph.vision.masks import encode

pytestmark = pytest.mark.unit

MANY = 10_000_000
METHODS: tuple[Method, ...] = get_args(Method)
COARSE: tuple[Method, ...] = ("blur", "pixelate")


def noise(width: int = 300, height: int = 240) -> ByteArray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def saved(image: Image.Image | ByteArray, format: str = "PNG", **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(done: Redacted) -> ByteArray:
    with Image.open(io.BytesIO(done.data)) as image:
        assert image.mode == "RGB"
        return np.array(image)


def redacted(
    rgb: ByteArray, *regions: Region, method: Method = "blur", **options: Any
) -> ByteArray:
    """``rgb`` redacted by way of PNG, which loses nothing."""
    return pixels_of(redact(saved(rgb), regions, max_pixels=MANY, method=method, **options))


def ellipse(
    box: tuple[float, ...], padding: float, shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies in the ellipse around the box enlarged by ``padding``."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    rx, ry = (x2 - x1) * (0.5 + padding), (y2 - y1) * (0.5 + padding)
    inside: npt.NDArray[np.bool_] = ((x - (x1 + x2) / 2) / rx) ** 2 + (
        (y - (y1 + y2) / 2) / ry
    ) ** 2 <= 1
    return inside


def correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


class TestFaces:
    BOX = (100.3, 80.2, 180.9, 170.6)

    @pytest.mark.parametrize("method", METHODS)
    def test_outside_stays_to_the_bit_and_inside_goes(self, method: Method) -> None:
        before = noise()
        after = redacted(before, FaceRegion(self.BOX), method=method)
        inside = ellipse(self.BOX, 0.25, before.shape)
        assert np.array_equal(after[~inside], before[~inside])
        # Of 256 levels one is met by chance, in three channels at once hardly ever.
        changed = (after[inside] != before[inside]).any(axis=1)
        assert changed.mean() > 0.999
        assert (after[inside] == before[inside]).mean() < 0.02

    @pytest.mark.parametrize("padding", [0, 0.05, 0.25, 1])
    def test_the_whole_box_is_hidden_whatever_the_padding(self, padding: float) -> None:
        white = np.full((240, 300, 3), 255, np.uint8)
        done = redact(
            saved(white), [FaceRegion(self.BOX)], max_pixels=MANY, method="fill", padding=padding
        )
        hidden = (pixels_of(done) == 0).all(axis=2)
        assert hidden[80:171, 100:181].all()
        if padding == 0:
            assert hidden.sum() == 91 * 81
        else:
            box = np.zeros_like(hidden)
            box[80:171, 100:181] = True
            assert np.array_equal(hidden, box | ellipse(self.BOX, padding, white.shape))

    @pytest.mark.parametrize("method", COARSE)
    @pytest.mark.parametrize("cells", [1, 5, 10, 15])
    def test_only_the_grid_is_left(self, method: Method, cells: int) -> None:
        """Pictures that differ in every pixel, but not in the cells' means, become the same."""
        box = (60.0, 60.0, 160.0, 160.0)  # enlarged: 35 … 185
        texture = noise()
        shuffled = texture.copy()
        side = 150 // cells
        for x in range(35, 185, side):
            for y in range(35, 185, side):
                cell = texture[y : y + side, x : x + side]
                shuffled[y : y + side, x : x + side] = cell[::-1].transpose(1, 0, 2)
        one, two = (
            redacted(rgb, FaceRegion(box), method=method, cells=cells)
            for rgb in (texture, shuffled)
        )
        inside = ellipse(box, 0.25, texture.shape)
        assert (texture[inside] != shuffled[inside]).any(axis=1).mean() > 0.99
        assert np.array_equal(one[inside], two[inside])

    @pytest.mark.parametrize("method", COARSE)
    def test_no_trace_above_the_grid(self, method: Method) -> None:
        box = (60.0, 60.0, 160.0, 160.0)
        texture = noise().astype(np.float64)
        after = redacted(noise(), FaceRegion(box), method=method).astype(np.float64)
        area = np.s_[70:150, 70:150]  # all within the ellipse
        fine = texture[area] - texture[area].mean(axis=(0, 1))
        for shift in ((0, 0), (1, 0), (0, 1)):
            moved = np.roll(after, shift, (0, 1))[area]
            for detail in (moved - moved.mean(axis=(0, 1)), np.diff(moved, axis=0)):
                assert abs(correlation(detail, fine[: len(detail)])) < 0.06

    def test_pixels_of_a_cell_are_equal(self) -> None:
        after = redacted(noise(), FaceRegion((60, 60, 160, 160)), method="pixelate", cells=5)
        colours = {tuple(colour) for colour in after[70:150, 70:150].reshape(-1, 3).tolist()}
        assert len(colours) <= 16  # cells of 30 pixels
        assert all(value % 8 == 4 for colour in colours for value in colour)

    @pytest.mark.parametrize("side", [2, 5, 9, 20])
    def test_small_faces_keep_no_more_than_few_cells(self, side: int) -> None:
        after = redacted(noise(), FaceRegion((100, 100, 100 + side, 100 + side)), method="pixelate")
        colours = np.unique(after[100 : 100 + side, 100 : 100 + side].reshape(-1, 3), axis=0)
        assert len(colours) <= max(1, side * 1.5 // redaction.MIN_CELL) ** 2

    def test_what_the_edge_cuts_is_not_drawn_finer(self) -> None:
        after = redacted(noise(), FaceRegion((-200, 20, 40, 260)), method="pixelate")
        assert len(np.unique(after[40:220, :30].reshape(-1, 3), axis=0)) <= 6

    def test_flat_colours_hardly_change(self) -> None:
        """The blur has no rim and no overshoot."""
        grey = np.full((240, 300, 3), 100, np.uint8)
        assert np.array_equal(redacted(grey, FaceRegion(self.BOX)), grey)

    @pytest.mark.parametrize("cells", [1, 16])
    def test_means_of_huge_cells_do_not_overflow(self, cells: int) -> None:
        """OpenCV's own averaging turns a white cell of over eight million pixels black."""
        white = np.full((3200, 3200, 3), 255, np.uint8)
        box = FaceRegion((0, 0, 3200, 3200))
        done = redact(saved(white), [box], max_pixels=20_000_000, cells=cells, method="pixelate")
        assert np.unique(pixels_of(done)).tolist() == [252]


class TestMasks:
    def test_mask_and_a_rim_around_it(self) -> None:
        before = noise()
        crop = np.zeros((100, 60), bool)
        crop[20:80, 10:50] = True
        region = MaskRegion((90, 70, 150, 170), encode(crop, 90, 70, 300, 240))
        after = redacted(before, region, method="fill")
        expected = np.zeros((240, 300), bool)
        expected[87:153, 97:143] = True  # 3 pixels: 3 % of 100
        assert (after[expected] == 0).all()
        assert np.array_equal(after[~expected], before[~expected])

    def test_rim_goes_with_size_and_over_the_boxs_edge(self) -> None:
        white = np.full((240, 300, 3), 255, np.uint8)
        crop = np.ones((200, 100), bool)
        region = MaskRegion((50, 20, 150, 220), encode(crop, 50, 20, 300, 240))
        hidden = (redacted(white, region, method="fill") == 0).all(axis=2)
        assert hidden[14:226, 44:156].all()
        assert hidden.sum() == 212 * 112

    def test_mask_at_the_corner(self) -> None:
        white = np.full((240, 300, 3), 255, np.uint8)
        region = MaskRegion(
            (290, 230, 300, 240), encode(np.ones((10, 10), bool), 290, 230, 300, 240)
        )
        hidden = (redacted(white, region, method="fill") == 0).all(axis=2)
        assert hidden[227:, 287:].all()
        assert hidden.sum() == 13 * 13

    def test_no_region_changes_nothing(self) -> None:
        assert np.array_equal(redacted(noise()), noise())

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "box",
        [(-40, -40, 60, 60), (250, 200, 350, 300), (-100, -100, 400, 340), (-1e9, -1e9, 1e9, 1e9)],
    )
    def test_partly_outside(self, method: Method, box: tuple[float, float, float, float]) -> None:
        before = noise()
        after = redacted(before, FaceRegion(box), method=method)
        inside = ellipse(box, 0.25, before.shape)
        assert np.array_equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).any(axis=1).mean() > 0.999

    def test_overlapping_faces_are_both_hidden(self) -> None:
        before = noise()
        boxes = [
            (80.0, 80.0, 140.0, 150.0),
            (110.0, 90.0, 170.0, 160.0),
            (80.0, 80.0, 140.0, 150.0),
        ]
        after = redacted(before, *map(FaceRegion, boxes))
        inside = np.any([ellipse(box, 0.25, before.shape) for box in boxes], axis=0)
        assert np.array_equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).any(axis=1).mean() > 0.999

    def test_hundreds_of_faces(self) -> None:
        before = noise(600, 450)
        corners = [(x, y) for x in range(5, 590, 20) for y in range(5, 440, 20)]
        boxes = [(float(x), float(y), x + 10.0, y + 10.0) for x, y in corners]
        after = redacted(before, *map(FaceRegion, boxes))
        inside = np.any([ellipse(box, 0.25, before.shape) for box in boxes], axis=0)
        assert len(boxes) > 600
        assert np.array_equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).any(axis=1).mean() > 0.999

    def test_one_pixel(self) -> None:
        pixel = np.full((1, 1, 3), 77, np.uint8)
        assert redacted(pixel, FaceRegion((0, 0, 1, 1)), method="fill").tolist() == [[[0, 0, 0]]]
        assert redacted(pixel, FaceRegion((0, 0, 1, 1))).tolist() == [[[76, 76, 76]]]

    def test_upright(self) -> None:
        """Boxes count in the picture as it is seen."""
        exif = Image.Exif()
        exif[0x0112] = 6  # the stored picture lies on its side
        stored = np.full((40, 80, 3), 255, np.uint8)
        done = redact(
            saved(stored, exif=exif),
            [FaceRegion((0, 60, 40, 80))],
            max_pixels=MANY,
            method="fill",
            padding=0,
        )
        after = pixels_of(done)
        assert (done.width, done.height) == (40, 80) == after.shape[1::-1]
        assert (after[60:] == 0).all()
        assert (after[:60] == 255).all()


class TestOutput:
    @pytest.mark.parametrize(
        ("sent", "output", "answered"),
        [
            ("JPEG", None, "JPEG"),
            ("PNG", None, "PNG"),
            ("WEBP", None, "WEBP"),
            ("GIF", None, "PNG"),
            ("BMP", None, "PNG"),
            ("TIFF", None, "PNG"),
            ("PNG", "jpeg", "JPEG"),
            ("JPEG", "png", "PNG"),
            ("JPEG", "webp", "WEBP"),
        ],
    )
    def test_formats(self, sent: str, output: OutputFormat | None, answered: str) -> None:
        data = saved(noise(64, 48), sent)
        done = redact(data, [FaceRegion((10, 10, 30, 30))], max_pixels=MANY, output=output)
        with Image.open(io.BytesIO(done.data)) as image:
            assert (image.format, image.size) == (answered, (64, 48))
        assert done.media_type == f"image/{answered.lower()}"
        assert (done.width, done.height) == (64, 48)

    def test_jpeg_keeps_colours_at_full_size(self) -> None:
        data = redact(saved(noise(), "JPEG"), [], max_pixels=MANY).data
        with Image.open(io.BytesIO(data)) as image:
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]

    def test_only_the_first_picture_of_several(self) -> None:
        for name in ("GIF", "MPO", "TIFF", "WEBP", "PNG"):
            frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
            data = saved(frames[0], name, save_all=True, append_images=frames[1:])
            done = redact(data, [FaceRegion((0, 0, 32, 32))], max_pixels=MANY, method="fill")
            with Image.open(io.BytesIO(done.data)) as image:
                assert getattr(image, "n_frames", 1) == 1
                assert image.format != "MPO"

    def test_colours_behind_transparency_do_not_pass(self) -> None:
        secret = np.zeros((32, 32, 4), np.uint8)
        secret[..., :3] = noise(32, 32)
        after = pixels_of(redact(saved(Image.fromarray(secret)), [], max_pixels=MANY))
        assert (after == 255).all()

    def test_deterministic(self) -> None:
        data = saved(noise(), "JPEG")
        regions = [FaceRegion((10, 10, 90, 90))]
        assert redact(data, regions, max_pixels=MANY) == redact(data, regions, max_pixels=MANY)


SECRET = b"52.5200N-13.4050E-Jane-Doe"


def with_metadata(format: str) -> bytes:
    """A picture with GPS, a thumbnail in its EXIF, XMP, a comment or text, and a profile."""
    picture = Image.fromarray(noise(64, 48))
    thumbnail = saved(picture.resize((16, 12)), "JPEG", comment=SECRET)
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    block = b"Exif\x00\x00" + _with_thumbnail(exif.tobytes()[6:], thumbnail)
    options: dict[str, object] = {"exif": block, "icc_profile": srgb()}
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", SECRET.decode())
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    else:
        options["xmp"] = xmp
    if format == "JPEG":
        options["comment"] = SECRET
    return saved(picture, format, **options) + (b"trailer" + SECRET if format == "JPEG" else b"")


def _with_thumbnail(tiff: bytes, thumbnail: bytes) -> bytes:
    """The EXIF block with a second directory that points to a JPEG behind it."""
    order = "little" if tiff[:2] == b"II" else "big"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)  # type: ignore[arg-type]

    first = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
    entries = int.from_bytes(tiff[first : first + 2], order)  # type: ignore[arg-type]
    link = first + 2 + 12 * entries
    start = len(tiff)
    body = number(3, 2)
    for tag, kind, value in (
        (0x0103, 3, 6),
        (0x0201, 4, start + 2 + 36 + 4),
        (0x0202, 4, len(thumbnail)),
    ):
        body += number(tag, 2) + number(kind, 2) + number(1, 4)
        body += number(value, 2) + b"\0\0" if kind == 3 else number(value, 4)
    return tiff[:link] + number(start, 4) + tiff[link + 4 :] + body + number(0, 4) + thumbnail


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("output", ["jpeg", "png", "webp"])
def test_no_metadata_survives(format: str, output: OutputFormat) -> None:
    data = with_metadata(format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get_ifd(0x8825)[29] == SECRET.decode()
    assert data.count(SECRET) >= (2 if format == "TIFF" else 3)  # it is there to be lost
    if format != "TIFF":  # Pillow writes no second directory there
        assert data.count(b"\xff\xd8\xff") >= (2 if format == "JPEG" else 1)
    done = redact(data, [FaceRegion((10, 10, 40, 40))], max_pixels=MANY, output=output).data
    assert SECRET not in done
    assert b"Jane" not in done
    for mark in (b"Exif", b"eXIf", b"http://ns.adobe.com", b"xmpmeta", b"ICC_PROFILE", b"iCCP"):
        assert mark not in done
    assert done.count(b"\xff\xd8\xff") == (output == "jpeg")
    with Image.open(io.BytesIO(done)) as image:
        image.load()
        assert dict(image.getexif()) == {}
        allowed = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background",
                   "timestamp", "duration"}  # fmt: skip
        assert set(image.info) <= allowed
    if output == "png":
        kinds = [name for name, _ in png_chunks(done)]
        assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def png_chunks(data: bytes) -> list[tuple[bytes, int]]:
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], length))
        at += 12 + length
    return found


class TestProfiles:
    def test_srgb_by_its_profile_stays_to_the_bit(self) -> None:
        data = saved(noise(), icc_profile=srgb())
        assert np.array_equal(pixels_of(redact(data, [], max_pixels=MANY)), noise())

    def test_others_are_converted(self) -> None:
        """A profile with red and blue exchanged shows what it does."""
        after = pixels_of(redact(saved(noise(), icc_profile=swapped()), [], max_pixels=MANY))
        difference = np.abs(after.astype(int) - noise()[..., ::-1].astype(int))
        assert difference.mean() < 6
        assert np.abs(after.astype(int) - noise().astype(int)).mean() > 50

    def test_redacted_pixels_are_converted_too(self) -> None:
        red = np.zeros((100, 100, 3), np.uint8)
        red[..., 0] = 252
        data = saved(red, icc_profile=swapped())
        after = pixels_of(redact(data, [FaceRegion((30, 30, 70, 70))], max_pixels=MANY))
        assert after[50, 50].argmax() == 2 == after[2, 2].argmax()

    @pytest.mark.parametrize("profile", [b"nonsense", srgb()[:200], b"\0" * 500])
    def test_damaged_profiles_are_left_out(self, profile: bytes) -> None:
        done = redact(saved(noise(), icc_profile=profile), [], max_pixels=MANY)
        assert np.array_equal(pixels_of(done), noise())

    def test_profiles_of_other_colours_are_left_out(self) -> None:
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        done = redact(saved(noise(), icc_profile=lab), [], max_pixels=MANY)
        assert np.array_equal(pixels_of(done), noise())


def swapped() -> bytes:
    """sRGB's profile with the primaries of red and blue exchanged."""
    profile = bytearray(srgb())
    count = int.from_bytes(profile[128:132], "big")
    rows = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = rows[b"rXYZ"], rows[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


class TestErrors:
    def test_image(self) -> None:
        with pytest.raises(InvalidImage):
            redact(b"no picture", [], max_pixels=MANY)
        with pytest.raises(InvalidImage):
            redact(saved(noise())[:5000], [], max_pixels=MANY)
        with pytest.raises(ImageTooLarge):
            redact(saved(noise()), [], max_pixels=100)

    @pytest.mark.parametrize(
        "options",
        [
            {"method": "smudge"},
            {"cells": 0},
            {"cells": 17},
            {"padding": -0.1},
            {"padding": 2.5},
            {"padding": float("nan")},
            {"output": "gif"},
        ],
    )
    def test_options(self, options: dict[str, object]) -> None:
        with pytest.raises(InvalidRequest):
            redact(saved(noise()), [], **{"max_pixels": MANY, **options})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "box",
        [
            (0, 0, float("nan"), 1),
            (0, 0, float("inf"), 1),
            (10, 0, 5, 5),
            (0, 10, 5, 5),
            (0, 0, 1e300, 1),
        ],
    )
    def test_boxes(self, box: tuple[float, float, float, float]) -> None:
        """An impossible box is a fault to hear of: left out silently it would show a face."""
        with pytest.raises(ValueError, match="box"):
            FaceRegion(box)
        with pytest.raises(ValueError, match="box"):
            replace(MaskRegion((0, 0, 1, 1), b""), box=box)

    @pytest.mark.parametrize(("output", "side"), [("jpeg", 65_501), ("webp", 16_384)])
    def test_formats_that_cannot_hold_it(self, output: OutputFormat, side: int) -> None:
        data = saved(np.zeros((1, side, 3), np.uint8))
        with pytest.raises(ImageTooLarge, match="ask for png"):
            redact(data, [], max_pixels=MANY, output=output)
        assert redact(data, [], max_pixels=MANY).width == side

    def test_work_is_bounded(self) -> None:
        regions = [FaceRegion((0, 0, 1, 1))] * (redaction.MAX_WORK // redaction.MIN_WORK + 1)
        with pytest.raises(InvalidRequest, match="too many"):
            redact(saved(noise()), regions, max_pixels=MANY)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_are_of_the_upright_picture(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sent = saved(np.full((240, 300, 3), 255, np.uint8), format, exif=exif)
    width, height = (240, 300) if orientation >= 5 else (300, 240)
    box = (width - 40.0, height - 40.0, width - 10.0, height - 10.0)
    done = redact(sent, [FaceRegion(box)], max_pixels=MANY, method="fill", output="png")
    assert (done.width, done.height) == (width, height)
    pixels = pixels_of(done)
    assert pixels.shape == (height, width, 3)
    assert not pixels[height - 40 : height - 10, width - 40 : width - 10].any()
    assert pixels[: height - 60].min() > 250


@pytest.mark.parametrize("filled", [0, 1, 5])
def test_an_object_whose_mask_is_hardly_there_is_hidden_whole(filled: int) -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[:filled] = 1
    region = MaskRegion((50, 60, 150, 160), encode(mask, 50, 60, 300, 240))
    after = redacted(noise(), region, method="fill")
    assert not after[60:160, 50:150].any()


def test_holes_in_a_mask_are_hidden_too() -> None:
    mask = np.ones((100, 100), np.uint8)
    mask[30:60, 30:60] = 0
    region = MaskRegion((50, 60, 150, 160), encode(mask, 50, 60, 300, 240))
    after = redacted(noise(), region, method="fill")
    assert not after[60:160, 50:150].any()
