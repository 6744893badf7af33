"""The graph over Serve's handles: :class:`facegraph.graph.Graph` for the ingress."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.vision import Vision
from facegraph.errors import FacegraphError, ModelUnavailable, Overloaded, TimedOut
from facegraph.graph import Query
from facegraph.types import ByteArray, Detection, FloatArray, SearchResult

log = logging.getLogger(__name__)

Handle = DeploymentHandle[Any]

ATTEMPTS = 3
"""Tries of one call, the first included; every call is idempotent. Serve itself looks for another
replica until one accepts the call, so only a replica that is lost during the call counts. Few,
because it may be the call that kills it."""

PAUSE_S = 0.1

DESCRIBE_TIMEOUT_S = 4.0


class ServeGraph:
    """Sends each call to a deployment and turns every failure into a ``FacegraphError``.

    ``timeout_s`` bounds a call with its retries; it may be changed while calls run.
    """

    def __init__(
        self, detector: Handle, embedder: Handle, matcher: Handle, vision: Vision, timeout_s: float
    ) -> None:
        self._handles = {"detector": detector, "embedder": embedder, "matcher": matcher}
        self._detect = _method(detector, "detect")
        self._embed = _method(embedder, "embed")
        self._match = _method(matcher, "match")
        self._vision = vision
        self.timeout_s = timeout_s

    async def detect(self, image: bytes, *, max_faces: int, crops: bool) -> Detection:
        detection: Detection = await self._call(self._detect, image, max_faces, crops)
        return detection

    async def embed(self, crops: ByteArray) -> FloatArray:
        embeddings: FloatArray = await self._call(self._embed, crops)
        return embeddings

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        result: SearchResult = await self._call(
            self._match, collection_id, contract_id, probes, query
        )
        return result

    async def caption(self, image: bytes) -> dict[str, Any]:
        return await self._vision.caption(image)

    async def segment(self, image: bytes) -> dict[str, Any]:
        return await self._vision.segment(image)

    async def describe(self) -> dict[str, Any]:
        """One list per deployment, one entry per replica. Raises when a deployment has none."""
        described = await asyncio.gather(*map(self._describe, self._handles))
        return dict(zip(self._handles, described, strict=True))

    async def _describe(self, name: str) -> list[dict[str, Any]]:
        try:
            answers = (
                await self._handles[name]
                .broadcast("describe")
                .results_async(timeout_s=DESCRIBE_TIMEOUT_S, return_exceptions=True)
            )
        except (RayError, DeploymentUnavailableError):
            answers = []
        except TimeoutError:
            raise TimedOut(
                f"the {name} did not describe itself in {DESCRIBE_TIMEOUT_S:g} s"
            ) from None
        replicas = sorted((a for a in answers if isinstance(a, dict)), key=lambda a: a["replica"])
        if not replicas:
            raise ModelUnavailable(f"no replica of the {name} is running")
        return replicas

    async def _call(self, method: Handle, *args: Any) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await _try(method, *args)
        except TimeoutError:
            raise TimedOut(
                f"the {method.deployment_name} did not answer within {self.timeout_s:g} s"
            ) from None


def _method(handle: Handle, name: str) -> Handle:
    """The handle of one method. Plain pickle: arrays and slots need no cloudpickle."""
    return handle.options(
        method_name=name, request_serialization="pickle", response_serialization="pickle"
    )


async def _try(method: Handle, *args: Any) -> Any:
    name = method.deployment_name
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        try:
            return await method.remote(*args)
        except FacegraphError as error:
            raise _cause(error) from None
        except BackPressureError:
            raise Overloaded(f"too many requests wait for the {name}") from None
        except RayTaskError as error:
            log.exception("the %s failed", name)
            raise FacegraphError("something went wrong here; see the log") from error
        except DeploymentUnavailableError:
            raise ModelUnavailable(f"the {name} could not be started; see the log") from None
        except (RayError, grpc.aio.AioRpcError) as error:
            log.warning("a replica of the %s was lost (%s); trying again", name, _brief(error))
    raise ModelUnavailable(f"replicas of the {name} are being replaced; try again later")


def _cause(error: FacegraphError) -> FacegraphError:
    """The error as it was raised, without Ray's wrapping."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, FacegraphError) else error


def _brief(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return type(error).__name__
