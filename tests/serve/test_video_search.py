"""A video search as a client meets it: upload, job, timeline; also when its worker is killed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from facegraph.types import ByteArray
from tests import photos
from tests.serve.copies import Copy, wait_until
from tests.video_making import clip

pytestmark = pytest.mark.serve

FPS = 5


def still(path: Any) -> ByteArray:
    """The photo in the middle of a grey 640×480 frame."""
    frame = np.full((480, 640, 3), 96, np.uint8)
    photo = photos.resized(photos.pixels(path), (400, 400))
    frame[40:440, 120:520] = photo
    return frame


def film(seconds_each: int) -> bytes:
    """Eileen Collins, then Tom Hanks, as long each."""
    eileen, tom = still(photos.ASTRONAUT), still(photos.PORTRAIT)
    count = seconds_each * FPS
    pictures = [eileen] * count + [tom] * count
    return clip(len(pictures), fps=FPS, size=(640, 480), pictures=pictures)


@pytest.fixture
def collection(http: httpx.Client) -> Iterator[str]:
    http.post("/v1/collections", json={"id": "film"}).raise_for_status()
    eileen = {"id": "eileen", "name": "Eileen Collins"}
    files = {"images": photos.ASTRONAUT.read_bytes()}
    http.post("/v1/collections/film/subjects", data=eileen, files=files).raise_for_status()
    yield "film"
    http.delete("/v1/collections/film?force=true")


def search(http: httpx.Client, video: bytes) -> str:
    answer = http.post("/v1/videos/search", files={"video": video}, data={"collection": "film"})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def finished(http: httpx.Client, job: str) -> dict[str, Any]:
    wait_until(lambda: http.get(job).json()["finished_at"] is not None, "the end of the job")
    answer: dict[str, Any] = http.get(job).json()
    assert answer["state"] == "done", answer
    return answer


def names(job: dict[str, Any]) -> list[tuple[str | None, str, float, float]]:
    return [
        (person["name"], person["decision"], seen["start_s"], seen["end_s"])
        for person in job["result"]["people"]
        for seen in person["appearances"]
    ]


def test_the_timeline_names_who_is_enrolled(http: httpx.Client, collection: str) -> None:
    job = finished(http, search(http, film(4)))
    assert (job["progress"], job["attempts"]) == (1, 1)
    (eileen, tom) = sorted(names(job), key=lambda seen: seen[2])
    assert eileen[:2] == ("Eileen Collins", "match")
    assert tom[1] == "unknown"
    assert eileen[2:] == pytest.approx((0, 4), abs=0.4)
    assert tom[2:] == pytest.approx((4, 8), abs=0.4)


def test_a_killed_workers_search_is_done_by_the_next(
    http: httpx.Client, served: Copy, collection: str
) -> None:
    job = search(http, film(60))
    wait_until(lambda: http.get(job).json()["progress"] > 0.02, "some progress")
    served.kill("jobs")
    done = finished(http, job)
    assert done["attempts"] == 2
    assert names(done)[0][:2] == ("Eileen Collins", "match")


def test_frames_come_as_they_are_made(http: httpx.Client) -> None:
    """The streamed answers of v1 and of the old path, through HAProxy and Serve."""
    video = film(2)
    asked = {"fps_max": "1", "format": "zip"}
    answer = http.post("/v1/videos/frames", files={"video": video}, params=asked)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
        frames = [name for name in file.namelist() if name.startswith("frames/")]
        assert [int(name[7:-4]) for name in frames] == [0, 5, 10, 15]
        with Image.open(io.BytesIO(file.read(frames[0]))) as frame:
            assert (frame.format, frame.size) == ("JPEG", (640, 480))
    old = http.post("/extract-frames", files={"video": video}, data={"fps_max": "1"}).json()
    assert old["metadata"]["frame_idx_original"] == [0, 5, 10, 15]
    assert [frame["py/object"] for frame in old["frames"]] == ["PIL.Image.Image"] * 4
