"""Video as it is watched: from a camera, a stream or a file, and into an annotated file.

A file gives every frame. A live source gives the newest one: frames that came while the last
was looked at are dropped, so what is shown is never late.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from facegraph.errors import InvalidVideo
from facegraph.types import ByteArray
from facegraph.video.reading import Frame, Video, VideoInfo, open_video

if TYPE_CHECKING:
    from types import TracebackType

DEVICE = re.compile(r"(?:/dev/video)?(\d{1,3})")
STREAM = re.compile(r"rtsps?://", re.IGNORECASE)
STREAM_OPTIONS = {"rtsp_transport": "tcp", "timeout": "10000000"}
"""TCP loses no parts of pictures; ``timeout`` is in µs, for a server that falls silent."""

ENCODERS = ("libx264", "mpeg4")
"""The first one that this FFmpeg has is taken."""

TICKS_PER_S = 60_000
"""Of a written file's clock: every common frame rate is whole in it; MPEG-4 allows 65,535."""

JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a video comes from.

    name: for people; stem: for files made of it
    live: its frames come at their own pace, and never end by themselves
    """

    name: str
    stem: str
    address: Path | str
    live: bool = False
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class Feed(Protocol):
    """A video being watched; ``truncated`` tells afterwards whether frames were missing."""

    info: VideoInfo
    truncated: bool

    def frames(self) -> Iterator[Frame]: ...


def source_of(text: str) -> Source:
    """A camera's number (or ``/dev/videoN``), an RTSP address, or else a file.

    Raises InvalidVideo where the camera or file is not there.
    """
    if (camera := DEVICE.fullmatch(text)) is not None:
        device = Path(f"/dev/video{int(camera[1])}")
        if not device.exists():
            raise InvalidVideo(f"there is no camera {int(camera[1])}: {device} does not exist")
        number = int(camera[1])
        return Source(f"camera {number}", f"camera-{number}", str(device), True, "v4l2")
    if STREAM.match(text):
        return Source("the stream", "stream", text, True, options=STREAM_OPTIONS)
    path = Path(text)
    if not path.is_file():
        raise InvalidVideo(f"{text} is no camera's number, no RTSP address and no file")
    return Source(text, path.stem, path)


@contextmanager
def watch(source: Source) -> Iterator[Feed]:
    """Opens it; InvalidVideo where it does not open, in one sentence that names it."""
    with ExitStack() as stack:
        if source.live:
            yield stack.enter_context(Newest(source))
        else:
            yield stack.enter_context(_opened(source))


@contextmanager
def _opened(source: Source) -> Iterator[Video]:
    with ExitStack() as stack:
        try:
            video = stack.enter_context(
                open_video(source.address, format=source.format, options=source.options)
            )
        except InvalidVideo as error:
            cause = getattr(error.__cause__, "strerror", None) if source.live else None
            raise InvalidVideo(
                f"{source.name}: {error}" + (f" ({cause})" if cause else "")
            ) from None
        yield video


class Newest:
    """The newest frame of a live source. A thread reads it and keeps one frame, the last.

    The thread alone touches the source, so one that hangs holds up nobody at the end.
    """

    def __init__(self, source: Source) -> None:
        self.info: VideoInfo
        self.truncated = False
        self.dropped = 0
        self._source = source
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._opened = self._ended = self._stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="live video", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._ended)
            if not self._opened and self._error is not None:
                raise self._error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
        self._thread.join(JOIN_S)

    def frames(self) -> Iterator[Frame]:
        """Each frame at most once, in order; InvalidVideo when no more come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._ended)
                frame, self._frame = self._frame, None
            if frame is None:
                raise self._error or InvalidVideo(f"{self._source.name} sends no more frames")
            yield frame

    def _run(self) -> None:
        try:
            with _opened(self._source) as video:
                self._read(video)
        except Exception as error:  # noqa: BLE001 - raised where the frames are wanted
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read(self, video: Video) -> None:
        self.info = video.info
        with self._changed:
            self._opened = True
            self._changed.notify_all()
        for frame in video.frames():
            with self._changed:
                if self._stopped:
                    return
                self.dropped += self._frame is not None
                self._frame = frame
                self._changed.notify_all()


class VideoWriter:
    """Writes frames into a video file: H.264 where this FFmpeg encodes it, else MPEG-4.

    The first frame's size holds; an odd side is rounded up, by repeating its last pixels. A frame
    keeps its time. The file is whole after :meth:`close`. Raises InvalidVideo.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None
        self._began = 0.0
        self._last = -1

    def write(self, rgb: ByteArray, time_s: float) -> None:
        """(h, w, 3) uint8 RGB, seen at ``time_s``; times that do not grow are moved."""
        import av

        height, width = rgb.shape[:2]
        even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with self._failing():
            if self._container is None:
                self._begin(even.shape[1], even.shape[0])
                self._began = time_s
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                width=self._stream.width, height=self._stream.height, format="yuv420p"
            )
            self._last = max(round((time_s - self._began) * TICKS_PER_S), self._last + 1)
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS_PER_S)
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file; where nothing was written there is none."""
        if self._container is None:
            return
        container, self._container = self._container, None
        with self._failing():
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()

    def _begin(self, width: int, height: int) -> None:
        import av

        self._container = av.open(str(self.path), "w")
        encoder = next(name for name in ENCODERS if name in av.codecs_available)
        fps = Fraction(self._fps).limit_denominator(1001)
        self._stream = stream = self._container.add_stream(encoder, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        if encoder == "libx264":
            stream.options = {"preset": "veryfast", "crf": "18"}
        else:
            stream.bit_rate = round(width * height * self._fps / 4)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InvalidVideo(f"{self.path} cannot be written: {error}") from error
