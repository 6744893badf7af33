"""Errors as RFC 9457 problems. Whatever goes wrong leaves as one of these, never a traceback."""

from __future__ import annotations

import json

from starlette.responses import Response

from facegraph.errors import FacegraphError

MEDIA_TYPE = "application/problem+json"


def headers(error: FacegraphError) -> dict[str, str]:
    """Retry-After, where waiting helps."""
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}


def respond(error: FacegraphError, request_id: str) -> Response:
    return Response(
        json.dumps(error.problem() | {"request_id": request_id}),
        error.status,
        headers(error),
        MEDIA_TYPE,
    )
