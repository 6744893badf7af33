"""The graph over Serve's handles: :class:`facegraph.graph.Graph` for the ingress."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from facegraph.errors import (
    FacegraphError,
    ModelUnavailable,
    Overloaded,
    TimedOut,
    Unavailable,
)
from facegraph.graph import Query
from facegraph.types import (
    ByteArray,
    Caption,
    CaptionOptions,
    Detection,
    FloatArray,
    SearchResult,
    Segmentation,
    SegmentOptions,
)

log = logging.getLogger(__name__)

Handle = DeploymentHandle[Any]

ATTEMPTS = 3
"""Tries of one call, the first included; every call is idempotent. Serve itself looks for another
replica until one accepts the call, so only a replica that is lost during the call counts. Few,
because it may be the call that kills it."""

PAUSE_S = 0.1

DESCRIBE_TIMEOUT_S = 4.0

ON_THEIR_OWN = frozenset({"segmenter", "captioner", "jobs"})
"""Deployments without which the service is ready all the same."""

COLD_AFTER_S = 2.0
"""A call that takes longer looks whether there is a replica at all."""


class Handles(NamedTuple):
    """One handle per deployment below; only the ingress has one to the jobs' workers."""

    detector: Handle
    embedder: Handle
    matcher: Handle
    segmenter: Handle
    captioner: Handle
    jobs: Handle | None = None


class ServeGraph:
    """Sends each call to a deployment and turns every failure into a ``FacegraphError``.

    ``timeout_s`` bounds a call with its retries; it may be changed while calls run.
    """

    def __init__(self, handles: Handles, timeout_s: float) -> None:
        named = handles._asdict().items()
        self._handles: dict[str, Handle] = {name: h for name, h in named if h is not None}
        self._detect = _method(handles.detector, "detect")
        self._embed = _method(handles.embedder, "embed")
        self._match = _method(handles.matcher, "match")
        self._segment = _method(handles.segmenter, "segment")
        self._caption = _method(handles.captioner, "caption")
        self.timeout_s = timeout_s

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        detection: Detection = await self._call(
            self._detect, image, max_faces, crops, min_score, attributes
        )
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

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        caption: Caption | None = await self._warm_call(self._caption, image, options)
        return caption

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        segmentation: Segmentation = await self._warm_call(self._segment, image, options, model)
        return segmentation

    async def load_segmenter(self, model: str) -> None:
        """A replica lost meanwhile is no failure: every request names its model anyway."""
        answers = await self._broadcast("segmenter", self.timeout_s, "load", model)
        for answer in answers:
            if isinstance(answer, FacegraphError):
                raise _cause(answer)
            if isinstance(answer, RayTaskError):
                log.error("a segmenter could not load %s: %s", model, answer)
                raise FacegraphError("a replica of the segmenter failed; see the log")
        if not any(answer is None for answer in answers):
            raise Unavailable("no replica of the segmenter is running; try again in a few seconds")

    async def describe(self) -> dict[str, Any]:
        """One list per deployment, one entry per replica.

        Raises when the face path lacks a replica; without one of the others it goes on.
        """
        described = await asyncio.gather(*map(self._describe, self._handles))
        return dict(zip(self._handles, described, strict=True))

    async def _describe(self, name: str) -> list[dict[str, Any]]:
        try:
            answers = await self._broadcast(name, DESCRIBE_TIMEOUT_S, "describe")
        except TimedOut as error:
            if name not in ON_THEIR_OWN:
                raise
            return [{"loaded": [], "problem": str(error)}]
        replicas = sorted((a for a in answers if isinstance(a, dict)), key=lambda a: a["replica"])
        if not replicas and name not in ON_THEIR_OWN:
            raise ModelUnavailable(f"no replica of the {name} is running")
        return replicas

    async def _broadcast(self, name: str, timeout_s: float, *call: Any) -> list[Any]:
        """What each running replica answers or raises; empty where none is running."""
        try:
            answers: list[Any] = (
                await self._handles[name]
                .broadcast(*call)
                .results_async(timeout_s=timeout_s, return_exceptions=True)
            )
        except (RayError, DeploymentUnavailableError):
            return []
        except TimeoutError:
            raise TimedOut(f"the {name} did not answer within {timeout_s:g} s") from None
        return answers

    async def _warm_call(self, method: Handle, *args: Any) -> Any:
        """As ``_call``; where no replica is running, it does not wait for one to be ready."""
        call = asyncio.ensure_future(self._call(method, *args))
        try:
            done, _ = await asyncio.wait([call], timeout=COLD_AFTER_S)
            running = bool(done) or await self._is_running(method.deployment_name)
            if not running and not call.done():
                raise ModelUnavailable(
                    f"the {method.deployment_name} is starting; try again in a few seconds"
                )
            return await call
        finally:
            call.cancel()

    async def _is_running(self, name: str) -> bool:
        try:
            return bool(await self._broadcast(name, DESCRIBE_TIMEOUT_S, "describe"))
        except TimedOut:
            return True

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
