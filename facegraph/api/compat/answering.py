"""What gnosis and face have in common: errors as ``{"error": …}``."""

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
