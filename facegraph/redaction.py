"""Faces and objects made unrecognisable in a picture, for good.

``pixelate`` and ``blur`` draw a region from nothing but the mean colours of a few large cells, so
what they hide cannot be computed back: a blur here is that grid, smoothly interpolated, and no
filter that could be inverted. What remains, some five cells across a face, is still a pattern of
colours: who holds pictures of a few candidates may compare it with theirs (McPherson, Shokri,
Shmatikov: Defeating Image Obfuscation with Deep Learning, 2016). ``fill`` leaves nothing.

The answer is a new picture of bare pixels: no EXIF, XMP, thumbnail, text, profile, alpha or second
frame of the input reaches it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from facegraph.errors import ImageTooLarge, InvalidRequest
from facegraph.images import colour_profile, decode, format_of
from facegraph.types import ByteArray
from facegraph.vision.masks import Window, decode_window, window_of

Method = Literal["blur", "pixelate", "fill"]
OutputFormat = Literal["jpeg", "png", "webp"]
Box = tuple[float, float, float, float]

MIN_CELL = 8
"""Side of the smallest cell, in pixels, however small the region."""

MAX_CELLS = 16
MAX_PADDING = 2.0

MASK_MARGIN = 0.03
"""Masks grow by this part of their box's longer side: segmenters lose a rim, hair most of all."""

MIN_MASK_MARGIN = 3
"""In pixels."""

LEAST_MASK = 0.1
"""A mask that fills less of its box missed the object: the whole box is hidden."""

COLOUR_STEP = 8
"""Mean colours are rounded to multiples of this, plus half. Where a region's edge cuts a cell, the
mean and the visible pixels would otherwise tell the few hidden ones."""

MAX_WORK = 2_000_000_000
"""Pixels of all regions' windows together: some twenty seconds."""

MIN_WORK = 20_000
"""What the smallest region costs, in the same unit."""

FARTHEST = 2.0**31
"""No coordinate lies as far out as this."""

SAME_COLOUR = 2
"""Profiles that move no channel by more count as sRGB."""

_COLOURS: ByteArray = np.stack(
    np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3, indexing="ij"), -1
).reshape(64, 64, 3)

LONGEST_SIDE: dict[OutputFormat, int] = {"jpeg": 65_500, "png": 2**31 - 1, "webp": 16_383}

SAVING: dict[OutputFormat, dict[str, int]] = {
    "jpeg": {"quality": 92, "subsampling": 0},
    "png": {"compress_level": 3},
    "webp": {"quality": 92, "method": 4},
}

OUTPUT_OF: dict[str, OutputFormat] = {
    "JPEG": "jpeg", "PNG": "png", "GIF": "png", "BMP": "png", "TIFF": "png", "WEBP": "webp",
}  # fmt: skip
"""The format answered for each that is read; what came without loss goes without."""


@dataclass(frozen=True, slots=True)
class FaceRegion:
    """A face by its box, x1 y1 x2 y2 in pixels of the upright image; it may lie outside."""

    box: Box

    def __post_init__(self) -> None:
        _check_box(self.box)


@dataclass(frozen=True, slots=True)
class MaskRegion:
    """An object by its box and its mask, COCO's compressed counts at the upright image's size."""

    box: Box
    counts: bytes

    def __post_init__(self) -> None:
        _check_box(self.box)


Region = FaceRegion | MaskRegion


@dataclass(frozen=True, slots=True)
class Redacted:
    """A compressed picture; width and height are those of the upright input."""

    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Area:
    """Where a region lies: its box after enlarging, and the pixels of the image in that box.

    The cells' size follows the box, not the window: what the image's edge cuts is not drawn finer.
    """

    region: Region
    box: Box
    window: Window

    @property
    def extent(self) -> float:
        x1, y1, x2, y2 = self.box
        return max(x2 - x1, y2 - y1)

    @property
    def size(self) -> int:
        left, top, right, bottom = self.window
        return (right - left) * (bottom - top)


def redact(
    image: bytes,
    regions: Sequence[Region],
    *,
    max_pixels: int,
    method: Method = "blur",
    cells: int = 6,
    padding: float = 0.25,
    output: OutputFormat | None = None,
) -> Redacted:
    """The compressed ``image``, upright, with all ``regions`` made unrecognisable.

    A face becomes an ellipse around its box, which is first enlarged by ``padding`` of its size
    on each side; a mask is grown a little. ``cells`` is how many cells lie along a region's
    longer side: fewer hide more. Where regions overlap, the later one hides what the earlier
    left. Colours are converted to sRGB where the picture has an RGB profile.
    Without ``output``, JPEG and WebP are answered as such and all others as PNG.

    Takes no more memory than decoding, some five times the pixels, and beside decoding and
    encoding, time in proportion to the regions' windows.
    Raises InvalidImage, ImageTooLarge, InvalidRequest.
    """
    _check_options(method, cells, padding, output)
    output = output or OUTPUT_OF[format_of(image)]
    pixels = decode(image, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    _check_size(output, width, height)
    areas = [_area(region, padding, width, height) for region in regions]
    _check_work(areas)
    for area in areas:
        if area.size:
            _hide(pixels, area, method, cells)
    return Redacted(
        _encoded(pixels, output, colour_profile(image)), f"image/{output}", width, height
    )


def _area(region: Region, padding: float, width: int, height: int) -> _Area:
    x1, y1, x2, y2 = region.box
    if x1 == x2 or y1 == y2:
        return _Area(region, region.box, (0, 0, 0, 0))
    if isinstance(region, FaceRegion):
        dx, dy = padding * (x2 - x1), padding * (y2 - y1)
    else:
        # The mask may begin at the first pixel that its box touches.
        dx = dy = 1 + _mask_margin(region.box)
    box = (x1 - dx, y1 - dy, x2 + dx, y2 + dy)
    return _Area(region, box, window_of(box, width, height))


def _mask_margin(box: Box) -> int:
    x1, y1, x2, y2 = box
    return max(MIN_MASK_MARGIN, math.ceil(MASK_MARGIN * max(x2 - x1, y2 - y1)))


def _hide(pixels: ByteArray, area: _Area, method: Method, cells: int) -> None:
    """Overwrites the region in (h, w, 3) uint8 ``pixels``."""
    left, top, right, bottom = area.window
    view = pixels[top:bottom, left:right]
    if method == "fill":
        drawn = np.zeros_like(view)
    else:
        drawn = _drawn(_means(view, area.extent, cells), view.shape[1], view.shape[0], method)
    cv2.copyTo(drawn, _shape(area, pixels.shape[1], pixels.shape[0]), view)


def _means(view: ByteArray, extent: float, cells: int) -> ByteArray:
    """The mean colour of each cell: (rows, columns, 3) uint8. No cell is smaller than asked."""
    height, width = view.shape[:2]
    side = max(float(MIN_CELL), extent / cells)
    columns, rows = max(1, int(width / side)), max(1, int(height / side))
    # Two steps, because OpenCV's sums overflow over some eight million pixels.
    middle = (min(width, columns * 64), min(height, rows * 64))
    small = cv2.resize(view, middle, interpolation=cv2.INTER_AREA)
    small = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(small // COLOUR_STEP * COLOUR_STEP + COLOUR_STEP // 2, np.uint8)


def _drawn(means: ByteArray, width: int, height: int, method: Method) -> ByteArray:
    """(height, width, 3) uint8 out of ``means`` and nothing else."""
    rows, columns = means.shape[:2]
    if method == "pixelate":
        drawn = cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST)
    else:
        # Smoothed at eight pixels a cell: the cost of a filter over a whole face grows with its
        # size, and what has been smoothed loses nothing by a linear enlargement.
        soft = cv2.resize(means, (columns * 8, rows * 8), interpolation=cv2.INTER_LINEAR)
        soft = cv2.GaussianBlur(soft, (0, 0), 4.0, borderType=cv2.BORDER_REPLICATE)
        drawn = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(drawn, np.uint8)


def _shape(area: _Area, width: int, height: int) -> ByteArray:
    """(h, w) uint8 at the window's size: 1 where the region hides the picture."""
    if isinstance(area.region, FaceRegion):
        shape = _ellipse(area.box, area.window)
        # With little padding, the corners of the face's own box stand out of the ellipse.
        left, top, right, bottom = window_of(area.region.box, width, height)
        x, y = area.window[:2]
        shape[top - y : bottom - y, left - x : right - x] = 1
        return shape
    mask = decode_window(area.region.counts, width, height, area.window)
    left, top, right, bottom = window_of(area.region.box, width, height)
    if mask.sum() < LEAST_MASK * (right - left) * (bottom - top):
        x, y = area.window[:2]
        mask[top - y : bottom - y, left - x : right - x] = 1
    side = 2 * _mask_margin(area.region.box) + 1
    grown = np.asarray(cv2.dilate(mask, np.ones((side, side), np.uint8)), np.uint8)
    outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(grown, outlines, -1, (1,), cv2.FILLED)  # a hole would show what is behind
    return grown


def _ellipse(box: Box, window: Window) -> ByteArray:
    """1 where a pixel's centre lies in the ellipse that fills ``box``."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = window
    x = np.abs(np.arange(left, right) + 0.5 - (x1 + x2) / 2)
    y = (np.arange(top, bottom) + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
    half_width = (x2 - x1) / 2 * np.sqrt(np.maximum(0.0, 1.0 - y * y))
    inside: npt.NDArray[np.bool_] = x[None, :] <= half_width[:, None]
    return inside.view(np.uint8)


def _encoded(pixels: ByteArray, output: OutputFormat, profile: bytes | None) -> bytes:
    picture = Image.fromarray(pixels)
    if profile:
        _to_srgb(picture, profile)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, output, **SAVING[output])
    except ValueError as error:  # libwebp refuses some large pictures of much detail
        raise ImageTooLarge(f"the picture does not fit into {output}; ask for png") from error
    return buffer.getvalue()


def _to_srgb(picture: Image.Image, profile: bytes) -> None:
    """Converts in place; a profile that is damaged, or not one of RGB, is only left out."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB":
            return
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError):
        return
    # Most profiles are sRGB by another name: their pixels stay as they are, to the bit.
    cube = Image.fromarray(_COLOURS)
    converted = ImageCms.applyTransform(cube, transform)
    assert converted is not None
    if np.abs(np.asarray(converted, np.int16) - _COLOURS).max() > SAME_COLOUR:
        ImageCms.applyTransform(picture, transform, inPlace=True)


def _check_box(box: Box) -> None:
    x1, y1, x2, y2 = box
    if not all(abs(value) < FARTHEST for value in box) or x2 < x1 or y2 < y1:
        raise ValueError(f"box: expected finite x1 <= x2 and y1 <= y2, got {box}")


def _check_options(method: str, cells: int, padding: float, output: str | None) -> None:
    if method not in get_args(Method):
        raise InvalidRequest(f"method {method!r} is none of {', '.join(get_args(Method))}")
    if not 1 <= cells <= MAX_CELLS:
        raise InvalidRequest(f"cells must be 1 to {MAX_CELLS}, not {cells}")
    if not 0 <= padding <= MAX_PADDING:
        raise InvalidRequest(f"padding must be 0 to {MAX_PADDING:g}, not {padding}")
    if output is not None and output not in SAVING:
        raise InvalidRequest(f"output {output!r} is none of {', '.join(SAVING)}")


def _check_work(areas: Sequence[_Area]) -> None:
    work = sum(max(area.size, MIN_WORK) for area in areas)
    if work > MAX_WORK:
        raise InvalidRequest(f"the {len(areas)} regions are too many or too large for one request")


def _check_size(output: OutputFormat, width: int, height: int) -> None:
    longest = LONGEST_SIDE[output]
    if max(width, height) > longest:
        raise ImageTooLarge(
            f"a {output} picture has at most {longest} pixels a side, this one is {width}×{height};"
            " ask for png"
        )
