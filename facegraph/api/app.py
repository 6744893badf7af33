"""The ASGI application: routes, errors, documentation, dialects."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from facegraph.api import docs
from facegraph.api.compat import dialect_routes
from facegraph.api.compat.gnosis.streams import close_streams
from facegraph.api.endpoint import Endpoint
from facegraph.api.fetch import url_fetcher
from facegraph.api.metrics import Metrics
from facegraph.api.middleware import Gate
from facegraph.api.openapi import openapi
from facegraph.api.problems import respond
from facegraph.api.state import State
from facegraph.api.v1 import (
    analyze,
    collections,
    faces,
    jobs,
    recognizer_events,
    recognizers,
    recognizing,
    redact,
    search,
    subjects,
    system,
    video_search,
    videos,
    vision,
)
from facegraph.config import Settings
from facegraph.errors import FacegraphError, InvalidRequest, MethodNotAllowed, NotFound
from facegraph.service import Service

log = logging.getLogger(__name__)

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *faces.ENDPOINTS,
    *collections.ENDPOINTS,
    *subjects.ENDPOINTS,
    *search.ENDPOINTS,
    *vision.ENDPOINTS,
    *analyze.ENDPOINTS,
    *redact.ENDPOINTS,
    *videos.ENDPOINTS,
    *video_search.ENDPOINTS,
    *jobs.ENDPOINTS,
    *recognizers.ENDPOINTS,
    *recognizer_events.ENDPOINTS,
    *recognizing.ENDPOINTS,
    *system.ENDPOINTS,
)


def create_app(service: Service) -> Starlette:
    """The app over a running service. It owns nothing: whoever opened graph and store closes them.

    ``service.tuning`` may be replaced while it serves.
    """
    app = Starlette(
        routes=_routes(service.settings),
        middleware=[Middleware(Gate)],
        exception_handlers={
            FacegraphError: _problem,
            HTTPException: _http_error,
        },
        lifespan=_lifespan,
    )
    app.state.facegraph = State(service, Metrics(), url_fetcher(service.settings.fetch_urls))
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    app.state.facegraph.streams.close()
    await close_streams(app)


def _routes(settings: Settings) -> list[BaseRoute]:
    document = openapi(ENDPOINTS)

    async def openapi_json(_: Request) -> Response:
        return JSONResponse(document)

    return [
        *(Route(e.path, e.__call__, methods=[e.method]) for e in ENDPOINTS),
        Route("/openapi.json", openapi_json),
        Route("/metrics", _metrics),
        *docs.ROUTES,
        *dialect_routes(settings.root_dialects),
        Route("/", _home),  # last: an old system may have a page of its own there
    ]


async def _home(_: Request) -> Response:
    return RedirectResponse("docs")


async def _metrics(request: Request) -> Response:
    state: State = request.app.state.facegraph
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, FacegraphError)
    if error.status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    request.state.code = error.code
    return respond(error, request.state.request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said: FacegraphError
    if error.status_code == 404:
        said = NotFound(
            f"nothing at {request.url.path}; see /docs, or docs/compat.md for old systems"
        )
    elif error.status_code == 405:
        said = MethodNotAllowed(f"{request.method} is not for {request.url.path}")
    else:
        said = InvalidRequest(str(error.detail))
    response = await _problem(request, said)
    response.headers.update(error.headers or {})
    return response
