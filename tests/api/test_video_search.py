"""`POST /v1/videos/search`: what becomes a job and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from facegraph.config import JobsTuning
from facegraph.jobs import Worker
from facegraph.service import Service
from facegraph.video.job import handlers
from tests.fake_film import film_service, scene, write_film
from tests.video_making import clip, sound_only

pytestmark = pytest.mark.api

SEARCH = "/v1/videos/search"


def sent(video: bytes, **fields: Any) -> dict[str, Any]:
    return {"files": {"video": ("v.mp4", video, "video/mp4")}, "data": fields}


@pytest.mark.parametrize("raw", [False, True])
async def test_a_video_becomes_a_job(
    client: httpx.AsyncClient, service: Service, raw: bool
) -> None:
    video = clip(10)
    asked = {"fps_max": "2", "threshold": "0.5", "max_duration_s": "60"}
    request = (
        {"content": video, "headers": {"content-type": "video/mp4"}, "params": asked}
        if raw
        else sent(video, **asked)
    )
    answer = await client.post(SEARCH, **request)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert (body["kind"], body["state"], body["progress"]) == ("video_search", "queued", 0)
    job = await service.store.jobs.take(["video_search"], "w", 60)
    assert job is not None
    assert job.id == body["id"]
    assert job.params == {
        "collection_id": "default",
        "threshold": 0.5,
        "fps_max": 2.0,
        "max_faces": 20,
        "max_shots": 5,
        "min_track_s": 0.4,
        "gap_s": 1.0,
        "limit": 1,
        "max_duration_s": 60.0,
        "tuning": {"threshold": None, "margin": 0.02, "max_faces": 100},
    }
    assert b"".join([piece async for piece in service.store.jobs.input(job)]) == video


@pytest.mark.parametrize(
    ("video", "fields", "status", "code"),
    [
        (b"no video", {}, 422, "invalid_video"),
        (sound_only(), {}, 422, "invalid_video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", {}, 422, "invalid_video"),  # a playlist
        (clip(3), {"collection": "nobody"}, 404, "collection_not_found"),
        (clip(3), {"collection": "../x"}, 400, "invalid_request"),
        (clip(3), {"fps_max": "0"}, 400, "invalid_request"),
        (clip(3), {"max_duration_s": "1e9"}, 400, "invalid_request"),
        (clip(3), {"fps": "1"}, 400, "invalid_request"),  # misspelt
    ],
)
async def test_what_cannot_be_searched_is_no_job(
    client: httpx.AsyncClient,
    service: Service,
    video: bytes,
    fields: dict[str, str],
    status: int,
    code: str,
) -> None:
    answer = await client.post(SEARCH, **sent(video, **fields))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await service.store.jobs.list()).items == ()


async def test_jobs_are_bounded(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(update={"max_jobs": 1})
    assert (await client.post(SEARCH, **sent(clip(3)))).status_code == 202
    full = await client.post(SEARCH, **sent(clip(3)))
    assert (full.status_code, full.json()["code"]) == (503, "overloaded")


async def test_the_operators_longest_duration_holds(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_video_duration_s": 5.0})
    assert (await client.post(SEARCH, **sent(clip(3)))).status_code == 202
    job = await service.store.jobs.take(["video_search"], "w", 60)
    assert job is not None
    assert job.params["max_duration_s"] == 5.0


@pytest.mark.parametrize(
    ("tuning", "decisions", "threshold"),
    [
        ({}, ["match", "match"], 0.36),
        ({"threshold": 0.9}, ["match", "match"], 0.9),
        ({"margin": 2.0}, ["ambiguous", "ambiguous"], 0.36),
        ({"max_faces": 1}, ["match"], 0.36),
    ],
)
async def test_the_operators_numbers_decide_in_the_job_too(
    client: httpx.AsyncClient,
    service: Service,
    tmp_path: Path,
    tuning: dict[str, Any],
    decisions: list[str],
    threshold: float,
) -> None:
    """The worker's own service has the defaults; what the ingress has decides."""
    service.tuning = service.tuning.model_copy(update=tuning)
    film = write_film(tmp_path / "film.mkv", [scene((1, 20, 30), (2, 100, 30))] * 10)
    made = await client.post(SEARCH, **sent(film.read_bytes()))
    assert made.status_code == 202, made.text
    workers_own, _ = film_service(1, 2)
    worker = Worker(service.store, handlers(workers_own), JobsTuning(poll_interval_s=0.01))
    worker.start()
    try:
        while (job := (await client.get(made.headers["location"])).json())["finished_at"] is None:
            pass
    finally:
        await worker.close()
    assert job["state"] == "done", job
    assert [track["decision"] for track in job["result"]["tracks"]] == decisions
    assert job["result"]["threshold"] == threshold


async def test_a_worker_does_it(
    app: Starlette, client: httpx.AsyncClient, service: Service
) -> None:
    """The fake detector takes no frame of a real video for a picture: the job tells so."""
    made = (await client.post(SEARCH, **sent(clip(10)))).json()
    worker = Worker(service.store, handlers(service), JobsTuning(poll_interval_s=0.01))
    worker.start()
    try:
        while (job := (await client.get(f"/v1/jobs/{made['id']}")).json())["finished_at"] is None:
            pass
    finally:
        await worker.close()
    assert (job["state"], job["problem"]["code"]) == ("failed", "invalid_image")
