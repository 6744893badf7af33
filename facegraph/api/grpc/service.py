"""Answers rpcs through the ASGI app, as if they had come over HTTP; nothing becomes JSON.

So everything that holds there holds here: admission, time limit, errors, request ids, metrics,
which count an rpc under its endpoint's route.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from starlette.types import ASGIApp
from starlette.types import Message as Event

from facegraph.api.endpoint import IN_PROCESS, InProcess, Reply
from facegraph.api.grpc import facegraph_pb2_grpc
from facegraph.api.grpc.errors import sentence, status_code, status_details
from facegraph.api.grpc.messages import fill
from facegraph.api.grpc.rpcs import RPCS, answer_class

HEALTH = "grpc.health.v1.Health"

OURS = frozenset({"content-type", "content-length", "accept", "te", "host", "connection"})
"""Metadata that mean something else over HTTP."""

Trailers = list[tuple[str, str | bytes]]
"""A list: Serve adds its own to it."""


class Context(Protocol):
    """What is used of ``grpc.aio.ServicerContext``, and what Serve gives instead."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def set_trailing_metadata(self, metadata: Any) -> None: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


class Rpcs:
    """The service over ``app``: :func:`facegraph.api.app.create_app`'s, or one around it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def answer(self, name: str, request: Message, context: Context) -> Message:
        """The answer of rpc ``name``; of a failed one empty, with the status in ``context``."""
        rpc, message = RPCS[name], answer_class(name)()
        brought = InProcess(lambda tuning: rpc.read(request, tuning))
        told = await self._ask(rpc.endpoint.method, rpc.path(request), context, brought)
        request_id = told.headers["x-request-id"]
        trailers: Trailers = [("x-request-id", request_id)]
        if brought.reply is None:
            _fail(context, json.loads(told.body), trailers, told.headers.get("retry-after"))
            return message
        _succeed(context, brought.reply, trailers)
        fill(message, {**(brought.reply.body or {}), "request_id": request_id})
        return message

    async def check(self, request: Message, context: Context) -> Message:
        """``grpc.health.v1.Health/Check``: what ``/readyz`` says."""
        told = await self._ask("GET", "/readyz", context)
        state = health_pb2.HealthCheckResponse
        status = state.SERVING if told.status == 200 else state.NOT_SERVING
        answer: Message = health_pb2.HealthCheckResponse(status=status)
        return answer

    async def _ask(
        self, method: str, path: str, context: Context, brought: InProcess | None = None
    ) -> _Told:
        told = _Told()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": _headers(context),
            "client": None,
            "server": None,
            IN_PROCESS: brought,
        }
        await self._app(scope, _nothing, told.send)
        return told


class _Told:
    """What the app answers."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.headers = {name.decode(): text.decode() for name, text in event["headers"]}
        else:
            self.body += event.get("body", b"")


async def _nothing() -> Event:
    return {"type": "http.request", "body": b"", "more_body": False}


def _headers(context: Context) -> list[tuple[bytes, bytes]]:
    sent = {
        name: value
        for name, value in context.invocation_metadata() or ()
        if isinstance(value, str) and name not in OURS and not name.startswith("grpc-")
    }
    given = dict(context.trailing_metadata() or ()).get("request_id")  # Serve's
    if isinstance(given, str):
        sent.setdefault("x-request-id", given)
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]


def _succeed(context: Context, reply: Reply, trailers: Trailers) -> None:
    trailers += reply.headers.items()
    context.set_trailing_metadata(trailers)


def _fail(
    context: Context, problem: Mapping[str, Any], trailers: Trailers, retry_after: str | None
) -> None:
    """Sets the status instead of raising: a failed request is no failure of the server."""
    if retry_after is not None:
        trailers.append(("retry-after", retry_after))
    trailers += [
        ("facegraph-code", problem["code"]),
        ("grpc-status-details-bin", status_details(problem)),
    ]
    context.set_trailing_metadata(trailers)
    context.set_code(status_code(problem))
    context.set_details(sentence(problem))


def add_to_server(servicer: Any, server: grpc.aio.Server) -> None:
    """Registers ``servicer``, with a method for each rpc and ``Check``, for both services.

    ``serve_config.yaml`` and ``facegraph serve`` name this function to Serve.
    """
    facegraph_pb2_grpc.add_FacegraphServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    check = grpc.unary_unary_rpc_method_handler(
        servicer.Check,
        request_deserializer=health_pb2.HealthCheckRequest.FromString,
        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(HEALTH, {"Check": check}),)
    )
