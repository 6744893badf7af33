"""A whole video search, with fake models: the timeline, the limits, what goes wrong."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from facegraph.errors import (
    CollectionNotFound,
    FacegraphError,
    InvalidRequest,
    InvalidVideo,
    ModelUnavailable,
    Overloaded,
)
from facegraph.service import Service
from facegraph.types import ByteArray
from facegraph.video import searching
from facegraph.video.feeding import open_feed
from facegraph.video.searching import FRAMES_IN_WORK, VideoSearchOptions, search_video
from tests.fake_film import film_service, scene, write_film

pytestmark = pytest.mark.unit

FPS = 10


def frames() -> list[ByteArray]:
    """1 and 3 for a second, cut, 2 at the place of 1 for a second, cut, 1 and 3 again."""
    first = [scene((1, 20 + i, 30), (3, 100, 30)) for i in range(FPS)]
    second = [scene((2, 30, 30), ground=100) for _ in range(FPS)]
    return [*first, *second, *first]


class Told:
    """What progress was told."""

    def __init__(self) -> None:
        self.parts: list[float] = []
        self.words: list[str] = []

    async def __call__(self, part: float, words: str) -> None:
        self.parts.append(part)
        self.words.append(words)


async def look(
    service: Service, film: Path, told: Told | None = None, **options: Any
) -> dict[str, Any]:
    return await search_video(
        service,
        film,
        VideoSearchOptions(**({"collection_id": "default"} | options)),
        told or Told(),
    )


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.mkv", frames(), FPS)


async def test_who_is_seen_when(film: Path) -> None:
    service, _ = film_service(1, 2)
    answer = await look(service, film)
    assert answer["video"] == {
        "width": 160,
        "height": 90,
        "fps": 10.0,
        "duration_s": 3.0,
        "frames_read": 30,
        "frames_searched": 15,
        "truncated": False,
    }
    assert (answer["collection"], answer["version"], answer["model"]) == ("default", 2, "opencv")
    assert answer["threshold"] == service.pack.threshold
    assert [
        (p["label"], p["name"], [(a["start_s"], a["end_s"]) for a in p["appearances"]])
        for p in answer["people"]
    ] == [
        ("person-1", "Person 1", [(0.0, 3.0)]),  # away for a second, which is the gap
        ("unknown-1", None, [(0.0, 3.0)]),
        ("person-2", "Person 2", [(1.0, 2.0)]),
    ]
    tracks = [(t["label"], t["start_s"], t["end_s"], t["faces"]) for t in answer["tracks"]]
    assert tracks == [
        ("person-1", 0.0, 1.0, 5),
        ("unknown-1", 0.0, 1.0, 5),
        ("person-2", 1.0, 2.0, 5),
        ("person-1", 2.0, 3.0, 5),
        ("unknown-1", 2.0, 3.0, 5),
    ]
    assert answer["tracks"][1]["matches"] == []
    assert answer["tracks"][2]["matches"][0]["subject_id"] == "person-2"
    assert answer["tracks"][2]["best_shots"][0]["bbox"] == {
        "x": 30.0,
        "y": 30.0,
        "width": 24.0,
        "height": 24.0,
    }


async def test_several_frames_are_in_work_at_a_time_and_no_more(film: Path) -> None:
    service, graph = film_service(1)
    graph.wait_for = FRAMES_IN_WORK
    await look(service, film)
    assert graph.most_in_work == FRAMES_IN_WORK


@pytest.mark.parametrize(
    ("options", "people", "searched"),
    [
        ({"gap_s": 0.5}, [("person-1", 2), ("unknown-1", 2), ("person-2", 1)], 15),  # two visits
        ({"max_faces": 1}, [("person-1", 1), ("person-2", 1)], 15),  # the largest only
        ({"threshold": 0.99}, [("person-1", 1), ("unknown-1", 1), ("person-2", 1)], 15),
        ({"fps_max": 1}, [("person-1", 1), ("unknown-1", 1), ("person-2", 1)], 3),  # one a second
        ({"fps_max": 60}, [("person-1", 1), ("unknown-1", 1), ("person-2", 1)], 30),  # all
        ({"min_track_s": 1.5}, [], 15),  # nobody so long in one shot
    ],
)
async def test_options(
    film: Path, options: dict[str, Any], people: list[tuple[str, int]], searched: int
) -> None:
    service, _ = film_service(1, 2)
    answer = await look(service, film, **options)
    assert [(p["label"], len(p["appearances"])) for p in answer["people"]] == people
    assert answer["video"]["frames_searched"] == searched


async def test_tracks_left_out_are_counted(film: Path) -> None:
    service, _ = film_service(1, 2)
    answer = await look(service, film, max_tracks=2)
    assert [track["track"] for track in answer["tracks"]] == [1, 2]  # of equals, the first
    assert answer["tracks_left_out"] == 3


async def test_only_the_beginning_of_a_long_video(film: Path) -> None:
    service, _ = film_service(1, 2)
    answer = await look(service, film, max_duration_s=1)
    assert answer["video"]["truncated"] is True
    assert answer["video"]["frames_searched"] == 6  # one of them exactly at the end
    assert [p["label"] for p in answer["people"]] == ["person-1", "unknown-1"]


async def test_nobody_in_the_video(tmp_path: Path) -> None:
    service, _ = film_service(1)
    answer = await look(service, write_film(tmp_path / "empty.mkv", [scene()] * 5))
    assert (answer["people"], answer["tracks"], answer["version"]) == ([], [], 1)


async def test_progress(film: Path) -> None:
    told = Told()
    service, _ = film_service()
    await look(service, film, told)
    assert told.parts == sorted(told.parts)
    assert told.parts[0] == 0
    assert told.parts[-1] == 1
    assert len(told.parts) == 16
    assert told.words[0] == "0 of 3 s searched"


async def test_a_large_frame_is_shrunk_and_its_boxes_are_not(tmp_path: Path) -> None:
    large = scene((1, 40, 30)).repeat(24, axis=0).repeat(24, axis=1)  # 3840×2160
    film = write_film(tmp_path / "large.mkv", [large] * 2)
    async with open_feed(film, fps_max=10, max_duration_s=10) as feed:
        picture = await feed.next()
        assert picture is not None
        assert (picture.scale, picture.image[:2], len(picture.image)) == (
            0.5,
            b"BM",
            1920 * 1080 * 3 + 54,
        )
    service, _ = film_service(1)
    answer = await look(service, film, min_track_s=0)
    assert answer["tracks"][0]["best_shots"][0]["bbox"] == {
        "x": 960.0,
        "y": 720.0,
        "width": 576.0,
        "height": 576.0,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps_max": 0}, "fps_max must be 0.1 to 60, got 0"),
        ({"threshold": 2}, "threshold must be -1 to 1, got 2"),
        ({"max_shots": 100}, "max_shots must be 1 to 20, got 100"),
    ],
)
def test_numbers_out_of_bounds(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        VideoSearchOptions("default", **options)


async def test_an_unknown_collection_is_told_before_the_video_is_read(tmp_path: Path) -> None:
    service, _ = film_service(1)
    with pytest.raises(CollectionNotFound):
        await look(service, tmp_path / "there is none", collection_id="nobody")


async def test_what_is_no_video(tmp_path: Path) -> None:
    service, _ = film_service(1)
    (tmp_path / "text").write_text("no video")
    with pytest.raises(InvalidVideo):
        await look(service, tmp_path / "text")


async def test_a_busy_service_is_waited_for(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "RETRY_FIRST_S", 0.0)
    service, graph = film_service(1, 2)
    graph.failures = [Overloaded("busy"), ModelUnavailable("being replaced")] * 2
    assert len((await look(service, film))["tracks"]) == 5
    graph.failures = [Overloaded("busy")] * 100
    with pytest.raises(Overloaded):
        await look(service, film)


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("video")]


async def test_an_error_ends_the_reading(film: Path) -> None:
    service, graph = film_service(1)
    graph.failures = [FacegraphError("gone")]
    with pytest.raises(FacegraphError):
        await look(service, film)
    assert await asyncio.to_thread(ended)


async def test_cancelled_it_ends_the_reading(film: Path) -> None:
    """Cancelled in the middle, with frames in work: nothing goes on."""
    service, _ = film_service(1)
    reached = asyncio.Event()

    class Halfway(Told):
        async def __call__(self, part: float, words: str) -> None:
            if part > 0.4:
                reached.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(look(service, film, Halfway()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def ended() -> bool:
    """Whether the reading thread is gone, which takes it a moment after its last work."""
    for thread in threading.enumerate():
        if thread.name.startswith("video"):
            thread.join(60)
    return not reading()
