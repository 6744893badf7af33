"""The vision models behind asyncio: decoding, batches, and which model is loaded.

A model that is not there is no reason to stop: its requests are ``model_unavailable`` with what to
do about it, and the next one looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from facegraph.batching import Batcher
from facegraph.config import CaptionerTuning, SegmenterTuning, Settings
from facegraph.errors import FacegraphError, ModelUnavailable, StartupError
from facegraph.health import Health
from facegraph.images import decode
from facegraph.models.vision_packs import AUTO, find_captioner, find_segmenter, find_segmenter_named
from facegraph.types import (
    ByteArray,
    Caption,
    CaptionOptions,
    Segmentation,
    SegmentOptions,
)
from facegraph.vision.base import Captioner, Segmenter
from facegraph.vision.opening import open_captioner, open_segmenter

O = TypeVar("O")  # noqa: E741 - options
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)

INVENTORY = "inventory"
"""The captioner without a model: one sentence of what the segmenter found."""

NONE = "none"

KEPT = 2
"""Segmenters that stay loaded: the one in use, and the one that requests under way began with."""


LOOK_AGAIN_S = 5.0
"""How long a captioner that found no model does not look for one again."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[O]):
    image: bytes
    options: O
    model: str | None = None


class SegmenterWorker:
    """One image batch at a time; a switch of models waits for its turn among them."""

    def __init__(
        self,
        settings: Settings,
        tuning: SegmenterTuning,
        *,
        threads: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self._settings = settings
        self._tuning = tuning
        self._threads = threads
        self._gpu_memory_bytes = gpu_memory_bytes
        self._names: dict[str | None, str] = {}  # as asked for → the pack's
        self._loaded: dict[str, Segmenter] = {}  # the last used last; for the thread only
        self._problem: str | None = None
        self._health = Health()
        self.check = self._health.check
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._batcher = Batcher(self._run, max_batch=tuning.max_batch, max_queue=tuning.max_queue)

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        """See :meth:`facegraph.graph.Graph.segment`."""
        return _result(await self._batcher.submit(_Job(image, options, model)))

    async def load(self, model: str) -> None:
        """See :meth:`facegraph.graph.Graph.load_segmenter`; returns when it is ready."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._open, model)

    async def _run(
        self, batch: Sequence[_Job[SegmentOptions]]
    ) -> Sequence[Segmentation | FacegraphError]:
        def work() -> list[Segmentation | FacegraphError]:
            return _in_groups(batch, lambda job: job.model, self._segment, self._tuning)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _segment(
        self, model: str | None, images: list[ByteArray], options: list[SegmentOptions]
    ) -> list[Segmentation]:
        segmenter = self._open(model)
        with self._health.watch():
            return segmenter.segment(images, options)

    def _open(self, asked: str | None) -> Segmenter:
        """The loaded model of this name; None is the configured one."""
        try:
            return self._opened(asked)
        except StartupError as error:
            if asked is None:
                self._problem = str(error)
            raise ModelUnavailable(str(error)) from None

    def _opened(self, asked: str | None) -> Segmenter:
        name = self._names.get(asked)
        if name is None or name not in self._loaded:
            configured = self._settings.segmenter
            if asked is None and configured == NONE:
                raise ModelUnavailable("no segmenter is configured (segmenter: none)")
            model = (
                find_segmenter(self._settings, configured)
                if asked is None
                else find_segmenter_named(self._settings, asked)
            )
            name = self._names[asked] = model.name
            if name not in self._loaded:
                self._loaded[name] = open_segmenter(
                    model,
                    self._settings,
                    threads=self._threads,
                    gpu_memory_bytes=self._gpu_memory_bytes,
                )
        segmenter = self._loaded[name] = self._loaded.pop(name)
        while len(self._loaded) > KEPT:
            del self._loaded[next(iter(self._loaded))]
        if asked is None:
            self._problem = None
        return segmenter

    def warm_up(self) -> None:
        """Loads the configured model; where it is missing, requests will say so."""
        _tolerant(self._pool.submit(self._open, None).result)

    def reconfigure(self, tuning: SegmenterTuning) -> None:
        self._tuning = tuning
        self._batcher.max_batch, self._batcher.max_queue = tuning.max_batch, tuning.max_queue

    def describe(self) -> dict[str, Any]:
        return {
            "configured": self._settings.segmenter,
            "loaded": [_described(segmenter) for segmenter in list(self._loaded.values())],
            "problem": self._problem,
            "tuning": self._tuning.model_dump(),
        }

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()


class CaptionerWorker:
    """Batches of images with equal options; one batch at a time."""

    def __init__(
        self,
        settings: Settings,
        tuning: CaptionerTuning,
        *,
        threads: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self._settings = settings
        self._tuning = tuning
        self._threads = threads
        self._gpu_memory_bytes = gpu_memory_bytes
        self._loaded: Captioner | None = None  # for the thread only
        self._next = float("-inf")  # when to look for a model again
        self._problem: str | None = None
        self._health = Health()
        self.check = self._health.check
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="caption")
        self._batcher = Batcher(self._run, max_batch=tuning.max_batch, max_queue=tuning.max_queue)

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        """See :meth:`facegraph.graph.Graph.caption`."""
        if self._loaded is None:
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(self._pool, self._open) is None:
                return None
        return _result(await self._batcher.submit(_Job(image, options)))

    async def _run(
        self, batch: Sequence[_Job[CaptionOptions]]
    ) -> Sequence[Caption | FacegraphError]:
        def work() -> list[Caption | FacegraphError]:
            return _in_groups(batch, lambda job: job.options, self._caption, self._tuning)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _caption(
        self, options: CaptionOptions, images: list[ByteArray], _: list[CaptionOptions]
    ) -> list[Caption]:
        captioner = self._open()
        assert captioner is not None
        with self._health.watch():
            texts = captioner.caption(images, options)
        return [Caption(text, captioner.name) for text in texts]

    def _open(self) -> Captioner | None:
        """The loaded model; None where the captioner is `inventory`."""
        configured = self._settings.captioner
        if self._loaded is not None or configured == INVENTORY or time.monotonic() < self._next:
            return self._loaded
        try:
            if configured == NONE:
                raise ModelUnavailable("no captioner is configured (captioner: none)")
            model = find_captioner(self._settings, configured)
            self._problem = None
            if model is None:
                self._next = time.monotonic() + LOOK_AGAIN_S
            else:
                self._loaded = open_captioner(
                    model,
                    self._settings,
                    threads=self._threads,
                    gpu_memory_bytes=self._gpu_memory_bytes,
                )
        except StartupError as error:
            self._problem = str(error)
            raise ModelUnavailable(str(error)) from None
        return self._loaded

    def warm_up(self) -> None:
        """Loads the configured model; where it is missing, requests will say so."""
        _tolerant(self._pool.submit(self._open).result)

    def reconfigure(self, tuning: CaptionerTuning) -> None:
        self._tuning = tuning
        self._batcher.max_batch, self._batcher.max_queue = tuning.max_batch, tuning.max_queue

    def describe(self) -> dict[str, Any]:
        loaded = [_described(self._loaded)] if self._loaded else []
        if not loaded and self._settings.captioner in (INVENTORY, AUTO):
            loaded = [{"name": INVENTORY}]
        return {
            "configured": self._settings.captioner,
            "loaded": loaded,
            "problem": self._problem,
            "tuning": self._tuning.model_dump(),
        }

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()


def _in_groups(
    jobs: Sequence[_Job[O]],
    key: Callable[[_Job[O]], K],
    run: Callable[[K, list[ByteArray], list[O]], list[R]],
    tuning: SegmenterTuning | CaptionerTuning,
) -> list[R | FacegraphError]:
    """Each job's result, or its error: a bad picture or model fails no other's."""
    outcomes: dict[int, R | FacegraphError] = {}
    pixels: dict[int, ByteArray] = {}
    groups: dict[K, list[int]] = {}
    for row, job in enumerate(jobs):
        try:
            pixels[row] = decode(job.image, max_pixels=tuning.max_image_pixels)
        except FacegraphError as error:
            outcomes[row] = error
        else:
            groups.setdefault(key(job), []).append(row)
    for name, rows in groups.items():
        try:
            results: Sequence[R | FacegraphError] = run(
                name, [pixels[row] for row in rows], [jobs[row].options for row in rows]
            )
        except FacegraphError as error:
            results = [error] * len(rows)
        outcomes.update(zip(rows, results, strict=True))
    return [outcomes[row] for row in range(len(jobs))]


def _described(model: Segmenter | Captioner) -> dict[str, Any]:
    return {"name": model.name, **model.describe()}


def _result(outcome: R | FacegraphError) -> R:
    if isinstance(outcome, FacegraphError):
        raise outcome
    return outcome


def _tolerant(load: Callable[[], object]) -> None:
    with suppress(ModelUnavailable):  # the description tells it, and every request
        load()
