"""Faces in live video and video files: frame by frame, in a window or into an annotated file."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from facegraph.commands.pictures import fresh_file, say, warn
from facegraph.commands.processing import Look
from facegraph.commands.windows import Window, open_window
from facegraph.errors import ConfigError, InvalidVideo
from facegraph.types import ByteArray
from facegraph.video.live import Feed, Source, VideoWriter, source_of, watch
from facegraph.video.reading import Frame

CONTAINERS = (".mp4", ".mov", ".mkv")
"""What ``-o`` may end with to mean a file; the first is the default."""


class Screen(Protocol):
    """Where annotated frames go."""

    def take(self, rgb: ByteArray, time_s: float) -> bool:
        """False once nobody wants more."""
        ...

    def close(self) -> None: ...


class OnWindow:
    """A file plays at its own speed, where detection is fast enough; a live one as it comes."""

    def __init__(self, window: Window, *, paced: bool) -> None:
        self._window = window
        self._paced = paced
        self._began: float | None = None

    def take(self, rgb: ByteArray, time_s: float) -> bool:
        if self._began is None:
            self._began = time.monotonic() - time_s
        early = self._began + time_s - time.monotonic() if self._paced else 0.0
        return self._window.show(rgb, max(0.0, early))

    def close(self) -> None:
        self._window.close()


class InFile:
    """A video file that is there from the first frame on."""

    def __init__(self, output: Path | None, source: Source, fps: float) -> None:
        self._place = _place(output, source)
        self._fps = fps
        self._writer: VideoWriter | None = None

    def take(self, rgb: ByteArray, time_s: float) -> bool:
        if self._writer is None:
            self._writer = VideoWriter(fresh_file(*self._place), self._fps)
        self._writer.write(rgb, time_s)
        return True

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            say(f"annotated video: {self._writer.path}")


def _place(output: Path | None, source: Source) -> tuple[Path, str, str]:
    """Folder, stem and suffix; ConfigError where ``output`` names no kind of video."""
    if output is None or output.is_dir() or not output.suffix:
        return output or Path(), f"{source.stem}-faces", CONTAINERS[0]
    if output.suffix.lower() not in CONTAINERS:
        raise ConfigError(
            f"-o {output}: a folder, or a file that ends with {', '.join(CONTAINERS)}"
        )
    return output.parent, output.stem, output.suffix


def look_at_video(options: argparse.Namespace, source: Source, look: Look) -> int:
    """Until the video, the limits or the person's patience end.

    Raises InvalidVideo where the source does not open, and where a live one falls silent.
    """
    with watch(source) as feed:
        screens = _screens(options, source, feed)
        seen = 0
        try:
            for frame in _within(options, feed):
                found = look(frame.rgb)
                if options.print_output:
                    told = {"frame": frame.index, "time_s": round(frame.time_s, 3)}
                    say(json.dumps(told | {"faces": found.answer()}, ensure_ascii=False))
                picture = found.draw(frame.rgb)
                seen += 1
                if not all(screen.take(picture, frame.time_s) for screen in screens):
                    break
        except KeyboardInterrupt:
            warn("stopped")
        finally:
            for screen in screens:
                screen.close()
            if options.verbose:
                warn(f"{source.name}: {seen} frames looked at")
        if feed.truncated:
            raise InvalidVideo(f"{source.name} is damaged or incomplete: frames are missing")
    return 0


def open_source(options: argparse.Namespace) -> Source:
    """The camera, file or address asked for; said before any model is loaded."""
    source = source_of(options.video_test)
    _place(options.output, source)
    return source


def _screens(options: argparse.Namespace, source: Source, feed: Feed) -> list[Screen]:
    """A window where there is a display, else a file; both with ``-o`` and ``-s``."""
    window = None
    if options.show_img or options.output is None:
        window = open_window(f"facegraph: {source.name}")
        if window is None:
            warn("no display: the annotated video is written to a file")
    screens: list[Screen] = []
    if options.output is not None or window is None:
        screens.append(InFile(options.output, source, feed.info.fps))
    if window is not None:
        screens.append(OnWindow(window, paced=not source.live))
    return screens


def _within(options: argparse.Namespace, feed: Feed) -> Iterator[Frame]:
    """The frames up to ``--max-frames`` and ``--seconds``, with a progress bar on a terminal."""
    frames = itertools.islice(feed.frames(), options.max_frames)
    total = feed.info.frame_count
    if total is not None and options.max_frames is not None:
        total = min(total, options.max_frames)
    began: float | None = None
    for frame in tqdm(frames, total=total, unit="frame", disable=None):
        began = frame.time_s if began is None else began
        if options.seconds is not None and frame.time_s - began >= options.seconds:
            return
        yield frame
