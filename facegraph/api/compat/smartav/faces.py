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
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.compat.smartav.wire import (
    INVALID,
    alive,
    is_cross_site,
    json_of,
    sentence,
    state_of,
)
from facegraph.api.endpoint import is_id
from facegraph.api.parsing import resolve_image
from facegraph.api.state import State
from facegraph.errors import (
    FacegraphError,
    ImageTooLarge,
    InvalidRequest,
    Overloaded,
    PreconditionFailed,
    SubjectExists,
    SubjectNotFound,
    Unprocessable,
)
from facegraph.service import Embedded
from facegraph.types import Match, NewSample

log = logging.getLogger(__name__)

COLLECTION = "default"
_SAMPLE_KEYS = frozenset({"id", "name", "image", "metadata", "action"})
_SAMPLES_AT_ONCE = 8
_TRIES = 20
_SHARE_OF_TIME = 0.8
"""Of a request's time, after which no further samples are begun."""


async def config_database(request: Request) -> Response:
    """Moves every replica to another database, or none; from this machine only."""
    if is_cross_site(request) or not _from_loopback(request):
        return sentence("Database configuration is only allowed from this machine.", 403)
    body = await json_of(request)
    given = body if isinstance(body, dict) else {}
    for key in ("host", "db_name", "username", "password"):
        if key not in given:
            return sentence(f'"{key}" is missing.', 400)
    try:
        await state_of(request).service.store.move_to(_database_url(given))
    except FacegraphError as error:
        return sentence(f"Database configuration is failed. {error}", 500)
    return sentence("Database configuration is done.")


async def clear_samples(request: Request) -> Response:
    if is_cross_site(request):
        return JSONResponse({"fail": "not from another site's page"}, 403)
    try:
        await state_of(request).service.store.clear_collection(COLLECTION)
    except FacegraphError as error:
        return JSONResponse({"fail": str(error)}, 500)
    return JSONResponse({"success": "Samples have been removed successfully"})


async def update_samples(request: Request) -> Response:
    items = await json_of(request)
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and item.keys() >= _SAMPLE_KEYS for item in items
    ):
        return JSONResponse(INVALID, 400)
    state = state_of(request)
    outcome: dict[str, list[Any]] = {"success": [], "fail": []}
    end = time.monotonic() + _SHARE_OF_TIME * state.service.tuning.request_timeout_s
    for start in range(0, len(items), _SAMPLES_AT_ONCE):
        part = items[start : start + _SAMPLES_AT_ONCE]
        if time.monotonic() > end:  # what is left is told as failed, not lost with the answer
            outcome["fail"] += [item["id"] for item in items[start:]]
            break
        prepared = await asyncio.gather(*(_sample(state, item) for item in part))
        for item, sample in zip(part, prepared, strict=True):
            done = sample is not None and await _append(state, item, sample)
            outcome["success" if done else "fail"].append(item["id"])
    # ASCII: an id that is no text is told back as it was escaped.
    return Response(json.dumps(outcome), media_type="application/json")


async def update_metadata(request: Request) -> Response:
    old_id = request.path_params["id"]
    body = await json_of(request)
    given = body if isinstance(body, dict) else {}
    for key in ("name", "metadata"):
        if key not in given:
            return JSONResponse({"error": f'"{key}" is missing in the request.'}, 400)
    try:
        subject_id = to_subject_id(old_id)
        await _update_metadata(state_of(request), subject_id, given)
    except (SubjectNotFound, InvalidRequest):
        return sentence(f'Could not find "{old_id}" in database.', 400)
    except FacegraphError:
        return sentence("DB connection error occurred", 500)
    return JSONResponse({"success": f'"{old_id}" has been configured successfully.'})


async def _update_metadata(state: State, subject_id: str, given: Mapping[str, Any]) -> None:
    """Changes both and keeps what else is there, whoever else writes meanwhile."""
    store = state.service.store
    for attempt in range(_TRIES):
        subject = await store.get_subject(COLLECTION, subject_id)
        metadata = {**subject.metadata, "metadata": given["metadata"]}
        changes = {"name": _text(given["name"]), "metadata": metadata}
        try:
            await store.update_subject(
                COLLECTION, subject.id, changes, if_revision=subject.revision
            )
        except PreconditionFailed:
            if attempt == _TRIES - 1:
                raise
        else:
            return


async def face_recognition(request: Request) -> Response:
    body = await json_of(request)
    state = state_of(request)
    if not isinstance(body, dict) or "image" not in body:
        return JSONResponse(INVALID, 400)
    try:
        bar = _min_distance(body, state)
        image = await resolve_image(body["image"], state.service.tuning, state.fetch)
        embedded = await state.service.embed(image)
    except (InvalidRequest, Unprocessable, ImageTooLarge):
        return JSONResponse(INVALID, 400)
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
    """Who each face is; strangers are enrolled, one request and one face at a time."""
    best, _ = await _best(state, embedded, range(len(embedded.embeddings)), bar)
    strangers = [row for row, match in enumerate(best) if match is None]
    if strangers:
        async with state.service.store.exclusive(COLLECTION, "strangers"):
            for row in strangers:
                best[row] = await _match_or_enrol(state, embedded, row, bar)
    return [match for match in best if match is not None]


async def _best(
    state: State, embedded: Embedded, rows: Sequence[int], bar: float
) -> tuple[list[Match | None], int]:
    """The subject over ``bar`` for each face, and the version that was searched."""
    found = await state.service.identify(
        COLLECTION, embedded.embeddings[list(rows)], limit=1, include_below=True
    )
    best = [
        probe.matches[0] if probe.matches and probe.matches[0].similarity > bar else None
        for probe in found.probes
    ]
    return best, found.version


async def _match_or_enrol(state: State, embedded: Embedded, row: int, bar: float) -> Match:
    """The face's subject; a stranger is enrolled only if nobody was since the search.

    The lock keeps strangers apart, the version keeps everybody else: it holds even where the
    database, and the lock with it, was lost in between.
    """
    for _ in range(_TRIES):
        (match,), version = await _best(state, embedded, [row], bar)
        if match is not None:
            return match
        try:
            return await _enrol_stranger(state, embedded, row, version)
        except (SubjectExists, PreconditionFailed):
            continue  # an id somebody chose by hand, or somebody enrolled: look again
    raise Overloaded("the collection changes too fast to enrol a stranger")


async def _enrol_stranger(state: State, embedded: Embedded, row: int, version: int) -> Match:
    service = state.service
    x1, y1, x2, y2 = embedded.detection.faces.boxes[row].tolist()
    sample = NewSample(
        embedding=embedded.embeddings[row],
        bbox=(x1, y1, x2, y2),
        detection_score=float(embedded.detection.faces.detection_scores[row]),
        crop=embedded.detection.crops[row],
    )
    name = f"unknown_person_{await service.store.next_stranger(COLLECTION)}"
    enrolled = await service.store.create_subject(
        COLLECTION,
        name,
        name=name,
        samples=[sample],
        contract=service.contract,
        if_version=version,
    )
    return Match(name, enrolled.samples[0].id, 1.0, name, {})


async def _sample(state: State, item: Mapping[str, Any]) -> NewSample | None:
    try:
        to_subject_id(_old_id(item["id"]))  # before the models work for nothing
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
            to_subject_id(_old_id(item["id"])),
            name=_text(item["name"]),
            metadata={"metadata": item["metadata"], "action": item["action"]},
            samples=[sample],
            contract=service.contract,
        )
    except FacegraphError as error:
        log.info("sample %.80r not enrolled: %s", item["id"], error)
        return False
    return True


def _old_id(value: Any) -> str:
    """An old id as text; numbers were common. InvalidRequest for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRequest("an id is a string or a whole number")
    return str(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def to_subject_id(old_id: str) -> str:
    """Our id for an old one; InvalidRequest for one that cannot be kept."""
    if is_id(old_id) and not old_id.startswith("b64."):
        return old_id
    try:
        ours = "b64." + base64.urlsafe_b64encode(old_id.encode()).decode().rstrip("=")
    except UnicodeEncodeError:
        raise InvalidRequest("the id is no text") from None
    if len(ours) > 128:
        raise InvalidRequest("the id is too long")
    return ours


def to_old_id(subject_id: str) -> str:
    """The inverse of :func:`to_subject_id`."""
    if not subject_id.startswith("b64."):
        return subject_id
    text = subject_id.removeprefix("b64.")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:  # an id of the v1 API that only looks like one of these
        return subject_id


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


def _database_url(given: Mapping[str, Any]) -> str:
    user, password, name = (
        quote(str(given[k]), safe="") for k in ("username", "password", "db_name")
    )
    host, port = quote(str(given["host"]), safe=""), given.get("port") or 5432
    return f"postgresql://{user}:{password}@/{name}?host={host}&port={quote(str(port), safe='')}"


def _from_loopback(request: Request) -> bool:
    """Whether the peer, and every client a proxy names, is this machine.

    `facegraph serve` has HAProxy name the client, so a proxy on this machine hides nobody.
    """
    hops = [request.client.host if request.client else "unknown"]
    hops += request.headers.get("x-forwarded-for", "").replace(" ", "").split(",")
    try:
        return all(ipaddress.ip_address(hop).is_loopback for hop in hops if hop)
    except ValueError:
        return False


ROUTES = [
    Route("/face-recognition/config-database", config_database, methods=["GET", "POST"]),
    Route("/face-recognition/clear-samples", clear_samples, methods=["GET", "POST"]),
    Route("/face-recognition/update-samples", update_samples, methods=["POST"]),
    Route("/face-recognition/update-samples", alive("Update samples is running.")),
    Route("/face-recognition/update-metadata/{id:path}", update_metadata, methods=["POST"]),
    Route("/face-recognition/update-metadata/{id:path}", alive("Update metadata is running.")),
    Route("/face-recognition", face_recognition, methods=["POST"]),
    Route("/face-recognition", alive("Face recognition is running.")),
]
