"""Videos are read upright and in order, whatever they are in; what is no video is refused."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from facegraph.errors import InvalidVideo
from facegraph.types import ByteArray
from facegraph.video.reading import Frame, VideoInfo, open_video
from tests.video_making import clip, number_of, sound_only

pytestmark = pytest.mark.unit


def read(data: bytes, **options: Any) -> tuple[VideoInfo, list[Frame], bool]:
    with open_video(io.BytesIO(data), **options) as video:
        frames = list(video.frames())
        assert video.decoded == len(frames)
        return video.info, frames, video.truncated


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(frame.rgb) for frame in frames]


def test_frames_come_in_order_with_index_and_time() -> None:
    info, frames, truncated = read(clip(12, fps=10, sound=True))
    assert info == VideoInfo(64, 48, 10.0, 1.2, 12)
    assert [frame.index for frame in frames] == numbers(frames) == list(range(12))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(12)])
    assert (frames[0].rgb.shape, frames[0].rgb.dtype.name) == ((48, 64, 3), "uint8")
    assert not truncated


@pytest.mark.parametrize(
    ("container", "codec", "count"),
    [
        ("mp4", "libx264", 12),
        ("mov", "mpeg4", 12),
        ("avi", "mpeg4", 12),
        ("matroska", "libx264", None),  # does not count its frames
        ("webm", "libvpx-vp9", None),
        ("mpegts", "libx264", None),
        ("flv", "libx264", None),
        ("asf", "msmpeg4", None),
    ],
)
def test_containers(container: str, codec: str, count: int | None) -> None:
    info, frames, truncated = read(clip(12, container=container, codec=codec))
    assert (info.width, info.height, info.frame_count) == (64, 48, count)
    assert info.fps == pytest.approx(10, rel=0.01)
    assert info.duration_s == pytest.approx(1.2, abs=0.11)
    assert numbers(frames) == list(range(12))
    assert not truncated


def test_a_file_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(clip(3))
    for source in (path, str(path)):
        with open_video(source) as video:
            assert numbers(list(video.frames())) == [0, 1, 2]
    with pytest.raises(InvalidVideo, match="cannot be read"), open_video(tmp_path / "none.mp4"):
        pass


CORNERS = np.zeros((48, 64, 3), np.uint8)
"""Upper left yellow, upper right green, lower left red, lower right black."""
CORNERS[:, :32, 0] = 255
CORNERS[:24, :, 1] = 255


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        # display matrix, what makes the same of an array
        (None, CORNERS),
        ((90, False, False), np.rot90(CORNERS, 1)),
        ((180, False, False), np.rot90(CORNERS, 2)),
        ((270, False, False), np.rot90(CORNERS, 3)),
        ((0, True, False), CORNERS[:, ::-1]),
        ((0, False, True), CORNERS[::-1]),
        ((90, True, False), np.rot90(CORNERS, 1)[:, ::-1]),
        ((90, False, True), np.rot90(CORNERS, 1)[::-1]),
    ],
)
def test_frames_are_upright(rotation: tuple[float, bool, bool] | None, expected: ByteArray) -> None:
    info, frames, _ = read(clip(1, rotation=rotation, pictures=[CORNERS]))
    assert (info.height, info.width) == expected.shape[:2] == frames[0].rgb.shape[:2]
    assert np.abs(frames[0].rgb.astype(int) - expected)[4:20, 4:20].max() < 40
    assert np.abs(frames[0].rgb.astype(int) - expected)[-20:-4, -20:-4].max() < 40
    assert frames[0].rgb.flags.c_contiguous


def test_a_rate_that_varies() -> None:
    pts = [0, 100, 150, 1000, 1900]
    data = clip(5, container="mp4", pts=pts, time_base=Fraction(1, 1000))
    info, frames, _ = read(data)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.15, 1.0, 1.9])
    assert info.duration_s is not None
    assert info.fps == pytest.approx(5 / info.duration_s)


def test_time_begins_with_the_first_frame() -> None:
    pts = list(range(5000, 5010))
    _, frames, _ = read(clip(10, container="mpegts", fps=10, pts=pts))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(10)])


def test_unwanted_frames_are_passed_over() -> None:
    asked: list[tuple[int, float]] = []

    def keep(index: int, time_s: float) -> bool:
        asked.append((index, round(time_s, 3)))
        return index % 4 == 0

    with open_video(io.BytesIO(clip(10))) as video:
        frames = list(video.frames(keep))
        assert video.decoded == 10
    assert [frame.index for frame in frames] == numbers(frames) == [0, 4, 8]
    assert asked == [(n, n / 10) for n in range(10)]


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("matroska", "libx264", {}),
        ("avi", "mpeg4", {}),
        ("flv", "libx264", {}),
        ("mp4", "libx264", {"movflags": "faststart"}),
    ],
)
def test_a_file_that_ends_early_gives_what_it_has(
    container: str, codec: str, options: dict[str, str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    data = clip(30, container=container, codec=codec, options=options, pictures=list(noise))
    _, whole, truncated = read(data)
    assert (len(whole), truncated) == (30, False)
    _, frames, truncated = read(data[: len(data) // 2])
    assert 5 < len(frames) < 25
    assert truncated


def test_damage_in_the_middle_is_passed_over() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    data = bytearray(clip(30, options={"movflags": "faststart"}, pictures=list(noise)))
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(byte ^ 0x5A for byte in data[middle : middle + 2000])
    _, frames, truncated = read(bytes(data))
    assert 15 < len(frames) < 30
    assert truncated


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {}\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no video",
        bytes(5000),
        clip(30)[:600],  # an MP4 without its index
        b"\xff\xd8\xff\xe0" + bytes(3000),
        SDP.encode(),
    ],
    ids=["nothing", "text", "zeros", "cut off", "picture", "sdp"],
)
def test_what_is_no_video(data: bytes) -> None:
    with pytest.raises(InvalidVideo, match="not a video of a known container"):
        read(data)


@pytest.mark.parametrize("text", [PLAYLIST, CONCAT, DASH], ids=["m3u8", "concat", "dash"])
@pytest.mark.parametrize("options", [{}, {"safe": "0", "allowed_extensions": "ALL"}])
def test_no_file_makes_another_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(clip(3))
    for name in ("secret.mp4", str(tmp_path / "secret.mp4"), "http://127.0.0.1:9/secret.mp4"):
        with pytest.raises(InvalidVideo):
            read(text.format(name).encode(), options=options)


def test_a_list_of_files_would_be_read_without_our_guard(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(clip(3))
    text = CONCAT.format(tmp_path / "secret.mp4").encode()
    with av.open(io.BytesIO(text), "r", options={"safe": "0"}) as container:
        assert len(list(container.decode(video=0))) == 3


def test_sound_is_no_video() -> None:
    with pytest.raises(InvalidVideo, match="no video stream"):
        read(sound_only())


def test_too_many_pixels_are_refused() -> None:
    data = clip(3)
    assert len(read(data, max_pixels=64 * 48)[1]) == 3
    with pytest.raises(InvalidVideo, match="64×48 pixels, at most 3071"):
        read(data, max_pixels=64 * 48 - 1)


def test_a_video_cannot_grow_past_the_limit() -> None:
    one, other = (clip(100, container="mpegts", size=size) for size in ((64, 48), (320, 240)))
    _, frames, _ = read(one + other)
    assert {frame.rgb.shape for frame in frames} == {(48, 64, 3), (240, 320, 3)}
    _, frames, truncated = read(one + other, max_pixels=64 * 48)
    assert {frame.rgb.shape for frame in frames} == {(48, 64, 3)}
    assert truncated


@pytest.mark.parametrize(
    ("matrix", "readable"),
    [("bt709", True), ("smpte170m", True), ("bt2020nc", True), ("YCgCo", False), ("ictcp", False)],
)
def test_colours(matrix: str, readable: bool) -> None:
    data = clip(2, encoder={"x264-params": f"colormatrix={matrix}"})
    if readable:
        assert numbers(read(data)[1]) == [0, 1]
    else:
        with pytest.raises(InvalidVideo, match="colours cannot be converted"):
            read(data)
