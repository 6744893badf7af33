"""What surrounds every request: its id, the admission gate, the time limit, metrics, the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facegraph.api.problems import respond
from facegraph.api.state import Place, State, TimeLimit
from facegraph.errors import FacegraphError, Overloaded, TimedOut
from facegraph.timing import Times, collected, server_timing

log = logging.getLogger("facegraph.http")

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Answered even when the service is full."""

WENT_AWAY = 499
"""The status that is counted where the client left before its request was read; nginx's."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """Admits at most ``max_concurrent_requests``, each for at most ``request_timeout_s``; streams
    of events leave their places.

    Inside, every exception has become an answer; an answer that has begun is never followed by
    another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        state: State = scope["app"].state.facegraph
        place = self._take_place(state)
        exchange.scope["state"]["place"] = place
        try:
            with collected() as exchange.times:
                await self._admit(exchange, state, receive)
        finally:
            place.leave()
            exchange.record(state)

    def _take_place(self, state: State) -> Place:
        taken = True

        def leave() -> None:
            nonlocal taken
            self._in_flight -= taken
            state.metrics.in_flight.set(self._in_flight)
            taken = False

        self._in_flight += 1
        state.metrics.in_flight.set(self._in_flight)
        return Place(leave)

    async def _admit(self, exchange: _Exchange, state: State, receive: Receive) -> None:
        tuning = state.service.tuning
        if self._in_flight > tuning.max_concurrent_requests and exchange.path not in PROBES:
            await exchange.refuse(
                Overloaded(f"{tuning.max_concurrent_requests} requests are being answered"), receive
            )
            return
        limit = TimeLimit(tuning.request_timeout_s, asyncio.timeout(tuning.request_timeout_s))
        exchange.scope["state"]["time_limit"] = limit
        try:
            async with limit.timeout:
                await self._app(exchange.scope, receive, exchange.send)
        except TimeoutError:
            await exchange.refuse(TimedOut(f"not answered within {limit.seconds:g} s"), receive)
        except ClientDisconnect:  # nobody waits for an answer, and nothing failed here
            exchange.status = exchange.status or WENT_AWAY
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await exchange.refuse(
                FacegraphError("something went wrong here; the log has the request id"), receive
            )


class _Exchange:
    """One request and what is sent for it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.request_id = _request_id(Request(scope))
        self.status = 0
        self.times: Times = {}
        self._send = send
        self._began = time.perf_counter()
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
            ]
            if self.times:
                message["headers"].append((b"server-timing", server_timing(self.times).encode()))
        await self._send(message)

    async def refuse(self, error: FacegraphError, receive: Receive) -> None:
        if not self.status:
            self.scope["state"]["code"] = error.code
            await respond(error, self.request_id)(self.scope, receive, self.send)

    def record(self, state: State) -> None:
        seconds = time.perf_counter() - self._began
        route: Any = self.scope.get("route")
        template = getattr(route, "path", "unmatched")
        method = self.scope["method"]
        state.metrics.requests.labels(method, template, str(self.status)).observe(seconds)
        for stage, took in self.times.items():
            state.metrics.stages.labels(stage).observe(took)
        if code := self.scope["state"].get("code"):
            state.metrics.errors.labels(code).inc()
        log.debug(
            "%s %s %d %.1f ms %s",
            method,
            template,
            self.status,
            seconds * 1000,
            self.request_id,
        )


def _request_id(request: Request) -> str:
    sent = request.headers.get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
