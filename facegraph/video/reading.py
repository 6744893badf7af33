"""From a video to upright RGB frames, one at a time. The only place that decodes videos.

FFmpeg decodes, through PyAV. What a client sent is read as data and nothing else: its container
must be one that holds its streams itself, so that no playlist makes FFmpeg open other files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Protocol

import numpy as np

from facegraph.errors import InvalidVideo
from facegraph.types import ByteArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf")
"""FFmpeg's names of what a client may send. None of them refers to other files."""

MAX_PIXELS = 50_000_000
DECODER_THREADS = 2
ADDRESS_TIMEOUT_S = 10.0
FALLBACK_FPS = 25.0

Keep = Callable[[int, float], bool]
Turn = Callable[[ByteArray], ByteArray]


class Source(Protocol):
    """What is needed of a file object."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the container says.

    width, height: of the upright frames, pixels
    fps: the average rate; 25 where nothing tells it
    duration_s, frame_count: None where the container does not say
    """

    width: int
    height: int
    fps: float
    duration_s: float | None
    frame_count: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded frame.

    index: counts all frames of the video from 0
    time_s: since the first frame, by the video's own clock
    rgb: (h, w, 3) uint8 RGB, upright
    """

    index: int
    time_s: float
    rgb: ByteArray


class Video:
    """An open video. Its frames can be read once.

    decoded: how many frames were read so far
    truncated: whether some are missing, as far as it shows: data were damaged, or ended early
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.decoded = 0
        self.truncated = False
        self._container = container
        self._stream = stream
        self._images = self._decode()
        first = next(self._images, None)
        if first is None:
            raise InvalidVideo("no frame of the video can be decoded")
        self._first: VideoFrame | None = first
        self._turn, swaps = _turn(first)
        width, height = (first.height, first.width) if swaps else (first.width, first.height)
        self.info = VideoInfo(
            width, height, _fps(stream), _duration_s(container, stream), stream.frames or None
        )

    def frames(self, keep: Keep | None = None) -> Iterator[Frame]:
        """The frames in order, as far as they decode.

        keep: called with the index and time of every frame; where it is False, the frame is not
            converted. What it raises ends the reading.
        Raises InvalidVideo where frames were wanted and none has colours that can be converted.
        """
        wanted = given = 0
        image, self._first = self._first, None
        began = None if image is None else _clock(image)
        ends_s = 0.0
        while image is not None:
            index, self.decoded = self.decoded, self.decoded + 1
            clock = _clock(image)
            time_s = index / self.info.fps if clock is None or began is None else clock - began
            ends_s = time_s + _lasts_s(image, self.info.fps)
            if keep is None or keep(index, time_s):
                wanted += 1
                if (rgb := self._upright(image)) is not None:
                    given += 1
                    yield Frame(index, time_s, rgb)
            image = next(self._images, None)
        if wanted and not given:
            raise InvalidVideo("the video's colours cannot be converted")
        told_s = self._told_s()
        self.truncated |= told_s is not None and ends_s + 2 / self.info.fps < told_s

    def _decode(self) -> Iterator[VideoFrame]:
        """Skips packets that are damaged; ends where no more can be read."""
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                self.truncated = True
                return
            except IndexError:  # PyAV's, at the end, where another stream appeared on the way
                return
            if packet is None:
                return
            try:
                images = self._stream.decode(packet)
            except FFmpegError:
                self.truncated = True
                continue
            yield from images

    def _told_s(self) -> float | None:
        """How long the pictures last; a container may count in sound that goes on."""
        alone = len(self._container.streams) == 1
        return self.info.duration_s if alone or self._stream.duration else None

    def _upright(self, image: VideoFrame) -> ByteArray | None:
        """None where the frame says something of its colours that FFmpeg cannot convert."""
        from av.error import FFmpegError

        try:
            rgb: Any = image.to_ndarray(format="rgb24", threads=1)
        except FFmpegError:
            self.truncated = True
            return None
        return np.ascontiguousarray(self._turn(rgb))


@contextmanager
def open_video(
    source: Path | str | Source,
    *,
    format: str | None = None,
    options: Mapping[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Video]:
    """The video behind ``source``; decodes its first frame.

    source: a path or a file object is one file that must hold everything; a text is an address
        (``rtsp://…``), a device or a name, opened by FFmpeg's own rules: never a client's
    format: FFmpeg's name of the container or device, else found out
    max_pixels: of a frame; larger videos are refused before decoding
    Raises InvalidVideo for what is no video, has no frame that decodes, or is too large.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            source = stack.enter_context(_open_file(source))
        container = stack.enter_context(_open_container(source, format, dict(options or {})))
        stream = _video_stream(container)
        if stream.width * stream.height > max_pixels:
            raise InvalidVideo(
                f"the video has {stream.width}×{stream.height} pixels, "
                f"at most {max_pixels} are allowed"
            )
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        stream.codec_context.options = {"max_pixels": str(max_pixels)}  # the size may change
        yield Video(container, stream)


class _Bytes:
    """What FFmpeg sees of a file object: its bytes, not its name, which could mean something."""

    def __init__(self, source: Source) -> None:
        self.read, self.seek, self.tell = source.read, source.seek, source.tell


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidVideo(f"{path} cannot be read: {error.strerror}") from None


def _open_container(
    source: str | Source, format: str | None, options: dict[str, str]
) -> InputContainer:
    import av
    from av.error import FFmpegError

    what: str | _Bytes
    how: dict[str, Any]
    if isinstance(source, str):
        what, how = source, {"timeout": ADDRESS_TIMEOUT_S}
    else:
        what, how = _Bytes(source), {"io_open": _refuse}
        options["format_whitelist"] = ",".join(CONTAINERS)
    try:
        container: InputContainer = av.open(
            what, "r", format=format, options=options, metadata_errors="replace", **how
        )
        return container
    except (FFmpegError, ValueError) as error:
        raise InvalidVideo(
            "this cannot be opened as a video"
            if isinstance(source, str)  # it may hold a password
            else "not a video of a known container (MP4, WebM, AVI, MPEG, FLV, Ogg, ASF), or "
            "cut off before its index"
        ) from error


def _refuse(url: str, *_: object) -> NoReturn:
    raise PermissionError("a video that refers to other files is not read")


def _video_stream(container: InputContainer) -> VideoStream:
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise InvalidVideo("the file has no video stream")
    if streams[0].codec_context is None:
        raise InvalidVideo("the video's codec is not known")
    return streams[0]


def _fps(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else FALLBACK_FPS


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None


def _clock(image: VideoFrame) -> float | None:
    return None if image.pts is None else image.time


def _lasts_s(image: VideoFrame, fps: float) -> float:
    if image.duration and image.time_base:
        return float(image.duration * image.time_base)
    return 1 / fps


def _turn(image: VideoFrame) -> tuple[Turn, bool]:
    """What makes the frames upright, and whether it swaps width and height.

    By the display matrix (ISO 14496-12): x' = a·x + c·y, y' = b·x + d·y, in quarter turns.
    """
    data: Any = image.side_data.get("DISPLAYMATRIX")
    if data is None:
        return lambda rgb: rgb, False
    (a, b, _), (c, d, _), _ = np.frombuffer(data, np.int32).reshape(3, 3).tolist()
    swaps = abs(a) < abs(b)
    left, up = (c, b) if swaps else (a, d)
    columns, rows = slice(None, None, -1 if left < 0 else 1), slice(None, None, -1 if up < 0 else 1)

    def turn(rgb: ByteArray) -> ByteArray:
        return (rgb.transpose(1, 0, 2) if swaps else rgb)[rows, columns]

    return turn, swaps
