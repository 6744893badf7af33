"""``extract_feature``, both systems' feature node: the embedding of each picture's largest face.

The pictures are told apart by their order alone, so a request that leaves any doubt about which
belongs to which id is refused whole.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.compat.wire import ascii_json, state_of
from facegraph.api.parsing import parse_json, read_form
from facegraph.config import IngressTuning
from facegraph.errors import FacegraphError, ImageTooLarge, InvalidRequest
from facegraph.ids import as_old_id
from facegraph.service import Service

log = logging.getLogger(__name__)

_AT_ONCE = 8


async def extract_feature(request: Request) -> Response:
    service = state_of(request).service
    try:
        async with read_form(request, service.tuning) as form:
            ids = await _ids(form)
            images = _images(form, len(ids), service.tuning)
            slots = asyncio.Semaphore(_AT_ONCE)
            outcomes = await asyncio.gather(*(_vector(service, i, slots) for i in images))
    except (InvalidRequest, ImageTooLarge) as error:
        return JSONResponse({"error": str(error)}, 400)
    return _answer(ids, outcomes)


def _answer(ids: list[Any], outcomes: list[list[float] | FacegraphError]) -> Response:
    """An item that fails has no numbers; a failing part of the service fails the request."""
    answer = []
    for given, outcome in zip(ids, outcomes, strict=True):
        if isinstance(outcome, FacegraphError):
            if outcome.status >= 500:
                return JSONResponse({"error": str(outcome)}, 500)
            log.info("no feature of %.80r: %s", given, outcome)
        answer.append({"id": given, "vector": outcome if isinstance(outcome, list) else []})
    return ascii_json(answer)


async def _ids(form: FormData) -> list[Any]:
    """The ids of ``face_data``, as they were sent; InvalidRequest."""
    given = form.getlist("face_data")
    if len(given) != 1 or not isinstance(given[0], str):
        raise InvalidRequest('expected one form field "face_data"')
    try:
        items = await parse_json(given[0].encode())
    except InvalidRequest:
        raise InvalidRequest('"face_data" is not JSON') from None
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and "id" in item for item in items
    ):
        raise InvalidRequest('"face_data" must be a JSON list of {"id": …}')
    for item in items:
        as_old_id(item["id"])
    return [item["id"] for item in items]


def _images(form: FormData, expected: int, tuning: IngressTuning) -> list[UploadFile]:
    """The files ``image``, one for each id; InvalidRequest."""
    given = form.getlist("image")
    images = [image for image in given if isinstance(image, UploadFile)]
    if len(images) != len(given):
        raise InvalidRequest('every "image" must be a file')
    if len(images) > tuning.max_images:
        raise InvalidRequest(f"more than {tuning.max_images} images in one request")
    if len(images) != expected:
        raise InvalidRequest(f'"face_data" names {expected} images, got {len(images)}')
    return images


async def _vector(
    service: Service, image: UploadFile, slots: asyncio.Semaphore
) -> list[float] | FacegraphError:
    """The pack's embedding of the largest face, or why there is none."""
    limit = service.tuning.max_image_bytes
    if (image.size or 0) > limit:
        return ImageTooLarge(f"an image may have {limit} bytes")
    async with slots:
        try:
            (sample,), _ = await service.samples([await image.read()], "largest")
        except FacegraphError as error:
            return error
    numbers: list[float] = sample.embedding.tolist()
    return numbers
