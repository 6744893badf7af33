"""``POST /`` of face's later client: a picture or a video, whichever it is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from facegraph.api.compat.answering import answering, service_of
from facegraph.api.compat.face.analysis import analysis_of, picture_of
from facegraph.api.compat.face.frames import extract_frames, frames_of
from facegraph.api.compat.face.pickles import Message, read
from facegraph.api.parsing import media_type_of, read_body, read_form
from facegraph.api.streaming import video_in_work
from facegraph.errors import InvalidImage
from facegraph.images import format_of


@answering
async def either(request: Request) -> Response:
    """A form with ``video`` or ``image``, a raw ``video/*`` body, or a pickle in the body.

    Whole bodies are as large as any request's; a larger video goes to ``/extract-frames``.
    """
    media_type = media_type_of(request)
    if media_type.startswith("video/"):
        return await extract_frames(request)
    if media_type == "multipart/form-data":
        return await _form(request)
    service = service_of(request)
    body = await read_body(request, service.tuning.max_request_bytes)
    message, is_picture = await service.pixels.run(_look, body)
    if is_picture:
        return await analysis_of(request, message.data)
    async with AsyncExitStack() as held:
        return await _frames(request, held, io.BytesIO(message.data), message.params)


async def _form(request: Request) -> Response:
    tuning = service_of(request).tuning
    async with AsyncExitStack() as held:
        form = await held.enter_async_context(
            read_form(request, tuning, max_field_bytes=tuning.max_request_bytes)
        )
        video = form.get("video")
        if isinstance(video, UploadFile):
            return await _frames(request, held, video.file, form)
        return await analysis_of(request, await picture_of(request, form.get("image")))


async def _frames(
    request: Request, held: AsyncExitStack, file: BinaryIO, said: Mapping[str, Any]
) -> Response:
    work = held.enter_context(video_in_work(request))
    response = await frames_of(request, work, file, said)
    response.hold(held.pop_all())
    return response


def _look(body: bytes) -> tuple[Message, bool]:
    """The pickle, and whether it holds a picture."""
    message = read(body)
    try:
        format_of(message.data)
    except InvalidImage:
        return message, False
    return message, True
