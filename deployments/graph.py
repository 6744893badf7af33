"""The graph over Serve's handles: :class:`facegraph.graph.Graph` for the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.arguments import matcher_name
from facegraph.errors import (
    FacegraphError,
    ModelUnavailable,
    Overloaded,
    TimedOut,
    Unavailable,
)
from facegraph.graph import Query
from facegraph.sharding import ShardedSearch
from facegraph.types import (
    ByteArray,
    Caption,
    CaptionOptions,
    Detection,
    FloatArray,
    SearchResult,
    Segmentation,
    SegmentOptions,
    Shard,
)

log = logging.getLogger(__name__)

Handle = DeploymentHandle[Any]

ATTEMPTS = 3
"""Tries of one call, the first included; every call is idempotent. Serve itself looks for another
replica until one accepts the call, so only a replica that is lost during the call counts. Few,
because it may be the call that kills it."""

PAUSE_S = 0.1

DESCRIBE_TIMEOUT_S = 4.0

GALLERIES_TIMEOUT_S = 1.0
"""Short: a collection is told without its galleries rather than late."""

ON_THEIR_OWN = frozenset({"segmenter", "captioner", "jobs"})
"""Deployments without which the service is ready all the same."""

COLD_AFTER_S = 2.0
"""A call that takes longer looks whether there is a replica at all."""


SHARD_TIME = 0.9
"""A shard's share of ``timeout_s``: a request has that much, and its end is to name the shard."""


class Handles(NamedTuple):
    """One handle per deployment below; only the ingress has one to the jobs' workers.

    matchers: one per shard, in their order
    """

    detector: Handle
    embedder: Handle
    matchers: tuple[Handle, ...]
    segmenter: Handle
    captioner: Handle
    jobs: Handle | None = None

    def named(self) -> dict[str, Handle]:
        """Every deployment below by its name."""
        shards = {matcher_name(shard): handle for shard, handle in enumerate(self.matchers)}
        return {
            "detector": self.detector,
            "embedder": self.embedder,
            **shards,
            "segmenter": self.segmenter,
            "captioner": self.captioner,
            **({} if self.jobs is None else {"jobs": self.jobs}),
        }


class ServeGraph:
    """Sends each call to a deployment and turns every failure into a ``FacegraphError``.

    ``timeout_s`` bounds a call with its retries; it may be changed while calls run.
    """

    def __init__(self, handles: Handles, timeout_s: float) -> None:
        self._handles = handles.named()
        self._detect = _method(handles.detector, "detect")
        self._embed = _method(handles.embedder, "embed")
        matchers = [_method(handle, "match") for handle in handles.matchers]
        self._shards = [Shard(index, len(matchers)) for index in range(len(matchers))]
        share = SHARD_TIME if len(matchers) > 1 else 1.0
        self._search = ShardedSearch(
            [partial(self._call, matcher, share=share) for matcher in matchers]
        )
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
        return await self._search.match(collection_id, contract_id, probes, query)

    async def galleries(self, collection_id: str) -> Sequence[Mapping[str, Any]]:
        """Those of one shard by their replica.

        A replica that is lost is left out; one that hangs leaves out its shard, for Serve
        answers for all replicas at once.
        """
        described = await asyncio.gather(
            *(self._shard_galleries(shard, collection_id) for shard in self._shards)
        )
        return list(chain.from_iterable(described))

    async def _shard_galleries(self, shard: Shard, collection_id: str) -> list[dict[str, Any]]:
        name = matcher_name(shard.index)
        try:
            answers = await self._broadcast(
                name, GALLERIES_TIMEOUT_S, "describe_gallery", collection_id, shard
            )
        except TimedOut as error:
            log.warning("a collection is told without its galleries: %s", error)
            return []
        for answer in answers:
            if isinstance(answer, RayTaskError):
                log.error("a replica of the %s could not tell of a gallery: %s", name, answer)
        galleries = (answer for answer in answers if isinstance(answer, dict))
        ordered = sorted(galleries, key=lambda gallery: gallery["replica"])
        return [{"shard": shard.index, **gallery} for gallery in ordered]

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

    async def _call(self, method: Handle, *args: Any, share: float = 1.0) -> Any:
        seconds = self.timeout_s * share
        try:
            async with asyncio.timeout(seconds):
                return await _try(method, *args)
        except TimeoutError:
            raise TimedOut(
                f"the {method.deployment_name} did not answer within {seconds:g} s"
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
