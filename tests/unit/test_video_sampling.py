"""Which frames are taken, how large they are, what is said of them, and where it ends."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from facegraph.errors import FacegraphError, InvalidRequest, InvalidVideo
from facegraph.video.reading import Frame, open_video
from facegraph.video.sampling import Bounds, Sampler, Sampling
from tests.video_making import clip, number_of

pytestmark = pytest.mark.unit

WIDE = Bounds(max_frames=10_000, max_duration_s=10_000, max_pixels=10_000_000)


@contextmanager
def sampler(data: bytes, bounds: Bounds = WIDE, **asked: Any) -> Iterator[Sampler]:
    with open_video(io.BytesIO(data)) as video:
        yield Sampler(video, Sampling(**asked), bounds, lambda: None)


def sampled(data: bytes, bounds: Bounds = WIDE, **asked: Any) -> tuple[list[Frame], dict[str, Any]]:
    with sampler(data, bounds, **asked) as taken:
        return list(taken.frames()), taken.metadata()


def test_the_documented_example() -> None:
    data = clip(555, fps=60, size=(1280, 720))
    frames, metadata = sampled(data, fps_max=10, width_max=640, height_max=480)
    assert metadata == {
        "num_frames_original": 555,
        "num_frames": 93,
        "duration_seconds": 9.25,
        "fps_original": 60,
        "fps": 10.054054054054054,
        "width_original": 1280,
        "height_original": 720,
        "width": 640,
        "height": 360,
        "frame_idx_original": list(range(0, 553, 6)),
    }
    assert [frame.rgb.shape for frame in frames] == [(360, 640, 3)] * 93
    assert [number_of(frame.rgb) for frame in frames] == [n % 30 for n in range(0, 553, 6)]


@pytest.mark.parametrize(
    ("fps", "fps_max", "every"),
    [
        (60, 10, 6),
        (10, 1, 10),
        (10, 4, 2),  # 2.5: half to even
        (14, 4, 4),  # 3.5: half to even
        (10, 3, 3),
        (10, 10, 1),
        (10, 30, 1),  # never more than there are
        (10, 20, 1),  # 0.5 would be 0
    ],
)
def test_every_nth_frame(fps: int, fps_max: float, every: int) -> None:
    frames, metadata = sampled(clip(25, fps=fps), fps_max=fps_max)
    assert [frame.index for frame in frames] == list(range(0, 25, every))
    assert metadata["frame_idx_original"] == list(range(0, 25, every))


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((64, 48), (1280, 720), (64, 48)),  # never enlarged
        ((64, 48), (32, 720), (32, 24)),
        ((64, 48), (1280, 24), (32, 24)),
        ((64, 48), (10, 10), (10, 8)),  # 7.5
        ((128, 16), (8, 8), (8, 1)),
        ((128, 16), (1, 1), (1, 1)),  # never nothing
    ],
)
def test_the_aspect_is_kept(
    size: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]
) -> None:
    frames, metadata = sampled(clip(1, size=size), width_max=box[0], height_max=box[1])
    assert (metadata["width"], metadata["height"]) == expected
    assert frames[0].rgb.shape == (expected[1], expected[0], 3)


def test_a_turned_video_is_fitted_upright() -> None:
    frames, metadata = sampled(clip(1, rotation=(90, False, False)), height_max=32)
    assert (metadata["width_original"], metadata["height_original"]) == (48, 64)
    assert frames[0].rgb.shape == (32, 24, 3)


def test_a_part() -> None:
    frames, metadata = sampled(clip(25), fps_max=5, start_s=0.5, end_s=1.5)
    assert [frame.index for frame in frames] == [6, 8, 10, 12, 14]
    assert (metadata["num_frames_original"], metadata["duration_seconds"]) == (10, 1.0)
    assert metadata["fps"] == 5


def test_a_part_without_a_frame() -> None:
    frames, metadata = sampled(clip(5), start_s=100)
    assert frames == []
    assert (metadata["num_frames"], metadata["fps"]) == (0, 0.0)


def test_it_ends_after_max_frames() -> None:
    frames, metadata = sampled(clip(25), replace(WIDE, max_frames=3), fps_max=10, max_frames=3)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert metadata["num_frames"] == 3


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(
    ("bounds", "asked", "error", "said"),
    [
        ({"max_frames": 24}, {}, InvalidVideo, "more than 24 frames"),
        ({"max_frames": 11}, {"fps_max": 5}, InvalidVideo, "more than 11 frames"),
        ({"max_frames": 4}, {"start_s": 1, "end_s": 2}, InvalidVideo, "more than 4 frames"),
        ({"max_frames": 3}, {"max_frames": 4}, InvalidRequest, "at most 3 frames"),
        ({"max_duration_s": 2.4}, {}, InvalidVideo, "longer than the 2.4 s"),
        ({"max_duration_s": 2.4}, {"end_s": 60}, InvalidVideo, "longer than the 2.4 s"),
    ],
)
def test_what_the_container_tells_is_refused_before_decoding(
    container: str,
    bounds: dict[str, Any],
    asked: dict[str, Any],
    error: type[FacegraphError],
    said: str,
) -> None:
    data = clip(25, container=container)
    allowed = replace(WIDE, **bounds)
    with pytest.raises(error, match=said), sampler(data, allowed, **{"fps_max": 10} | asked):
        pass


@pytest.mark.parametrize(
    ("bounds", "asked", "count"),
    [
        ({"max_frames": 25}, {}, 25),
        ({"max_frames": 13}, {"fps_max": 5}, 13),
        ({"max_frames": 5}, {"start_s": 2.0, "end_s": 60}, 5),
        ({"max_duration_s": 2.5}, {}, 25),
        ({"max_duration_s": 2.0}, {"end_s": 2.0}, 20),
    ],
)
def test_what_is_just_within_the_bounds(
    bounds: dict[str, Any], asked: dict[str, Any], count: int
) -> None:
    frames, _ = sampled(clip(25), replace(WIDE, **bounds), **{"fps_max": 10} | asked)
    assert len(frames) == count


@pytest.mark.parametrize(
    ("bounds", "given"), [({"max_frames": 4}, 4), ({"max_duration_s": 1.15}, 12)]
)
def test_what_the_container_hides_ends_with_an_error(bounds: dict[str, Any], given: int) -> None:
    class Unseekable(io.BytesIO):
        """As a browser records: the container says neither duration nor count."""

        def seekable(self) -> bool:
            return False

    data = clip(25, container="matroska", options={"live": "1"})
    with open_video(Unseekable(data)) as video:
        assert (video.info.duration_s, video.info.frame_count) == (None, None)
        taken = Sampler(video, Sampling(fps_max=10), replace(WIDE, **bounds), lambda: None)
        with pytest.raises(InvalidVideo):
            list(taken.frames())
        assert taken.indices == list(range(given))


def test_two_hours_are_read_a_frame_at_a_time() -> None:
    data = clip(7200, fps=1)
    with sampler(data, fps_max=0.5) as taken:
        frames = taken.frames()
        assert next(frames).index == 0
        tracemalloc.start()
        count, last = 1, None
        for frame in frames:
            count, last = count + 1, frame
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (count, taken.metadata()["duration_seconds"]) == (3600, 7200.0)
    assert last is not None
    assert (last.index, last.time_s) == (7198, 7198.0)
    assert peak < 60 * last.rgb.nbytes  # with the list of indices; all frames would be 3600
