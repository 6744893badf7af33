"""Requests that bring a video, and answers that are sent as they are made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from facegraph.api.parsing import Parsed, read_video
from facegraph.api.state import State
from facegraph.config import IngressTuning
from facegraph.video.decoding import Body, VideosInWork
from facegraph.video.sampling import Bounds


@dataclass(frozen=True, slots=True)
class Upload:
    """A video that a request brought.

    file: open until the answer was sent
    work: makes the answer's body
    """

    file: BinaryIO
    work: VideosInWork


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that is sent as it is made.

    lasts_s: how long it may, where that is longer than a request may take
    aside: it takes no place among ``max_concurrent_requests``; it is bounded otherwise
    held: closed when it was sent or the client is gone
    """

    body: Body | AsyncGenerator[bytes]
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    lasts_s: float | None = None
    aside: bool = False
    held: ExitStack = field(default_factory=ExitStack)


class StreamedResponse(StreamingResponse):
    """Sends a body; closes it, and what is held for it, when it was sent or the client is gone."""

    def __init__(self, answer: Streamed, status: int = 200) -> None:
        super().__init__(answer.body, status, answer.headers, answer.media_type)
        self._answer = answer
        self._held = AsyncExitStack()

    def hold(self, held: AsyncExitStack) -> None:
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            with self._answer.held:
                if self._answer.lasts_s is not None:
                    scope["state"]["time_limit"].extend(self._answer.lasts_s)
                if self._answer.aside:
                    scope["state"]["place"].leave()
                try:
                    await super().__call__(scope, receive, send)
                finally:
                    await _close(self._answer.body)


async def _close(body: Body | AsyncGenerator[bytes]) -> None:
    if isinstance(body, Body):
        body.close()
    else:
        await body.aclose()


@asynccontextmanager
async def received_video(request: Request) -> AsyncIterator[tuple[Parsed, Upload]]:
    """The request's parameters and video, for :func:`read_video`; counted while it is open.

    Overloaded when ``max_video_requests`` are in work, before the body is read.
    """
    state: State = request.app.state.facegraph
    with video_in_work(request) as work:
        async with read_video(request, state.service.tuning) as (parsed, file):
            yield parsed, Upload(file, work)


@contextmanager
def video_in_work(request: Request) -> Iterator[VideosInWork]:
    """Counts a request with a video, and gives it the time that videos take; Overloaded."""
    app = request.app.state
    if not hasattr(app, "videos"):  # the app's, from the first video on
        app.videos = VideosInWork()
    work: VideosInWork = app.videos
    tuning = app.facegraph.service.tuning
    with work.admit(tuning.max_video_requests):
        request.state.time_limit.extend(tuning.video_timeout_s)
        yield work


def bounds_of(tuning: IngressTuning) -> Bounds:
    return Bounds(tuning.max_video_frames, tuning.max_video_duration_s, tuning.max_video_pixels)
