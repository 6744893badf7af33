"""smartav_api's face endpoints, over the collection ``default``.

Policies: enrolling an id that exists appends a sample; a probe face nobody matches is enrolled
as ``unknown_person_N`` and returned as such; ``min_distance`` is a similarity that a match must
exceed, by default the face pack's calibrated threshold. Samples take the largest face.

An old id may be any text. One that is no id of ours is kept as ``b64.`` and its base64url form,
so nothing is refused and nothing collides.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from facegraph.api.endpoint import ID_PATTERN
from facegraph.api.parsing import parse_json, read_body, resolve_image
from facegraph.api.state import State
from facegraph.errors import (
    FacegraphError,
    ImageTooLarge,
    InvalidRequest,
    SubjectExists,
    SubjectNotFound,
    Unprocessable,
)
from facegraph.service import Embedded
from facegraph.types import Match, NewSample

log = logging.getLogger(__name__)

COLLECTION = "default"
_INVALID = {"error": "Invalid request."}
_SAMPLE_KEYS = frozenset({"id", "name", "image", "metadata", "action"})
_SAMPLES_AT_ONCE = 8


async def config_database(request: Request) -> Response:
    """Moves every replica to another database, or none; from this machine only."""
    if not _from_loopback(request):
        return HTMLResponse("Database configuration is only allowed from this machine.", 403)
    body = await _json(request)
    given = body if isinstance(body, dict) else {}
    for key in ("host", "db_name", "username", "password"):
        if key not in given:
            return HTMLResponse(f'"{key}" is missing.', 400)
    try:
        await _state(request).service.store.move_to(_database_url(given))
    except FacegraphError as error:
        return HTMLResponse(f"Database configuration is failed. {error}", 500)
    return HTMLResponse("Database configuration is done.")


async def clear_samples(request: Request) -> Response:
    try:
        await _state(request).service.store.clear_collection(COLLECTION)
    except FacegraphError as error:
        return JSONResponse({"fail": str(error)}, 500)
    return JSONResponse({"success": "Samples have been removed successfully"})


async def update_samples(request: Request) -> Response:
    items = await _json(request)
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and item.keys() >= _SAMPLE_KEYS for item in items
    ):
        return JSONResponse(_INVALID, 400)
    state = _state(request)
    gate = asyncio.Semaphore(_SAMPLES_AT_ONCE)
    prepared = await asyncio.gather(*(_sample(state, item, gate) for item in items))
    outcome: dict[str, list[Any]] = {"success": [], "fail": []}
    for item, sample in zip(items, prepared, strict=True):
        done = sample is not None and await _append(state, item, sample)
        outcome["success" if done else "fail"].append(item["id"])
    return JSONResponse(outcome)


async def update_metadata(request: Request) -> Response:
    old_id = request.path_params["id"]
    body = await _json(request)
    given = body if isinstance(body, dict) else {}
    for key in ("name", "metadata"):
        if key not in given:
            return JSONResponse({"error": f'"{key}" is missing in the request.'}, 400)
    store = _state(request).service.store
    try:
        subject = await store.get_subject(COLLECTION, to_subject_id(old_id))
        metadata = {**subject.metadata, "metadata": given["metadata"]}
        changes = {"name": str(given["name"]), "metadata": metadata}
        await store.update_subject(COLLECTION, subject.id, changes)
    except (SubjectNotFound, InvalidRequest):
        return HTMLResponse(f'Could not find "{old_id}" in database.', 400)
    except FacegraphError:
        return HTMLResponse("DB connection error occurred", 500)
    return JSONResponse({"success": f'"{old_id}" has been configured successfully.'})


async def face_recognition(request: Request) -> Response:
    body = await _json(request)
    state = _state(request)
    if not isinstance(body, dict) or "image" not in body:
        return JSONResponse(_INVALID, 400)
    try:
        bar = _min_distance(body, state)
        image = await resolve_image(body["image"], state.service.tuning, state.fetch)
        embedded = await state.service.embed(image)
    except (InvalidRequest, Unprocessable, ImageTooLarge):
        return JSONResponse(_INVALID, 400)
    except FacegraphError as error:
        return JSONResponse({"error": str(error)}, 500)
    if not len(embedded.detection.faces):
        return JSONResponse({"error": "No face detected from the input image."}, 500)
    try:
        found = await _recognise(state, embedded, bar)
    except FacegraphError as error:
        return JSONResponse({"error": str(error)}, 500)
    boxes = embedded.detection.faces.boxes
    return JSONResponse([_face(box, who) for box, who in zip(boxes, found, strict=True)])


async def _recognise(state: State, embedded: Embedded, bar: float) -> list[Match]:
    """Who each face is; strangers are enrolled, one replica and one face at a time."""
    best = await _best(state, embedded, range(len(embedded.embeddings)), bar)
    strangers = [row for row, match in enumerate(best) if match is None]
    if strangers:
        async with state.service.store.exclusive(COLLECTION, "strangers"):
            for row in strangers:
                (match,) = await _best(state, embedded, [row], bar)
                best[row] = match or await _enrol_stranger(state, embedded, row)
    return [match for match in best if match is not None]


async def _best(
    state: State, embedded: Embedded, rows: Sequence[int], bar: float
) -> list[Match | None]:
    found = await state.service.identify(
        COLLECTION, embedded.embeddings[list(rows)], limit=1, include_below=True
    )
    return [
        probe.matches[0] if probe.matches and probe.matches[0].similarity > bar else None
        for probe in found.probes
    ]


async def _enrol_stranger(state: State, embedded: Embedded, row: int) -> Match:
    service = state.service
    x1, y1, x2, y2 = embedded.detection.faces.boxes[row].tolist()
    sample = NewSample(
        embedding=embedded.embeddings[row],
        bbox=(x1, y1, x2, y2),
        detection_score=float(embedded.detection.faces.detection_scores[row]),
        crop=embedded.detection.crops[row],
    )
    while True:
        name = f"unknown_person_{await service.store.next_stranger(COLLECTION)}"
        try:
            enrolled = await service.store.create_subject(
                COLLECTION, name, name=name, samples=[sample], contract=service.contract
            )
        except SubjectExists:  # somebody chose that id by hand: count on
            continue
        return Match(name, enrolled.samples[0].id, 1.0, name, {})


async def _sample(
    state: State, item: Mapping[str, Any], gate: asyncio.Semaphore
) -> NewSample | None:
    async with gate:
        try:
            image = await resolve_image(item["image"], state.service.tuning, state.fetch)
            (sample,), _ = await state.service.samples([image], "largest")
        except FacegraphError as error:
            log.info("sample %.80r not enrolled: %s", item["id"], error)
            return None
        return sample


async def _append(state: State, item: Mapping[str, Any], sample: NewSample) -> bool:
    service = state.service
    try:
        await service.store.append_samples(
            COLLECTION,
            to_subject_id(str(item["id"])),
            name=str(item["name"]),
            metadata={"metadata": item["metadata"], "action": item["action"]},
            samples=[sample],
            contract=service.contract,
        )
    except FacegraphError as error:
        log.info("sample %.80r not enrolled: %s", item["id"], error)
        return False
    return True


def to_subject_id(old_id: str) -> str:
    """Our id for an old one; InvalidRequest for one too long to keep."""
    if re.fullmatch(ID_PATTERN[1:-1], old_id) and not old_id.startswith("b64."):
        return old_id
    ours = "b64." + base64.urlsafe_b64encode(old_id.encode()).decode().rstrip("=")
    if len(ours) > 128:
        raise InvalidRequest("the id is too long")
    return ours


def to_old_id(subject_id: str) -> str:
    """The inverse of :func:`to_subject_id`."""
    if not subject_id.startswith("b64."):
        return subject_id
    text = subject_id.removeprefix("b64.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


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
        return float(str(value))
    except ValueError:
        raise InvalidRequest("min_distance must be a number") from None


def _database_url(given: Mapping[str, Any]) -> str:
    user, password, name = (
        quote(str(given[k]), safe="") for k in ("username", "password", "db_name")
    )
    host, port = quote(str(given["host"]), safe=""), given.get("port") or 5432
    return f"postgresql://{user}:{password}@/{name}?host={host}&port={quote(str(port), safe='')}"


def _from_loopback(request: Request) -> bool:
    """Whether the peer, and every client a proxy names, is this machine."""
    hops = [request.client.host if request.client else ""]
    hops += request.headers.get("x-forwarded-for", "").replace(" ", "").split(",")
    try:
        return all(ipaddress.ip_address(hop).is_loopback for hop in hops if hop)
    except ValueError:
        return False


async def _json(request: Request) -> Any:
    """The body's JSON, whatever the method and content type say; None when it is none."""
    state = _state(request)
    try:
        return await parse_json(await read_body(request, state.service.tuning.max_request_bytes))
    except FacegraphError:
        return None


def _state(request: Request) -> State:
    state: State = request.app.state.facegraph
    return state


def _alive(sentence: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return HTMLResponse(sentence)

    return answer


ROUTES = [
    Route("/face-recognition/config-database", config_database, methods=["GET", "POST"]),
    Route("/face-recognition/clear-samples", clear_samples, methods=["GET", "POST"]),
    Route("/face-recognition/update-samples", update_samples, methods=["POST"]),
    Route("/face-recognition/update-samples", _alive("Update samples is running.")),
    Route("/face-recognition/update-metadata/{id:path}", update_metadata, methods=["POST"]),
    Route("/face-recognition/update-metadata/{id:path}", _alive("Update metadata is running.")),
    Route("/face-recognition", face_recognition, methods=["POST"]),
    Route("/face-recognition", _alive("Face recognition is running.")),
]
