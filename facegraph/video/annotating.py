"""Frames of live video, drawn over with what was seen in them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facegraph.errors import FacegraphError
from facegraph.offload import Offload
from facegraph.types import ByteArray, FloatArray
from facegraph.video.lossless import bmp_within
from facegraph.vision.drawing import label_boxes

if TYPE_CHECKING:
    from av import VideoFrame

log = logging.getLogger(__name__)

MAX_FRAME_PIXELS = 3840 * 2160
"""Larger frames go back as they came."""

LOOKED_AT_SIDE = 1280
"""The longer side of what is looked at; larger frames are shrunk for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is drawn over a picture: (n, 4) float32 boxes, x1 y1 x2 y2 in pixels, and n texts."""

    boxes: FloatArray
    texts: Sequence[str]


Look = Callable[[bytes], Awaitable[Seen]]
"""From a compressed picture to what is in it."""


class Annotator:
    """Draws over frames what ``look`` says; where looking fails, they go back as they came."""

    def __init__(self, look: Look, pixels: Offload) -> None:
        self._look = look
        self._pixels = pixels
        self._failing = False

    async def __call__(self, frame: VideoFrame) -> VideoFrame:
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            return frame
        try:
            rgb, picture, scale = await self._pixels.run(_picture, frame)
            seen = await self._look(picture)
            drawn = await self._pixels.run(_drawn, frame, rgb, seen, scale)
        except Exception as error:
            if not self._failing:  # once, not thirty times a second
                trace = None if isinstance(error, FacegraphError) else error
                log.warning("a stream goes on without boxes: %s", error, exc_info=trace)
            self._failing = True
            return frame
        self._failing = False
        return drawn


def _picture(frame: VideoFrame) -> tuple[ByteArray, bytes, float]:
    """The frame as (h, w, 3) RGB and, shrunk to be looked at, as BMP; how much it was shrunk."""
    rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return rgb, *bmp_within(rgb, LOOKED_AT_SIDE)


def _drawn(frame: VideoFrame, rgb: ByteArray, seen: Seen, scale: float) -> VideoFrame:
    from av import VideoFrame

    boxes = np.asarray(seen.boxes / scale, np.float32)
    drawn = VideoFrame.from_ndarray(label_boxes(rgb, boxes, seen.texts), format="rgb24")
    drawn.pts, drawn.time_base = frame.pts, frame.time_base
    return drawn
