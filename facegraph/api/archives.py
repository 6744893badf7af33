"""Requests that bring an archive or a table of pictures, or name one on the server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from facegraph.api import messagepack
from facegraph.api.endpoint import Endpoint, Params
from facegraph.api.parsing import (
    Parsed,
    media_type_of,
    parse,
    read_form,
    require_announced_size,
)
from facegraph.api.state import State
from facegraph.api.streaming import Upload, video_in_work
from facegraph.errors import ImageTooLarge, InvalidRequest

ARCHIVE = "archive"
MEDIA_TYPES = ("application/zip", "application/vnd.apache.parquet", "text/csv")
PIECE_BYTES = 4 * 2**20
_LARGE = 256 * 1024

P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class ArchiveEndpoint(Endpoint[P]):
    """A route whose request may bring one file; ``call.upload`` is None where it brings none."""

    async def __call__(self, request: Request) -> Response:
        state: State = request.app.state.facegraph
        async with received_archive(request) as (parsed, upload):
            return await self._answer(request, state, parsed, upload)


@asynccontextmanager
async def received_archive(request: Request) -> AsyncIterator[tuple[Parsed, Upload | None]]:
    """The request's parameters, and its file: multipart ``archive``, or the raw body.

    The file lies on disk, where it is large, until the block is left; it is counted, and given
    its time, as a video is. A JSON body brings none.
    Raises InvalidRequest, ImageTooLarge past ``max_bulk_bytes``, UnsupportedMediaType, Overloaded.
    """
    state: State = request.app.state.facegraph
    tuning = state.service.tuning
    media_type = media_type_of(request)
    if media_type not in (*MEDIA_TYPES, "multipart/form-data"):
        yield await parse(request, tuning, state.fetch), None
        return
    parsed = Parsed()
    for name, value in request.query_params.multi_items():
        parsed.add_param(name, value)
    with video_in_work(request) as work:
        if media_type == "multipart/form-data":
            async with read_form(request, tuning, tuning.max_bulk_bytes) as form:
                file = _archive_of(form, parsed)
                yield parsed, None if file is None else Upload(file, work)
        else:
            with tempfile.SpooledTemporaryFile(max_size=_LARGE) as spooled:
                await spool(request, cast(BinaryIO, spooled), tuning.max_bulk_bytes)
                yield parsed, Upload(cast(BinaryIO, spooled), work)


def _archive_of(form: FormData, parsed: Parsed) -> BinaryIO | None:
    files: list[BinaryIO] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == ARCHIVE):
            raise InvalidRequest(f"the one file is called {ARCHIVE!r}, and nothing else is a file")
        if isinstance(value, UploadFile):
            files.append(value.file)
        else:
            parsed.add_param(name, value)
    if len(files) > 1:
        raise InvalidRequest(f"one file {ARCHIVE!r} is taken, not {len(files)}")
    return files[0] if files else None


async def spool(request: Request, file: BinaryIO, limit: int) -> None:
    """Writes the body into ``file``; ImageTooLarge past ``limit`` bytes."""
    require_announced_size(request, limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise ImageTooLarge(f"an archive may have {limit} bytes")
        await asyncio.to_thread(file.write, chunk)
    file.seek(0)


async def pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    """An upload as the input of a job."""
    await asyncio.to_thread(file.seek, 0)
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


def archive_body(params: Mapping[str, Any]) -> dict[str, Any]:
    """The request body in OpenAPI; ``params``: the parameters' schema."""
    file = {"type": "string", "format": "binary"}
    members = params.get("properties", {})
    form = {"type": "object", "properties": {ARCHIVE: file, **members}}
    json = {"type": "object", "additionalProperties": False, "properties": members}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            **{media_type: {"schema": file} for media_type in MEDIA_TYPES},
            "application/json": {"schema": json},
            messagepack.MEDIA_TYPE: {"schema": json},
        },
    }
