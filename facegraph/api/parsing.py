"""From an HTTP request to images and parameters: the one place that reads bodies.

An image comes as a multipart file, as the raw ``image/*`` body, in MessagePack as its bytes, or in
JSON as ``{"base64": …}``, ``{"data_uri": …}``, ``{"url": …}`` or, short, a data URI. A plain
string is never taken for a path or an address. Parameters come from the query, form fields and
members of the JSON or MessagePack object; one named twice with different values is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, cast

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from facegraph.api import messagepack
from facegraph.config import IngressTuning
from facegraph.errors import ImageTooLarge, InvalidRequest, UnsupportedMediaType

IMAGE_FIELDS = ("image", "images", "source", "target")
_LARGE = 256 * 1024
"""Bodies above this are decoded off the event loop."""
MAX_JSON_VALUES = messagepack.MAX_VALUES
"""Of one JSON text, about. Python decodes with every other thread held up: more than these take
seconds and gigabytes."""
MAX_FILELESS_FORM = 2**20
"""Bytes of an urlencoded form, which is decoded in one piece; large fields come as multipart."""

MAX_FIELDS = 100
"""Of a form, beside its files."""

FetchUrl = Callable[[str, int], Awaitable[bytes]]
"""Fetches a URL, at most that many bytes; raises InvalidRequest where fetching is off."""


ReadMultipart = Callable[[Request, int], Awaitable[FormData]]
"""Reads a multipart form whose fields, files aside, have at most that many bytes each; raises
MultiPartException."""


@dataclass(slots=True)
class Parsed:
    """What a request brought: compressed images by field, everything else in ``params``."""

    params: dict[str, Any] = field(default_factory=dict)
    images: dict[str, list[bytes]] = field(default_factory=dict)

    def add_param(self, name: str, value: Any) -> None:
        if name in self.params and self.params[name] != value:
            raise InvalidRequest(
                f"parameter {name!r} is given twice, with different values; lists take commas"
            )
        self.params[name] = value


class Limits:
    """Counts a request's images against the limits in force."""

    def __init__(self, tuning: IngressTuning) -> None:
        self.tuning = tuning
        self._images = 0

    def admit(self, data: bytes) -> bytes:
        self._images += 1
        if self._images > self.tuning.max_images:
            raise InvalidRequest(f"more than {self.tuning.max_images} images in one request")
        require_image_size(len(data), self.tuning)
        return data


async def parse(request: Request, tuning: IngressTuning, fetch: FetchUrl) -> Parsed:
    """Reads the query and the body.

    Raises InvalidRequest, ImageTooLarge or UnsupportedMediaType; what the body's images hold is
    not looked at.
    """
    parsed = Parsed()
    for name, value in request.query_params.multi_items():
        parsed.add_param(name, value)
    if request.method in ("GET", "HEAD", "DELETE"):
        return parsed
    media_type = media_type_of(request)
    limits = Limits(tuning)
    if media_type == "multipart/form-data":
        await _read_form(request, parsed, limits)
    else:
        body = await read_body(request, tuning.max_request_bytes)
        await _read_body(media_type, body, parsed, limits, fetch)
    return parsed


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; ImageTooLarge past ``limit`` bytes, before more of it is held."""
    require_announced_size(request, limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        _require_body_size(size, limit)
    return b"".join(chunks)


async def _read_form(request: Request, parsed: Parsed, limits: Limits) -> None:
    async with read_form(request, limits.tuning) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                await _add_file(name, value, parsed, limits)
            elif name in IMAGE_FIELDS:
                data = limits.admit(await _from_data_uri(value))
                parsed.images.setdefault(name, []).append(data)
            else:
                parsed.add_param(name, value)


@asynccontextmanager
async def read_form(
    request: Request,
    tuning: IngressTuning,
    max_bytes: int | None = None,
    max_field_bytes: int | None = None,
    multipart: ReadMultipart | None = None,
) -> AsyncIterator[FormData]:
    """The multipart or urlencoded form; large files lie on disk while it is open, where
    ``max_bytes`` says that they may be videos.

    max_bytes: of the body, instead of ``max_request_bytes``; ImageTooLarge past it, and for an
        urlencoded form past ``MAX_FILELESS_FORM``
    max_field_bytes: of a field that is no file, instead of twice ``max_image_bytes``
    multipart: reads a multipart form, where it may have more files than ``max_images``
    InvalidRequest for what is no form, and for more than ``max_images`` files.
    """
    limit = max_bytes or tuning.max_request_bytes
    if media_type_of(request) == "application/x-www-form-urlencoded":
        limit = min(limit, MAX_FILELESS_FORM)
    require_announced_size(request, limit)
    bounded = Request(request.scope, _bounded(request, limit))
    max_field_bytes = max_field_bytes or tuning.max_image_bytes * 2
    try:
        if media_type_of(request) == "multipart/form-data":
            # Pictures stay in memory, as in every other kind of body; only videos go to the disk.
            spool = _LARGE if max_bytes else limit
            multipart = multipart or partial(_multipart, tuning.max_images + 1, spool)
            form = await multipart(bounded, max_field_bytes)
        else:
            form = await bounded.form(max_fields=MAX_FIELDS, max_part_size=max_field_bytes)
    except (HTTPException, MultiPartException) as error:
        said = error.detail if isinstance(error, HTTPException) else error.message
        raise InvalidRequest(f"the form cannot be read: {said}") from None
    try:
        yield form
    finally:
        await form.close()


async def _multipart(max_files: int, spool: int, request: Request, max_part: int) -> FormData:
    """The form; files of more than ``spool`` bytes lie on the disk."""
    async with aclosing(request.stream()) as stream:
        parser = MultiPartParser(
            request.headers,
            stream,
            max_files=max_files,
            max_fields=MAX_FIELDS,
            max_part_size=max_part,
        )
        parser.spool_max_size = spool
        return await parser.parse()


@asynccontextmanager
async def read_video(
    request: Request, tuning: IngressTuning
) -> AsyncIterator[tuple[Parsed, BinaryIO]]:
    """The parameters, and the video: multipart file ``video`` or the raw ``video/*`` body.

    The video lies on disk, where it is large, until the block is left.
    Raises InvalidRequest, ImageTooLarge past ``max_video_bytes`` or UnsupportedMediaType; what the
    video holds is not looked at.
    """
    parsed = Parsed()
    for name, value in request.query_params.multi_items():
        parsed.add_param(name, value)
    media_type = media_type_of(request)
    if media_type == "multipart/form-data":
        async with read_form(request, tuning, tuning.max_video_bytes) as form:
            yield parsed, _video_of(form, parsed)
    elif media_type.startswith("video/"):
        require_announced_size(request, tuning.max_video_bytes)
        with tempfile.SpooledTemporaryFile(max_size=_LARGE) as file:
            bounded = Request(request.scope, _bounded(request, tuning.max_video_bytes))
            async for chunk in bounded.stream():
                await asyncio.to_thread(file.write, chunk)
            file.seek(0)
            yield parsed, cast(BinaryIO, file)
    else:
        raise UnsupportedMediaType(
            f"content type {media_type or 'missing'!r}: send multipart/form-data with a file "
            "'video', or a video/* body"
        )


def media_type_of(request: Request) -> str:
    """The content type without its parameters, in lower case; empty for none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _video_of(form: FormData, parsed: Parsed) -> BinaryIO:
    videos: list[BinaryIO] = []
    for name, value in form.multi_items():
        if (name == "video") != isinstance(value, UploadFile):
            raise InvalidRequest(
                f"{name!r} must be a file" if name == "video" else f"unknown file field {name!r}"
            )
        if isinstance(value, UploadFile):
            videos.append(value.file)
        else:
            parsed.add_param(name, value)
    if len(videos) != 1:
        raise InvalidRequest(f"one file 'video' is needed, not {len(videos)}")
    return videos[0]


def _bounded(request: Request, limit: int) -> Callable[[], Awaitable[Any]]:
    seen = 0

    async def receive() -> Any:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        _require_body_size(seen, limit)
        return message

    return receive


async def _add_file(name: str, upload: UploadFile, parsed: Parsed, limits: Limits) -> None:
    if name not in IMAGE_FIELDS:
        raise InvalidRequest(f"unknown file field {name!r}; images come as {_names()}")
    require_image_size(upload.size or 0, limits.tuning)  # before it is read into memory
    parsed.images.setdefault(name, []).append(limits.admit(await upload.read()))


async def _read_body(
    media_type: str, body: bytes, parsed: Parsed, limits: Limits, fetch: FetchUrl
) -> None:
    if media_type.startswith("image/"):
        parsed.images["image"] = [limits.admit(body)]
    elif media_type == "application/json" or media_type.endswith("+json"):
        await _add_members(await parse_json(body), parsed, limits, fetch)
    elif media_type == messagepack.MEDIA_TYPE:
        members = await _beside_if_large(messagepack.unpack, body)
        await _add_members(members, parsed, limits, fetch)
        messagepack.require_plain(parsed.params)
    elif body:
        raise UnsupportedMediaType(
            f"content type {media_type or 'missing'!r}: send multipart/form-data, "
            f"an image/* body, application/json or {messagepack.MEDIA_TYPE}"
        )


async def _add_members(members: Any, parsed: Parsed, limits: Limits, fetch: FetchUrl) -> None:
    if not isinstance(members, dict):
        raise InvalidRequest("the body must be an object")
    for name, value in members.items():
        if name in IMAGE_FIELDS:
            parsed.images[name] = await _resolve_all(name, value, limits, fetch)
        else:
            parsed.add_param(name, value)


async def parse_json(body: bytes) -> Any:
    """The JSON value of a body; InvalidRequest as :func:`load_json`."""
    return await _beside_if_large(load_json, body)


async def _beside_if_large(decode: Callable[[bytes], Any], body: bytes) -> Any:
    return await asyncio.to_thread(decode, body) if len(body) > _LARGE else decode(body)


def load_json(text: bytes) -> Any:
    """The JSON value of ``text``; InvalidRequest for none, or more than ``MAX_JSON_VALUES``."""
    signs = np.frombuffer(text, np.uint8)
    if sum(np.count_nonzero(signs == sign) for sign in b"[{,") > MAX_JSON_VALUES:
        raise InvalidRequest(f"the JSON has more than {MAX_JSON_VALUES} values")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"this is not JSON: {error}") from None


async def _resolve_all(name: str, value: Any, limits: Limits, fetch: FetchUrl) -> list[bytes]:
    several = name == "images"
    if several != isinstance(value, list):
        raise InvalidRequest(f"{name!r} must be {'a list of images' if several else 'one image'}")
    if not several:
        return [limits.admit(await resolve_image(value, limits.tuning, fetch))]
    if len(value) > limits.tuning.max_images:
        raise InvalidRequest(f"more than {limits.tuning.max_images} images in one request")
    return [limits.admit(await resolve_image(item, limits.tuning, fetch)) for item in value]


async def resolve_image(value: Any, tuning: IngressTuning, fetch: FetchUrl) -> bytes:
    """The compressed bytes behind one image of a JSON or MessagePack body."""
    data = await _bytes_of(value, tuning, fetch)
    require_image_size(len(data), tuning)
    return data


async def _bytes_of(value: Any, tuning: IngressTuning, fetch: FetchUrl) -> bytes:
    if isinstance(value, bytes):
        return value  # MessagePack has bytes, JSON none
    if isinstance(value, str):
        return await _from_data_uri(value)
    if not isinstance(value, dict) or len(value) != 1:
        raise InvalidRequest('an image is a data URI or {"base64"|"data_uri"|"url": "…"}')
    ((kind, text),) = value.items()
    if not isinstance(text, str):
        raise InvalidRequest(f"image {kind!r} must be a string")
    if kind == "base64":
        return await _from_base64(text)
    if kind == "data_uri":
        return await _from_data_uri(text)
    if kind == "url":
        return await fetch(text, tuning.max_image_bytes)
    raise InvalidRequest(f'unknown image source {kind!r}; known: "base64", "data_uri", "url"')


async def _from_data_uri(text: str) -> bytes:
    head, comma, payload = text.partition(",")
    head = head.strip().lower()
    if not comma or not head.startswith("data:"):
        raise InvalidRequest("an image string must be a data URI (data:image/…;base64,…)")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise InvalidRequest("an image's data URI must be data:image/…;base64,…")
    return await _from_base64(payload)


async def _from_base64(text: str) -> bytes:
    if len(text) > _LARGE:
        return await asyncio.to_thread(_decode_base64, text)
    return _decode_base64(text)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the image is not valid base64") from None


def require_announced_size(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        _require_body_size(int(announced), limit)


def _require_body_size(size: int, limit: int) -> None:
    if size > limit:
        raise ImageTooLarge(f"a request may have {limit} bytes")


def require_image_size(size: int, tuning: IngressTuning) -> None:
    """ImageTooLarge past ``max_image_bytes``."""
    if size > tuning.max_image_bytes:
        raise ImageTooLarge(f"an image may have {tuning.max_image_bytes} bytes")


def _names() -> str:
    return ", ".join(repr(name) for name in IMAGE_FIELDS)
