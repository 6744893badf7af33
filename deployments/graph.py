"""The graph over Serve's handles: :class:`facegraph.graph.Graph` for the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.arguments import matcher_name
from deployments.calls import Calls, Handle, Most, Request, call, cause_of, method, timed_out
from facegraph.errors import FacegraphError, ModelUnavailable, TimedOut, Unavailable
from facegraph.graph import Query
from facegraph.sharding import ShardedSearch
from facegraph.types import (
    ByteArray,
    Caption,
    CaptionOptions,
    Detection,
    FloatArray,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
    Shard,
)

log = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S = 4.0

FORGET_TIMEOUT_S = 2.0
"""Short: who deletes a recognizer does not wait for a replica that hangs."""

GALLERIES_TIMEOUT_S = 1.0
"""Short: a collection is told without its galleries rather than late."""

ON_THEIR_OWN = frozenset({"segmenter", "captioner", "recognizer", "jobs"})
"""Deployments without which the service is ready all the same."""

COLD_AFTER_S = 2.0
"""A call that takes longer looks whether there is a replica at all."""


MOST_PICTURES = Most(16, 512)
MOST_CROPS = Most(128, 4096)
MOST_PROBES = Most(256, 4096)

LARGE = 2 * 2**20
"""Bytes from which a picture goes alone: decoding it may take longer than all the others."""

SHARD_TIME = 0.9
"""A shard's share of ``timeout_s``: a request has that much, and its end is to name the shard."""


class Handles(NamedTuple):
    """One handle per deployment below; only the ingress has one to the jobs' workers.

    matchers: one per shard, in their order
    pictures_at_once, searches_at_once: what one replica works on side by side
    """

    detector: Handle
    embedder: Handle
    matchers: tuple[Handle, ...]
    segmenter: Handle
    captioner: Handle
    recognizer: Handle
    jobs: Handle | None = None
    pictures_at_once: int = 1
    searches_at_once: int = 1

    def named(self) -> dict[str, Handle]:
        """Every deployment below by its name."""
        shards = {matcher_name(shard): handle for shard, handle in enumerate(self.matchers)}
        return {
            "detector": self.detector,
            "embedder": self.embedder,
            **shards,
            "segmenter": self.segmenter,
            "captioner": self.captioner,
            "recognizer": self.recognizer,
            **({} if self.jobs is None else {"jobs": self.jobs}),
        }


class ServeGraph:
    """Sends each call to a deployment and turns every failure into a ``FacegraphError``.

    ``timeout_s`` bounds a call with its retries; it may be changed while calls run.
    ``contract_id``: what embeddings are taken for.
    """

    def __init__(self, handles: Handles, timeout_s: float, contract_id: str) -> None:
        self._handles = handles.named()
        self._contract_id = contract_id
        self._timeout_s = timeout_s
        self._detect = Calls(
            method(handles.detector, "detect"),
            MOST_PICTURES,
            _pictures,
            timeout_s=timeout_s,
            at_once=handles.pictures_at_once,
        )
        self._embed = Calls(
            method(handles.embedder, "embed"), MOST_CROPS, _crops, timeout_s=timeout_s
        )
        self._match = [
            Calls(
                method(handle, "match"),
                MOST_PROBES,
                _probes,
                timeout_s=timeout_s,
                at_once=handles.searches_at_once,
                key=_gallery,
            )
            for handle in handles.matchers
        ]
        self._shards = [Shard(index, len(self._match)) for index in range(len(self._match))]
        share = SHARD_TIME if len(self._match) > 1 else 1.0
        self._search = ShardedSearch([partial(calls, share=share) for calls in self._match])
        self._segment = method(handles.segmenter, "segment")
        self._caption = method(handles.captioner, "caption")
        self._recognize = method(handles.recognizer, "recognize")

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self._timeout_s = seconds
        for calls in (self._detect, self._embed, *self._match):
            calls.timeout_s = seconds

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        detection: Detection = await self._detect(image, max_faces, crops, min_score, attributes)
        return detection

    async def embed(self, crops: ByteArray) -> FloatArray:
        embeddings: FloatArray = await self._embed(crops, self._contract_id)
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

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        told: Sequence[Recognized] = await self._warm_call(
            self._recognize.options(multiplexed_model_id=recognizer_id),
            recognizer_id,
            probes,
            threshold,
            margin,
        )
        return told

    async def forget_recognizer(self, recognizer_id: str) -> None:
        try:
            answers = await self._broadcast("recognizer", FORGET_TIMEOUT_S, "forget", recognizer_id)
        except TimedOut as error:
            answers = [error]
        for answer in answers:
            if answer is not None:
                log.warning("recognizer %s may stay in memory: %s", recognizer_id, answer)

    async def load_segmenter(self, model: str) -> None:
        """A replica lost meanwhile is no failure: every request names its model anyway."""
        answers = await self._broadcast("segmenter", self.timeout_s, "load", model)
        for answer in answers:
            if isinstance(answer, FacegraphError):
                raise cause_of(answer)
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
            raise timed_out(name, timeout_s) from None
        return answers

    async def _warm_call(self, method: Handle, *args: Any) -> Any:
        """As ``_call``; where no replica is running, it does not wait for one to be ready."""
        asked = asyncio.ensure_future(self._call(method, *args))
        try:
            done, _ = await asyncio.wait([asked], timeout=COLD_AFTER_S)
            running = bool(done) or await self._is_running(method.deployment_name)
            if not running and not asked.done():
                raise ModelUnavailable(
                    f"the {method.deployment_name} is starting; try again in a few seconds"
                )
            return await asked
        finally:
            asked.cancel()

    async def _is_running(self, name: str) -> bool:
        try:
            return bool(await self._broadcast(name, DESCRIBE_TIMEOUT_S, "describe"))
        except TimedOut:
            return True

    async def _call(self, method: Handle, *args: Any) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await call(method, *args)
        except TimeoutError:
            raise timed_out(method.deployment_name, self.timeout_s) from None


def _pictures(request: Request) -> int:
    return 1 if len(request[0]) < LARGE else MOST_PICTURES.in_call


def _crops(request: Request) -> int:
    return len(request[0])


def _probes(request: Request) -> int:
    return len(request[2])


def _gallery(request: Request) -> Hashable:
    """Searches of another collection may wait for it to be loaded, and strong ones for changes."""
    collection_id, _, _, query, _ = request
    return collection_id, query.consistency
