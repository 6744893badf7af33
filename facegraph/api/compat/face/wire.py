"""How face says what is wrong, and what its texts are sent as."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.problems import headers
from facegraph.api.state import State
from facegraph.errors import FacegraphError
from facegraph.service import Service

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
"""Of every pickle; it is ASCII. The old clients look at the text only."""

Handler = Callable[[Request], Awaitable[Response]]


def answering(handler: Handler) -> Handler:
    """``handler`` with errors as ``{"error": …}``: 400 for the client's, else their own status."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except FacegraphError as error:
            if error.status >= 500:
                log.warning("%s %s: %s", request.method, request.url.path, error)
            request.state.code = error.code
            status = error.status if error.status >= 500 else 400
            return JSONResponse({"error": error.detail}, status, headers(error))

    return answer


def service_of(request: Request) -> Service:
    state: State = request.app.state.facegraph
    return state.service
