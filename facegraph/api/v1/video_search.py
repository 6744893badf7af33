"""Who is seen in a video, from when to when: a job."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, BinaryIO

from pydantic import Field

from facegraph.api.archives import pieces
from facegraph.api.endpoint import Call, Params, Reply, endpoint
from facegraph.api.fields import Id, Threshold
from facegraph.api.v1.jobs import JobAnswer, accepted
from facegraph.errors import CollectionNotFound, ImageTooLarge, InvalidVideo, Overloaded
from facegraph.video.job import VIDEO_SEARCH, tuning_of
from facegraph.video.reading import open_video
from facegraph.video.searching import LIMITS, VideoSearchOptions

DEFAULT = VideoSearchOptions("default")


def _bounded(name: str, description: str) -> Any:
    least, most = LIMITS[name]
    return Field(ge=least, le=most, description=description)


class VideoSearchParams(Params):
    collection: Id = DEFAULT.collection_id
    threshold: Threshold | None = None
    fps_max: Annotated[float, _bounded("fps_max", "Most frames searched a second.")] = (
        DEFAULT.fps_max
    )
    max_faces: Annotated[int, _bounded("max_faces", "Largest faces of a frame.")] = (
        DEFAULT.max_faces
    )
    max_shots: Annotated[int, _bounded("max_shots", "Best pictures of a track, compared.")] = (
        DEFAULT.max_shots
    )
    min_track_s: Annotated[float, _bounded("min_track_s", "Who is seen for less is left out.")] = (
        DEFAULT.min_track_s
    )
    gap_s: Annotated[float, _bounded("gap_s", "A face away for longer begins a new track.")] = (
        DEFAULT.gap_s
    )
    limit: Annotated[int, _bounded("limit", "Most subjects answered per track.")] = DEFAULT.limit
    max_duration_s: Annotated[
        float, _bounded("max_duration_s", "What comes later is not searched.")
    ] = DEFAULT.max_duration_s


@endpoint(
    "POST",
    "/v1/videos/search",
    answer=JobAnswer,
    params=VideoSearchParams,
    video=True,
    status=202,
    errors=(ImageTooLarge, InvalidVideo, CollectionNotFound, Overloaded),
)
async def search(call: Call[VideoSearchParams]) -> Reply:
    """Find who of a collection is seen in a video, from when to when; 202 and a job.

    Faces are followed through the video and decided once per track, from its best pictures.
    The job's result is the timeline: `people` with their appearances, and `tracks` with their
    decisions and matches. Strangers are numbered, `unknown-1` and so on, and never enrolled.
    """
    service, file = call.service, call.video.file
    await service.store.head(call.params.collection)  # no collection, no job
    await asyncio.to_thread(_require_video, file, service.tuning.max_video_pixels)
    longest = min(call.params.max_duration_s, service.tuning.max_video_duration_s)
    params = call.params.model_dump(exclude={"collection"}) | {
        "collection_id": call.params.collection,
        "max_duration_s": longest,
        "tuning": tuning_of(service.tuning),
    }
    job = await service.store.jobs.create(
        VIDEO_SEARCH, params, parts=partial(pieces, file), max_open=service.tuning.max_jobs
    )
    return accepted(job)


def _require_video(file: BinaryIO, max_pixels: int) -> None:
    """Raises InvalidVideo now, and not in the job."""
    file.seek(0)
    with open_video(file, max_pixels=max_pixels):
        pass


ENDPOINTS = (search,)
