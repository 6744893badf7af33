"""The rpcs of the ingress: Serve calls the method of a deployment that has an rpc's name."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from ray.serve.grpc_util import RayServegRPCContext
from starlette.types import ASGIApp

from facegraph.supervisor.haproxy import KEY_HEADER, KEY_VARIABLE

RPCS = (
    "Detect",
    "Embed",
    "Verify",
    "Search",
    "CreateCollection",
    "DeleteCollection",
    "CreateSubject",
    "GetSubject",
    "DeleteSubject",
    "AddSamples",
    "DeleteSample",
    "Caption",
    "Segment",
    "Analyze",
)


def door_is_shut(context: RayServegRPCContext) -> bool:
    """Whether a request came by a port of the replica, past HAProxy; refused in ``context``.

    Without a key, where `facegraph serve` did not start Ray, nothing is refused.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        return False
    sent = dict(context.invocation_metadata()).get(KEY_HEADER, "")
    if isinstance(sent, str) and hmac.compare_digest(sent.encode(), key.encode()):
        return False
    context.set_code(grpc.StatusCode.UNAUTHENTICATED)
    context.set_details("this port is not for clients")
    return True


class RpcMethods:
    """A method for each rpc, which all answer as the HTTP endpoints do."""

    def open_rpcs(self, app: ASGIApp) -> None:
        """Answers through ``app`` from now on."""
        from facegraph.api.grpc.service import Rpcs

        self._rpcs = Rpcs(app)

    async def Check(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        """``grpc.health.v1.Health/Check``; tells nothing that a key would protect."""
        return await self._rpcs.check(request, grpc_context)


def _method(name: str) -> Callable[..., Awaitable[Any]]:
    async def method(self: RpcMethods, request: Any, grpc_context: RayServegRPCContext) -> Any:
        from facegraph.api.grpc.rpcs import answer_class

        if door_is_shut(grpc_context):
            return answer_class(name)()
        return await self._rpcs.answer(name, request, grpc_context)

    method.__name__ = method.__qualname__ = name
    return method


for _name in RPCS:
    setattr(RpcMethods, _name, _method(_name))
