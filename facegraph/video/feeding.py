"""A video's frames on their way to the detector: sampled, shrunk, encoded without loss.

One thread of its own reads, one frame whenever one is asked for, so that nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facegraph.types import ByteArray
from facegraph.video.lossless import bmp_within
from facegraph.video.reading import Source, Video, VideoInfo, open_video

LONG_SIDE = 1920
"""Larger frames are shrunk to this before faces are looked for."""

CUT_DIFFERENCE = 25.0
"""Mean difference of two sampled frames' small pictures, in grey levels, at which another shot of a
camera begins. Films lie above 27 at a cut and below 17 elsewhere; a fast pan may pass for a cut,
which only parts a track in two."""

SMALL = (64, 36)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A sampled frame as the detector takes it.

    image: BMP
    scale: of the picture, in parts of the video's frame
    cut: the picture shows another shot of a camera than the one before
    """

    time_s: float
    image: bytes
    scale: float
    cut: bool


class Feed:
    """Sampled frames of an open video, in order. See :func:`open_feed`."""

    def __init__(self, fps_max: float, max_duration_s: float) -> None:
        self._fps_max = fps_max
        self._max_duration_s = max_duration_s
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="video")
        self._video: Video
        self._pictures: Iterator[Picture]
        self._opened = ExitStack()
        self._cut_short = False
        self.info: VideoInfo

    @property
    def frames_read(self) -> int:
        return self._video.decoded

    @property
    def truncated(self) -> bool:
        """Whether frames are missing: beyond the longest duration, damaged, or not there."""
        return self._cut_short or self._video.truncated

    async def next(self) -> Picture | None:
        """The next sampled frame, None after the last. Raises InvalidVideo."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, next, self._pictures, None)

    async def open(self, source: Path | Source) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._open, source)

    async def close(self) -> None:
        """Ends the reading within a frame's time and lets go of the file."""
        self._stopped.set()
        await asyncio.get_running_loop().run_in_executor(self._pool, self._opened.close)
        self._pool.shutdown(wait=False)

    def _open(self, source: Path | Source) -> None:
        self._video = self._opened.enter_context(open_video(source))
        self.info = self._video.info
        self._pictures = self._sampled(self._video)

    def _sampled(self, video: Video) -> Iterator[Picture]:
        slot = -1

        def wanted(_: int, time_s: float) -> bool:
            nonlocal slot
            at = int(time_s * self._fps_max + 1e-6)
            newer, slot = at > slot, max(at, slot)
            return newer or self._stopped.is_set()

        small: ByteArray | None = None
        for frame in video.frames(wanted):
            if self._stopped.is_set():
                return
            if frame.time_s > self._max_duration_s:
                self._cut_short = True
                return
            before, small = small, _small(frame.rgb)
            image, scale = bmp_within(frame.rgb, LONG_SIDE)
            cut = before is not None and _differ(before, small)
            yield Picture(frame.time_s, image, scale, cut)


@asynccontextmanager
async def open_feed(
    source: Path | Source, *, fps_max: float, max_duration_s: float
) -> AsyncIterator[Feed]:
    """The video's frames, at most ``fps_max`` a second, up to ``max_duration_s``.

    Raises InvalidVideo. When the block is left, also by cancellation, the thread is done.
    """
    feed = Feed(fps_max, max_duration_s)
    try:
        await feed.open(source)
        yield feed
    finally:
        await feed.close()


def _small(rgb: ByteArray) -> ByteArray:
    return np.asarray(cv2.resize(rgb, SMALL, interpolation=cv2.INTER_AREA), np.uint8)


def _differ(before: ByteArray, after: ByteArray) -> bool:
    return float(cv2.absdiff(before, after).mean()) >= CUT_DIFFERENCE
