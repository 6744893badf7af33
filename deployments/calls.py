"""Calls of a deployment's method: what fails on the way, and several requests in one call.

A hop of Ray Serve costs a small model's time, however much it carries. So what waits for a
deployment travels together: the deployment gets a list of requests and answers a list of results
and errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from facegraph.batching import Batcher
from facegraph.errors import (
    FacegraphError,
    ImageTooLarge,
    ModelUnavailable,
    Overloaded,
    TimedOut,
)

log = logging.getLogger(__name__)

Handle = DeploymentHandle[Any]

Request = tuple[Any, ...]
"""Positional arguments of one request."""

ATTEMPTS = 3
"""Tries of one call, the first included; every call is idempotent. Serve itself looks for another
replica until one accepts the call, so only a replica that is lost during the call counts. Few,
because it may be the call that kills it."""

PAUSE_S = 0.1

PATIENCE_S = 1.0
"""A call that takes longer, and is overtaken, makes room for another: a replica that hangs must not
stop the rest."""

MANY_KEYS = 64
"""From so many keys on those that are not used are forgotten."""

UNKNOWN = "something went wrong here; see the log"


class ReplicaLost(Exception):
    """It went away during a call of several requests, any of which may have been why."""


def method(handle: Handle, name: str) -> Handle:
    """The handle of one method. Plain pickle: arrays and slots need no cloudpickle."""
    return handle.options(
        method_name=name, request_serialization="pickle", response_serialization="pickle"
    )


async def call(method: Handle, *args: Any, attempts: int = ATTEMPTS) -> Any:
    """Calls it, again where its replica is lost; every failure becomes a ``FacegraphError``.

    With one attempt a lost replica is ReplicaLost.
    """
    name = method.deployment_name
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        try:
            return await method.remote(*args)
        except FacegraphError as error:
            raise cause_of(error) from None
        except BackPressureError:
            raise Overloaded(f"too many requests wait for the {name}") from None
        except RayTaskError as error:
            log.exception("the %s failed", name)
            raise FacegraphError(UNKNOWN) from error
        except DeploymentUnavailableError:
            raise ModelUnavailable(f"the {name} could not be started; see the log") from None
        except (RayError, grpc.aio.AioRpcError) as error:
            if _too_large(error):
                raise ImageTooLarge(
                    f"the request does not fit into a message to the {name}"
                ) from None
            log.warning("a replica of the %s was lost (%s); trying again", name, _brief(error))
            if attempts == 1:
                raise ReplicaLost from error
    raise ModelUnavailable(f"replicas of the {name} are being replaced; try again later")


class Most(NamedTuple):
    """What a call weighs at most, unless one request does, and what waits for one."""

    in_call: int
    waiting: int


class Calls:
    """Requests for one method, as many in a call as wait when a replica has room for it.

    The method gets a list of :data:`Request` and answers as :func:`outcomes` does. Requests of a
    call whose replica is lost are tried again one by one, for one of them may be why.

    size: weighs a request
    at_once: calls that one replica works on side by side; one more waits there, so that no replica
        waits for the network
    key: requests of another one have calls, and room for them, of their own: what one request waits
        for, none of another key does
    """

    def __init__(
        self,
        method: Handle,
        most: Most,
        size: Callable[[Request], int],
        *,
        timeout_s: float,
        at_once: int = 1,
        key: Callable[[Request], Hashable] = lambda _: None,
    ) -> None:
        self._method = method
        self.name = method.deployment_name
        self.timeout_s = timeout_s
        self._most = most
        self._size = size
        self._at_once = at_once
        self._key = key
        self._batchers: dict[Hashable, Batcher[Request, Any]] = {}

    async def __call__(self, *request: Any, share: float = 1.0) -> Any:
        """The request's result, within a ``share`` of ``timeout_s``. Raises ``FacegraphError``."""
        seconds = self.timeout_s * share
        try:
            async with asyncio.timeout(seconds):
                return await self._batcher_for(request).submit(request)
        except TimeoutError:
            raise timed_out(self.name, seconds) from None

    def _batcher_for(self, request: Request) -> Batcher[Request, Any]:
        key = self._key(request)
        if key not in self._batchers:
            if len(self._batchers) >= MANY_KEYS:
                self._batchers = {k: b for k, b in self._batchers.items() if not b.idle}
            self._batchers[key] = Batcher(
                self._call,
                max_batch=self._most.in_call,
                max_queue=self._most.waiting,
                workers=lambda: running_replicas(self._method),
                depth=self._at_once + 1,
                size=self._size,
                patience_s=PATIENCE_S,
            )
        return self._batchers[key]

    async def _call(self, requests: Sequence[Request]) -> list[Any]:
        """Ends by itself, though whoever waited for it has left: a replica may hang."""
        attempts = ATTEMPTS if len(requests) == 1 else 1
        try:
            async with asyncio.timeout(self.timeout_s):
                answers: list[Any] = await call(self._method, list(requests), attempts=attempts)
        except TimeoutError:
            raise timed_out(self.name, self.timeout_s) from None
        return answers


def timed_out(name: str, seconds: float) -> TimedOut:
    return TimedOut(f"the {name} did not answer within {seconds:g} s")


def running_replicas(handle: Handle) -> int:
    """How many replicas a handle sends to, at least 1. Serve keeps this number to itself.

    The property beside ``_request_router`` would make a router where there is none yet.
    """
    router: Any = handle
    for name in ("_router", "_asyncio_router", "_request_router"):
        router = getattr(router, name, None)
    return max(1, len(router.curr_replicas)) if router is not None else 1


async def outcomes(requests: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What each request answers, or the ``FacegraphError`` it raises: nobody harms a neighbour."""
    answers = await asyncio.gather(*requests, return_exceptions=True)
    return [_told(answer) for answer in answers]


def _told(answer: Any) -> Any:
    if not isinstance(answer, BaseException) or isinstance(answer, FacegraphError):
        return answer
    if not isinstance(answer, Exception):
        raise answer
    log.error("a request failed", exc_info=answer)
    return FacegraphError(UNKNOWN)


def cause_of(error: FacegraphError) -> FacegraphError:
    """The error as it was raised, without Ray's wrapping."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, FacegraphError) else error


def _too_large(error: BaseException) -> bool:
    """Under ``facegraph serve`` no request comes near the limit (``MESSAGE_BYTES``)."""
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    )


def _brief(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return type(error).__name__
