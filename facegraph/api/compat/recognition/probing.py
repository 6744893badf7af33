"""``face-recognition``: who each face of a picture is."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.compat.recognition.policy import Policy
from facegraph.api.compat.recognition.strangers import enrol_strangers, look_up
from facegraph.api.compat.wire import INVALID, json_of, state_of
from facegraph.api.parsing import resolve_image
from facegraph.api.state import State
from facegraph.errors import FacegraphError, ImageTooLarge, InvalidRequest, Unprocessable
from facegraph.ids import to_old_id
from facegraph.service import Embedded
from facegraph.types import Match

log = logging.getLogger(__name__)


async def face_recognition(policy: Policy, request: Request) -> Response:
    body = await json_of(request)
    state = state_of(request)
    if not isinstance(body, dict) or "image" not in body:
        return JSONResponse(INVALID, 400)
    try:
        bar = _min_distance(body, state)
        image = await resolve_image(body["image"], state.service.tuning, state.fetch)
        embedded = await state.service.embed(image)
    except (InvalidRequest, Unprocessable, ImageTooLarge) as error:
        log.info("a probe cannot be read: %s", error)
        return JSONResponse(INVALID, 400)
    except FacegraphError as error:
        return _failed(str(error))
    return await _answer(policy, state, embedded, bar)


async def _answer(policy: Policy, state: State, embedded: Embedded, bar: float) -> Response:
    """Who each face is; strangers are enrolled or left out."""
    if not len(embedded.embeddings):
        return _failed(policy.no_face)
    try:
        looked = await look_up(state, embedded.embeddings, bar)
        if looked.nobody and policy.empty_gallery is not None:
            return _failed(policy.empty_gallery)
        found = looked.best
        if policy.strangers == "enrol":
            found = await enrol_strangers(state, embedded, found, bar)
    except FacegraphError as error:
        return _failed(str(error))
    faces = zip(embedded.detection.faces.boxes, found, strict=True)
    return JSONResponse([_face(box, who) for box, who in faces if who is not None])


def _failed(text: str) -> Response:
    return JSONResponse({"error": text}, 500)


def _face(box: Any, who: Match) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    metadata = who.metadata.get("metadata", json.dumps(dict(who.metadata)) if who.metadata else "")
    return {
        "bbox": f"{x1}, {y1}, {x2 - x1}, {y2 - y1}",
        "id": to_old_id(who.subject_id),
        "metadata": metadata,
        "name": who.name or "",
    }


def _min_distance(body: Mapping[str, Any], state: State) -> float:
    value = body.get("min_distance")
    if value in (None, ""):
        return state.service.threshold(None, None)
    try:
        bar = float(str(value))
    except ValueError:
        bar = math.nan
    if not math.isfinite(bar):
        raise InvalidRequest("min_distance must be a number")
    return bar
