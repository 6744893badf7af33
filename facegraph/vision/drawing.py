"""What was found, drawn: masks alone, or boxes, labels and masks over the photo.

Object i always has the same colour. Where masks overlap, the better-scored object is on top.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facegraph.types import ByteArray, FloatArray, Segmentation
from facegraph.vision.masks import Window, decode_window, window_of

Colour = tuple[int, int, int]

GOLDEN_RATIO = 0.618034
"""Of the circle of hues between one object's colour and the next: never near an earlier one."""

LINES_PER_SIDE = 500
"""The longer side is so many lines wide; a line has at least one pixel."""

TEXTS_PER_SIDE = 60
LEAST_TEXT = 12
"""The longer side is so many lines of text high; text of fewer pixels cannot be read."""


def colour_of(index: int) -> Colour:
    """RGB of the object in row ``index``; bright, so that it stands out from black."""
    saturation, value = ((0.75, 1.0), (0.5, 1.0), (0.9, 0.8))[index % 3]
    rgb = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, saturation, value)
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def colour_masks(segmentation: Segmentation) -> ByteArray:
    """(height, width, 3) uint8 RGB: each mask in its colour, black elsewhere."""
    picture = np.zeros((segmentation.height, segmentation.width, 3), np.uint8)
    for row in reversed(range(len(segmentation))):
        window, mask = _mask(segmentation, row)
        _part(picture, window)[mask] = colour_of(row)
    return picture


def annotate(rgb: ByteArray, segmentation: Segmentation) -> ByteArray:
    """A copy of the (height, width, 3) uint8 picture with masks, boxes, labels and scores.

    Raises ValueError where the picture's size is not the segmentation's.
    """
    if rgb.shape != (segmentation.height, segmentation.width, 3):
        raise ValueError(
            f"rgb: expected {segmentation.height}×{segmentation.width}×3, got {rgb.shape}"
        )
    picture = rgb.copy()
    for row in reversed(range(len(segmentation))):
        window, mask = _mask(segmentation, row)
        _tint(_part(picture, window), mask, colour_of(row), _line(rgb))
    said = zip(segmentation.labels, segmentation.scores, strict=True)
    return label_boxes(picture, segmentation.boxes, [f"{la} {score:.2f}" for la, score in said])


def label_boxes(rgb: ByteArray, boxes: FloatArray, texts: Sequence[str]) -> ByteArray:
    """A copy of the (height, width, 3) uint8 picture with each (n, 4) box and its text.

    boxes: x1 y1 x2 y2 in pixels; where labels meet, the first rows' have the better places
    """
    canvas = Image.fromarray(rgb)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(LEAST_TEXT, max(rgb.shape) // TEXTS_PER_SIDE))
    taken: list[Window] = []
    windows = [window_of(box, canvas.width, canvas.height) for box in boxes]
    for row in reversed(range(len(windows))):
        left, top, right, bottom = windows[row]
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(corners, outline=colour_of(row), width=_line(rgb))
    for row, window in enumerate(windows):
        place = _place(draw, texts[row], font, window, taken)
        if place is None:
            continue
        taken.append(place)
        colour = colour_of(row)
        draw.rectangle(place, fill=colour)
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else "white"
        draw.text((place[0] + 2, place[1]), texts[row], fill=ink, font=font)
    return np.array(canvas)


def _line(rgb: ByteArray) -> int:
    longer: int = max(rgb.shape)
    return max(1, round(longer / LINES_PER_SIDE))


def _mask(segmentation: Segmentation, row: int) -> tuple[Window, ByteArray]:
    """A mask within its box, as bool, and where that is."""
    size = segmentation.width, segmentation.height
    window = window_of(segmentation.boxes[row], *size)
    return window, decode_window(segmentation.masks[row], *size, window).view(np.bool_)


def _part(picture: ByteArray, window: Window) -> ByteArray:
    left, top, right, bottom = window
    return picture[top:bottom, left:right]


def _tint(part: ByteArray, mask: ByteArray, colour: Colour, line: int) -> None:
    """Half the colour over the mask, all of it along the mask's edge."""
    part[mask] = part[mask] // 2 + np.array(colour, np.uint8) // 2
    fenced = np.pad(mask.view(np.uint8), line)
    inside = cv2.erode(fenced, np.ones((3, 3), np.uint8), iterations=line)
    part[mask & (inside[line:-line, line:-line] == 0)] = colour


def _place(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: Window,
    taken: list[Window],
) -> Window | None:
    """Where a label goes: above its box, within at the top, below, or higher; in the picture.

    The first of these that no earlier label has; above the box, where each is taken. None where
    the picture is so small that the label would hide it.
    """
    reach = draw.textbbox((0, 0), text, font=font)
    width, height = int(reach[2]) + 4, int(reach[3]) + 3
    columns, rows = draw.im.size
    if width > columns or 2 * height > rows:
        return None
    left = max(0, min(box[0], columns - width))
    places = []
    for wish in (box[1] - height, box[1], box[3], *(box[1] - at * height for at in range(2, 6))):
        top = max(0, min(wish, rows - height))
        places.append((left, top, left + width - 1, top + height - 1))
    return next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])


def _meet(one: Window, other: Window) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
