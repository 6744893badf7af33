"""The jobs about videos: kinds, parameters, handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from facegraph.config import IngressTuning
from facegraph.jobs import Handler, Work
from facegraph.service import Service
from facegraph.video.searching import VideoSearchOptions, search_video

VIDEO_SEARCH = "video_search"

DECIDED_BY = ("threshold", "margin", "max_faces")
"""What of the ingress' tuning a search is decided by. Workers know only its defaults, so a job
brings what was in force when it was made."""


def tuning_of(tuning: IngressTuning) -> dict[str, Any]:
    """What a job brings of it, as ``tuning`` among its parameters."""
    return tuning.model_dump(include=set(DECIDED_BY))


def handlers(service: Service) -> dict[str, Handler]:
    """Every kind of job with what does it."""

    async def search(work: Work) -> Mapping[str, Any]:
        params = dict(work.job.params)
        tuning = service.tuning.model_copy(update=params.pop("tuning"))
        options = VideoSearchOptions(**params)
        return await search_video(
            replace(service, tuning=tuning), work.input, options, work.progress
        )

    return {VIDEO_SEARCH: search}
