"""The jobs about videos: kinds, parameters, handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facegraph.jobs import Handler, Work
from facegraph.service import Service
from facegraph.video.searching import VideoSearchOptions, search_video

VIDEO_SEARCH = "video_search"


def handlers(service: Service) -> dict[str, Handler]:
    """Every kind of job with what does it."""

    async def search(work: Work) -> Mapping[str, Any]:
        options = VideoSearchOptions(**work.job.params)
        return await search_video(service, work.input, options, work.progress)

    return {VIDEO_SEARCH: search}
