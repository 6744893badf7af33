"""smartav_api's face endpoints, over the collection ``default``.

Policies: enrolling an id that exists appends a sample; a probe face nobody matches is enrolled
as ``unknown_person_N`` and returned as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.compat.recognition import Policy, routes
from facegraph.api.compat.recognition.enrolment import as_text
from facegraph.api.compat.recognition.policy import COLLECTION
from facegraph.api.compat.wire import alive, json_of, sentence, state_of
from facegraph.errors import FacegraphError, InvalidRequest, PreconditionFailed, SubjectNotFound
from facegraph.ids import to_subject_id
from facegraph.store import Store

POLICY = Policy(
    prefix="/face-recognition",
    enrol="append",
    strangers="enrol",
    invalid_update=400,
    no_face="No face detected from the input image.",
    empty_gallery=None,
)
_TRIES = 20


async def update_metadata(request: Request) -> Response:
    old_id = request.path_params["id"]
    body = await json_of(request)
    given = body if isinstance(body, dict) else {}
    for key in ("name", "metadata"):
        if key not in given:
            return JSONResponse({"error": f'"{key}" is missing in the request.'}, 400)
    nobody = sentence(f'Could not find "{old_id}" in database.', 400)
    try:
        subject_id = to_subject_id(old_id)
    except InvalidRequest:
        return nobody
    try:
        await _update_metadata(state_of(request).service.store, subject_id, given)
    except SubjectNotFound:
        return nobody
    except InvalidRequest as error:
        return JSONResponse({"error": str(error)}, 400)
    except FacegraphError:
        return sentence("DB connection error occurred", 500)
    return JSONResponse({"success": f'"{old_id}" has been configured successfully.'})


async def _update_metadata(store: Store, subject_id: str, given: Mapping[str, Any]) -> None:
    """Changes both and keeps what else is there, whoever else writes meanwhile."""
    for attempt in range(_TRIES):
        subject = await store.get_subject(COLLECTION, subject_id)
        metadata = {**subject.metadata, "metadata": given["metadata"]}
        changes = {"name": as_text(given["name"]), "metadata": metadata}
        try:
            await store.update_subject(
                COLLECTION, subject.id, changes, if_revision=subject.revision
            )
        except PreconditionFailed:
            if attempt == _TRIES - 1:
                raise
        else:
            return


_METADATA = "/face-recognition/update-metadata/{id:path}"

ROUTES = [
    *routes(POLICY),
    Route(_METADATA, update_metadata, methods=["POST"]),
    Route(_METADATA, alive("Update metadata is running.")),
]
