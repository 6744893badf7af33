"""Who is seen in a video, from when to when: the faces of a video against a collection.

Frames are sampled, their faces found and embedded by the graph, a few frames at a time; tracks
join them; a collection is asked once, about each track's best shots. docs/video.md tells how it
decides and what it costs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from facegraph import tasks
from facegraph.errors import InvalidRequest
from facegraph.patience import patiently
from facegraph.service import Embedded, Service
from facegraph.video.deciding import decide_tracks
from facegraph.video.feeding import Feed, Picture, open_feed
from facegraph.video.reading import Source
from facegraph.video.shots import sightings
from facegraph.video.timeline import label, people, track_answer
from facegraph.video.tracks import Sighting, Tracker

T = TypeVar("T")

Progress = Callable[[float, str], Awaitable[None]]
"""Called with the part that is done, 0..1, and a few words, about once a second."""

FRAMES_IN_WORK = 4
"""Frames that the detector and the embedder have at a time, so that all replicas are used."""

RETRIES = 6
RETRY_FIRST_S = 0.5
"""A frame that meets a busy service comes again after this, then after twice as long, …"""

DECIDING = 0.98
"""The part that is done when every frame was searched."""

LIMITS: dict[str, tuple[float, float]] = {
    "threshold": (-1, 1),
    "fps_max": (0.1, 60),
    "max_shots": (1, 20),
    "min_track_s": (0, 60),
    "gap_s": (0, 60),
    "limit": (1, 10),
    "max_faces": (1, 100),
    "max_tracks": (1, 5000),
    "max_duration_s": (1, 12 * 3600),
}
"""Smallest and largest value of each number among the options."""


@dataclass(frozen=True, slots=True)
class VideoSearchOptions:
    """How a video is searched. Raises InvalidRequest for a number out of its LIMITS.

    threshold: None is the collection's, the operator's or the pack's
    fps_max: most frames searched per second of video
    max_shots: most pictures of a track that are compared with the collection
    min_track_s: who is seen for less is left out
    gap_s: a face that is away for longer begins another track; appearances of one person
        that lie closer are one
    limit: most subjects answered per track
    max_faces: the largest faces of a frame
    max_tracks: of more, those with the fewest faces are left out
    max_duration_s: what comes later in the video is not searched
    """

    collection_id: str
    threshold: float | None = None
    fps_max: float = 5.0
    max_shots: int = 5
    min_track_s: float = 0.4
    gap_s: float = 1.0
    limit: int = 1
    max_faces: int = 20
    max_tracks: int = 1000
    max_duration_s: float = 4 * 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            least, most = LIMITS.get(field.name, (0, 0))
            value = getattr(self, field.name)
            if field.name in LIMITS and value is not None and not least <= value <= most:
                raise InvalidRequest(f"{field.name} must be {least:g} to {most:g}, got {value:g}")


async def search_video(
    service: Service, source: Path | Source, options: VideoSearchOptions, progress: Progress
) -> dict[str, Any]:
    """The timeline of a video file as JSON; see docs/video.md.

    Raises InvalidVideo, CollectionNotFound and what the graph raises. Cancelled, it ends within
    a frame's time, and nothing of it goes on.
    """
    decide = partial(
        decide_tracks,
        service,
        options.collection_id,
        threshold=options.threshold,
        limit=options.limit,
    )
    await decide([])  # no collection: better now than after the whole video
    async with open_feed(
        source, fps_max=options.fps_max, max_duration_s=options.max_duration_s
    ) as feed:
        period_s = 1 / min(options.fps_max, feed.info.fps)
        tracker = _tracker(service, options, period_s)
        searched, duration_s = await _follow(service, feed, tracker, options, progress)
    tracks = tracker.finish()
    decided = await decide(tracks)
    seen = label(
        tracks,
        decided.verdicts,
        threshold=service.pack.threshold,
        period_s=period_s,
        duration_s=duration_s,
    )
    await progress(1.0, "done")
    return {
        "video": {
            "width": feed.info.width,
            "height": feed.info.height,
            "fps": feed.info.fps,
            "duration_s": round(duration_s, 3),
            "frames_read": feed.frames_read,
            "frames_searched": searched,
            "truncated": feed.truncated,
        },
        "collection": options.collection_id,
        "version": decided.version,
        "threshold": decided.threshold,
        "people": people(seen, options.gap_s),
        "tracks": [track_answer(one) for one in seen],
        "tracks_left_out": tracker.left_out,
        "model": service.pack.name,
    }


async def _follow(
    service: Service,
    feed: Feed,
    tracker: Tracker,
    options: VideoSearchOptions,
    progress: Progress,
) -> tuple[int, float]:
    """Sends every sampled frame through ``tracker``; how many there were, and the duration."""
    pace = _Pace(progress, feed.info.duration_s, options.max_duration_s)
    searched, duration_s = 0, feed.info.duration_s or 0.0
    async with aclosing(_in_order(service, feed, options.max_faces)) as frames:
        async for picture, faces in frames:
            tracker.see(picture.time_s, faces, cut=picture.cut)
            searched += 1
            duration_s = max(duration_s, picture.time_s)
            await pace.tell(picture.time_s)
    return searched, duration_s


async def _in_order(
    service: Service, feed: Feed, max_faces: int
) -> AsyncGenerator[tuple[Picture, list[Sighting]]]:
    """Every sampled frame with its faces, while the next ones are in work already."""
    working: deque[tuple[Picture, asyncio.Task[list[Sighting]]]] = deque()
    try:
        picture = await feed.next()
        while picture is not None or working:
            if picture is not None and len(working) < FRAMES_IN_WORK:
                task = asyncio.create_task(_sightings(service, picture, max_faces))
                working.append((picture, task))
                picture = await feed.next()
            else:
                done, faces = working[0]
                yield done, await faces
                working.popleft()
    finally:
        await tasks.end(*(task for _, task in working))


async def _sightings(service: Service, picture: Picture, max_faces: int) -> list[Sighting]:
    async def look() -> Embedded:
        return await service.embed(picture.image, max_faces, attributes=True)

    found = await patiently(look, retries=RETRIES, first_s=RETRY_FIRST_S)
    return sightings(picture.time_s, found.detection, found.embeddings, picture.scale)


def _tracker(service: Service, options: VideoSearchOptions, period_s: float) -> Tracker:
    return Tracker(
        threshold=service.pack.threshold,
        gap_s=options.gap_s,
        min_track_s=options.min_track_s,
        period_s=period_s,
        most_tracks=options.max_tracks,
        most_shots=options.max_shots,
    )


class _Pace:
    """Tells the progress, once a second or for each hundredth."""

    def __init__(self, progress: Progress, duration_s: float | None, most_s: float) -> None:
        self._progress = progress
        self._whole_s = min(duration_s, most_s) if duration_s else None
        self._told = 0.0
        self._told_at = float("-inf")

    async def tell(self, time_s: float) -> None:
        now = time.monotonic()
        part = DECIDING * min(1.0, time_s / self._whole_s) if self._whole_s else 0.0
        if part - self._told < 0.01 and now - self._told_at < 1:
            return
        self._told, self._told_at = part, now
        whole = f" of {self._whole_s:.0f} s" if self._whole_s else " s"
        await self._progress(part, f"{time_s:.0f}{whole} searched")
