"""Requests that bring pictures to train with: a form of very many, an archive, or JSON."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from facegraph.api import messagepack
from facegraph.api.archives import MEDIA_TYPES, spool
from facegraph.api.endpoint import Endpoint, Params
from facegraph.api.parsing import Parsed, media_type_of, parse
from facegraph.api.state import State
from facegraph.api.streaming import video_in_work
from facegraph.api.training_forms import (
    ARCHIVE,
    IMAGES,
    SentPicture,
    TrainingUpload,
    picture_of,
    read_training_form,
)
from facegraph.config import IngressTuning
from facegraph.errors import ImageTooLarge, InvalidRequest

LABELS = "labels"
_LARGE = 256 * 1024

P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class TrainingEndpoint(Endpoint[P]):
    """A route whose request may bring very many pictures: ``call.training``."""

    async def __call__(self, request: Request) -> Response:
        state: State = request.app.state.facegraph
        async with received_training(request) as (parsed, training):
            return await self._answer(request, state, parsed, training=training)


@asynccontextmanager
async def received_training(request: Request) -> AsyncIterator[tuple[Parsed, TrainingUpload]]:
    """The request's parameters, and its pictures, until the block is left.

    A form and an archive are counted, and given their time, as a video is, and may have
    ``max_bulk_bytes``; JSON and MessagePack, which lie in memory, ``max_request_bytes``.
    Raises InvalidRequest, ImageTooLarge, UnsupportedMediaType, Overloaded.
    """
    state: State = request.app.state.facegraph
    tuning = state.service.tuning
    media_type = media_type_of(request)
    if media_type not in (*MEDIA_TYPES, "multipart/form-data"):
        parsed = await _members(request, state)
        images = parsed.images.pop(IMAGES, [])
        yield parsed, TrainingUpload(tuple(SentPicture(None, data) for data in images))
        return
    parsed = Parsed()
    for name, value in request.query_params.multi_items():
        parsed.add_param(name, value)
    with video_in_work(request), tempfile.SpooledTemporaryFile(max_size=_LARGE) as spooled:
        file = cast(BinaryIO, spooled)
        if media_type != "multipart/form-data":
            await spool(request, file, tuning.max_bulk_bytes)
            yield parsed, TrainingUpload(archive=file)
        else:
            async with read_training_form(request, tuning, file) as form:
                yield parsed, _sort(form, parsed, tuning)


async def _members(request: Request, state: State) -> Parsed:
    """Of JSON or MessagePack, with ``max_training_pictures`` instead of ``max_images``.

    What is fetched for it may have ``max_request_bytes`` together, too.
    """
    tuning = state.service.tuning
    left = tuning.max_request_bytes

    async def fetch(url: str, most: int) -> bytes:
        nonlocal left
        data = await state.fetch(url, most)
        left -= len(data)
        if left < 0:
            raise ImageTooLarge(f"all images may have {tuning.max_request_bytes} bytes")
        return data

    many = tuning.model_copy(update={"max_images": tuning.max_training_pictures})
    parsed = await parse(request, many, fetch)
    if unexpected := parsed.images.keys() - {IMAGES}:
        raise InvalidRequest(f"unexpected {', '.join(sorted(unexpected))}; expected {IMAGES}")
    return parsed


def _sort(form: FormData, parsed: Parsed, tuning: IngressTuning) -> TrainingUpload:
    """The form's files; its fields become parameters, ``labels`` a list where they are several."""
    pictures: list[SentPicture] = []
    archive: BinaryIO | None = None
    labels: list[str] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name in (IMAGES, ARCHIVE)):
            raise InvalidRequest(
                f"{name!r}: the files are {IMAGES!r} or one {ARCHIVE!r}, and nothing else is a file"
            )
        if isinstance(value, UploadFile):
            if name == IMAGES:
                pictures.append(picture_of(value, tuning))
            else:
                archive = value.file
        elif name == LABELS:
            labels.append(value)
        else:
            parsed.add_param(name, value)
    if labels:
        parsed.add_param(LABELS, labels if len(labels) > 1 else labels[0])
    return TrainingUpload(tuple(pictures), archive)


def training_body(params: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """The request body in OpenAPI; ``params``: the parameters' schema, ``image``: of JSON's."""
    file = {"type": "string", "format": "binary"}
    members = params.get("properties", {})
    form = {IMAGES: {"type": "array", "items": file}, ARCHIVE: file, **members}
    json = {
        "type": "object",
        "additionalProperties": False,
        "properties": {IMAGES: {"type": "array", "items": image}, **members},
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": form}},
            **{media_type: {"schema": file} for media_type in MEDIA_TYPES},
            messagepack.JSON: {"schema": json},
            messagepack.MEDIA_TYPE: {"schema": json},
        },
    }
