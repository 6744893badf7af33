"""How smartav_api and face_recognition_v2 read requests and write answers."""

from __future__ import annotations

import html
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from facegraph.api.parsing import parse_json, read_body
from facegraph.api.state import State
from facegraph.errors import FacegraphError

INVALID = {"error": "Invalid request."}


async def json_of(request: Request) -> Any:
    """The body's JSON, whatever the method and content type say; None when it is none."""
    state = state_of(request)
    try:
        return await parse_json(await read_body(request, state.service.tuning.max_request_bytes))
    except FacegraphError:
        return None


def state_of(request: Request) -> State:
    state: State = request.app.state.facegraph
    return state


def is_cross_site(request: Request) -> bool:
    """Whether a browser sends this for another site's page; its user did not ask for it.

    Browsers tell over HTTPS and to loopback addresses. Over plain HTTP to others they tell where
    a form or script sends it, but not where a picture's address does.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("none", "same-origin")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def sentence(text: str, status: int = 200) -> Response:
    """text/html, as the old systems; what came from outside stays text."""
    return HTMLResponse(html.escape(text, quote=False), status)


def ascii_json(content: Any) -> Response:
    """JSON in ASCII: an id that is no text is told back as it was escaped."""
    return Response(json.dumps(content), media_type="application/json")


def alive(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return sentence(text)

    return answer
