"""modelbuilder's wire format: recognizers built of pictures whose names say who is on them.

A model is downloaded, and asked, by way of v1 with the id that the build was given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.builds import BuildParams, Pictures, accept
from facegraph.api.compat.answering import service_of
from facegraph.api.endpoint import validate
from facegraph.api.parsing import media_type_of
from facegraph.api.problems import headers
from facegraph.api.training import received_training
from facegraph.errors import FacegraphError, InvalidRequest, RecognizerNotFound
from facegraph.store import Recognizer, Store

log = logging.getLogger(__name__)

ACCEPTED, REFUSED = 0, 1

FIELDS = ("optimize", "callback_url", "callback_secret")
"""What is read beside the pictures; other fields are ignored."""


async def is_alive(_: Request) -> Response:
    return JSONResponse({"alive": 1})


async def build_recognizer(request: Request) -> Response:
    """Old clients look at ``status`` only, so what is wrong with their input is answered 200."""
    try:
        return JSONResponse(await _build(request))
    except FacegraphError as error:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, error)
        request.state.code = error.code
        body = {"status": REFUSED, "id": "", "message": error.detail}
        status = error.status if error.status >= 500 else 200
        return JSONResponse(body, status, headers(error))


async def _build(request: Request) -> Mapping[str, Any]:
    if media_type_of(request) != "multipart/form-data":
        raise InvalidRequest("send multipart/form-data with files 'images'")
    async with received_training(request) as (parsed, sent):
        if sent.archive is not None or not sent.pictures:
            raise InvalidRequest(
                "send files 'images', named for who is on them: ada/1.jpg, ada_1.jpg"
            )
        said = {name: parsed.params[name] for name in FIELDS if parsed.params.get(name)}
        asked = validate(BuildParams, said)
        accepted = await accept(service_of(request), asked, Pictures(sent.pictures))
    answer = {"status": ACCEPTED, "id": accepted.recognizer.id}
    if accepted.callback_secret is not None:
        answer["callback_secret"] = accepted.callback_secret
    return answer


async def is_available(request: Request) -> Response:
    """Of the build with that id, or of the newest."""
    found = await _asked_for(service_of(request).store, request.query_params.get("id"))
    return JSONResponse({"available": int(found is not None and found.state == "ready")})


async def _asked_for(store: Store, recognizer_id: str | None) -> Recognizer | None:
    if not recognizer_id:
        return await store.recognizers.newest()
    try:
        return await store.recognizers.get(recognizer_id)
    except (InvalidRequest, RecognizerNotFound):
        return None


ROUTES = [
    Route("/is_alive", is_alive, methods=["GET"]),
    Route("/build_recognizer", build_recognizer, methods=["POST"]),
    Route("/is_available", is_available, methods=["GET"]),
]
