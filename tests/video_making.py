"""Clips that PyAV makes: frame n says its number in its brightness."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from facegraph.types import ByteArray

STEP = 8
"""Grey levels between two frames, so that a codec's losses do not blur numbers below 30."""


def clip(
    count: int,
    *,
    fps: int | Fraction = 10,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "libx264",
    rotation: tuple[float, bool, bool] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sound: bool = False,
    options: Mapping[str, str] | None = None,
    encoder: Mapping[str, str] | None = None,
    pictures: Sequence[ByteArray] | None = None,
) -> bytes:
    """A video of ``count`` frames.

    rotation: degrees counter-clockwise, then mirrored sideways, then upside down
    pts: of each frame, in ``time_base``, for a rate that varies
    options, encoder: options of the container and of the encoder
    pictures: (h, w, 3) uint8 RGB; else grey ones, see :func:`number_of`
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with av.open(str(path), "w", format=container, options=dict(options or {})) as file:
            stream: Any = file.add_stream(codec, rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"preset": "ultrafast"} if codec == "libx264" else {}
            stream.options |= dict(encoder or {})
            if time_base is not None:
                stream.time_base = stream.codec_context.time_base = time_base
            if rotation is not None:
                stream.set_display_rotation(*rotation)
            if sound:
                _add_silence(file)
            for index in range(count):
                rgb = _grey(index, size) if pictures is None else pictures[index]
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts = index if pts is None else pts[index]
                frame.time_base = time_base or 1 / Fraction(fps)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path.read_bytes()


def number_of(rgb: ByteArray) -> int:
    """The number of a frame of :func:`clip`, up to 29."""
    return round((float(rgb.mean()) - 4) / STEP)


def sound_only() -> bytes:
    """An audio file."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        _add_silence(container)
    return file.getvalue()


def _grey(index: int, size: tuple[int, int]) -> ByteArray:
    return np.full((size[1], size[0], 3), 4 + STEP * (index % 30), np.uint8)


def _add_silence(container: Any) -> None:
    stream = container.add_stream("aac", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 8000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
