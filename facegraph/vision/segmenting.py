"""The segmenter behind asyncio: batches, and which model is loaded.

A model that is not there is no reason to stop: its requests are ``model_unavailable`` with what to
do about it, and a later one looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from facegraph.batching import Batcher
from facegraph.config import SegmenterTuning, Settings
from facegraph.errors import FacegraphError, ModelUnavailable
from facegraph.health import Health
from facegraph.load import Load
from facegraph.models.vision_packs import SegmenterModel, find_segmenter, find_segmenter_named
from facegraph.types import ByteArray, Segmentation, SegmentOptions
from facegraph.vision.base import Segmenter
from facegraph.vision.jobs import NONE, Job, Patience, described, in_groups, result
from facegraph.vision.opening import open_segmenter

KEPT = 2
"""Models that stay loaded: the one in use, and the one that requests under way began with."""


class SegmenterWorker:
    """One batch at a time; a switch of models waits for its turn among them."""

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
        self._patience = Patience()
        self._health = Health()
        self.check = self._health.check
        self._meter = Load()
        self.read_load = self._meter.read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._batcher = Batcher(self._run, max_batch=tuning.max_batch, max_queue=tuning.max_queue)

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        """See :meth:`facegraph.graph.Graph.segment`."""
        with self._meter.item():
            return result(await self._batcher.submit(Job(image, options, model)))

    async def load(self, model: str) -> None:
        """See :meth:`facegraph.graph.Graph.load_segmenter`; returns when it is ready."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._open, model)

    async def _run(
        self, batch: Sequence[Job[SegmentOptions]]
    ) -> Sequence[Segmentation | FacegraphError]:
        def work() -> list[Segmentation | FacegraphError]:
            return in_groups(batch, lambda job: job.model, self._segment, self._tuning)

        with self._meter.run(len(batch)):
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _segment(
        self, model: str | None, images: list[ByteArray], options: list[SegmentOptions]
    ) -> list[Segmentation]:
        segmenter = self._open(model)
        with self._health.watch():
            return segmenter.segment(images, options)

    def _open(self, asked: str | None) -> Segmenter:
        """The loaded model of this name; None is the configured one."""
        name = self._names.get(asked)
        if name is None or name not in self._loaded:
            name = self._names[asked] = self._patience.load(asked, lambda: self._load(asked))
        segmenter = self._loaded[name] = self._loaded.pop(name)
        while len(self._loaded) > KEPT:
            del self._loaded[next(iter(self._loaded))]
        return segmenter

    def _load(self, asked: str | None) -> str:
        """Loads it unless it is loaded under another name; the pack's name."""
        model = self._find(asked)
        if model.name not in self._loaded:
            self._loaded[model.name] = open_segmenter(
                model,
                self._settings,
                threads=self._threads,
                gpu_memory_bytes=self._gpu_memory_bytes,
            )
        return model.name

    def _find(self, asked: str | None) -> SegmenterModel:
        if asked is not None:
            return find_segmenter_named(self._settings, asked)
        if self._settings.segmenter == NONE:
            raise ModelUnavailable("no segmenter is configured (segmenter: none)")
        return find_segmenter(self._settings, self._settings.segmenter)

    def warm_up(self, model: str | None = None) -> None:
        """Loads ``model``, or the configured one; where it is missing, requests will say so."""
        with suppress(FacegraphError):  # the description tells it too
            self._pool.submit(self._open, model).result()

    def reconfigure(self, tuning: SegmenterTuning) -> None:
        self._tuning = tuning
        self._batcher.max_batch, self._batcher.max_queue = tuning.max_batch, tuning.max_queue

    def describe(self) -> dict[str, Any]:
        return {
            "configured": self._settings.segmenter,
            "loaded": [described(segmenter) for segmenter in list(self._loaded.values())],
            "problem": self._patience.problem(None),
            "tuning": self._tuning.model_dump(),
        }

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()
