"""Which frames of a video are taken, and how large: every N-th, shrunk, within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from facegraph.errors import InvalidRequest, InvalidVideo
from facegraph.types import ByteArray
from facegraph.video.reading import Frame, Video


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a client asks for.

    fps_max: at most about so many frames a second
    width_max, height_max: larger frames are shrunk to fit, with their aspect; none is enlarged
    start_s, end_s: the part of the video, from the first to before the second; None: to its end
    max_frames: ends after so many; None: all
    """

    fps_max: float = 1.0
    width_max: int = 1280
    height_max: int = 720
    start_s: float = 0.0
    end_s: float | None = None
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the operator allows.

    max_frames: answered for one video
    max_duration_s: how far into a video is read
    max_pixels: of a frame
    """

    max_frames: int
    max_duration_s: float
    max_pixels: int


class _PartEnds(Exception):
    """The reading is past the part asked for."""


class Sampler:
    """The wanted frames of an open video.

    every: a frame is taken when its index is a multiple of this
    width, height: of the frames answered, pixels
    check: called for every frame that is read; what it raises ends the reading
    Raises InvalidVideo where the container tells that the bounds would be exceeded, InvalidRequest
    for more ``max_frames`` than are allowed.
    """

    def __init__(
        self, video: Video, asked: Sampling, bounds: Bounds, check: Callable[[], None]
    ) -> None:
        self._video, self._asked, self._bounds, self._check = video, asked, bounds, check
        info = video.info
        self.every = max(1, round(info.fps / asked.fps_max))  # half to even
        scale = min(1.0, asked.width_max / info.width, asked.height_max / info.height)
        self.width, self.height = (
            max(1, round(side * scale)) for side in (info.width, info.height)
        )
        self.indices: list[int] = []
        self._seen = 0
        self._require_bounds()

    def frames(self) -> Iterator[Frame]:
        """The frames in order, ``height`` × ``width``.

        Raises InvalidVideo as soon as a bound is exceeded that the container did not tell of.
        """
        most = self._asked.max_frames
        try:
            for frame in self._video.frames(self._wants):
                self._require_frames(len(self.indices) + 1)
                self.indices.append(frame.index)
                yield replace(frame, rgb=self._fit(frame.rgb))
                if len(self.indices) == most:
                    return
        except _PartEnds:
            return

    def description(self) -> dict[str, Any]:
        """What is known before the frames are read."""
        info = self._video.info
        return {
            "fps_original": info.fps,
            "width_original": info.width,
            "height_original": info.height,
            "width": self.width,
            "height": self.height,
        }

    def metadata(self) -> dict[str, Any]:
        """What was read, after the last frame: of the part asked for, if one was."""
        duration_s = self._seen / self._video.info.fps
        return {
            "num_frames_original": self._seen,
            "num_frames": len(self.indices),
            "duration_seconds": duration_s,
            "fps": len(self.indices) / duration_s if duration_s else 0.0,
            **self.description(),
            "frame_idx_original": self.indices,
        }

    @property
    def truncated(self) -> bool:
        """Whether frames of the video are missing: damaged, or not there."""
        return self._video.truncated

    def _wants(self, index: int, time_s: float) -> bool:
        self._check()
        if self._asked.end_s is not None and time_s >= self._asked.end_s:
            raise _PartEnds
        self._require_duration(time_s)
        inside = time_s >= self._asked.start_s
        self._seen += inside
        return inside and index % self.every == 0

    def _fit(self, rgb: ByteArray) -> ByteArray:
        if rgb.shape[:2] == (self.height, self.width):
            return rgb
        size = (self.width, self.height)
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _require_bounds(self) -> None:
        asked, most = self._asked.max_frames, self._bounds.max_frames
        if asked is not None and asked > most:
            raise InvalidRequest(f"max_frames: at most {most} frames are answered")
        end_s = min(self._asked.end_s or math.inf, self._video.info.duration_s or 0.0)
        self._require_duration(end_s)
        if asked is None:
            self._require_frames(self._expected(end_s))

    def _expected(self, end_s: float) -> int:
        """How many frames the container promises; rather too few."""
        info = self._video.info
        if info.frame_count is not None and not self._asked.start_s and self._asked.end_s is None:
            return math.ceil(info.frame_count / self.every)
        return int((end_s - self._asked.start_s) * info.fps / self.every)

    def _require_duration(self, time_s: float) -> None:
        if time_s > self._bounds.max_duration_s:
            raise InvalidVideo(
                f"the video is longer than the {self._bounds.max_duration_s:g} s that are read; "
                "ask for a part with end_s"
            )

    def _require_frames(self, count: int) -> None:
        if count > self._bounds.max_frames:
            raise InvalidVideo(
                f"these would be more than {self._bounds.max_frames} frames; "
                "lower fps_max or ask for a part"
            )
