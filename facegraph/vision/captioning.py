"""The captioner behind asyncio: batches of images with equal options.

As in :mod:`facegraph.vision.segmenting`, a model that is not there is no reason to stop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from facegraph.batching import Batcher
from facegraph.config import CaptionerTuning, Settings
from facegraph.errors import FacegraphError, ModelUnavailable
from facegraph.health import Health
from facegraph.load import Load
from facegraph.models.vision_packs import AUTO, find_captioner
from facegraph.types import ByteArray, Caption, CaptionOptions
from facegraph.vision.base import Captioner
from facegraph.vision.jobs import (
    LOOK_AGAIN_S,
    NONE,
    Job,
    Patience,
    described,
    in_groups,
    result,
)
from facegraph.vision.opening import open_captioner

INVENTORY = "inventory"
"""The captioner without a model: one sentence of what the segmenter found."""


class CaptionerWorker:
    """One batch at a time. Without a model it answers None, and now and then looks for one."""

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
        self._look_again = float("-inf")
        self._patience = Patience()
        self._health = Health()
        self.check = self._health.check
        self._meter = Load()
        self.read_load = self._meter.read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="caption")
        self._batcher = Batcher(self._run, max_batch=tuning.max_batch, max_queue=tuning.max_queue)

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        """See :meth:`facegraph.graph.Graph.caption`."""
        if self._loaded is None:
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(self._pool, self._open) is None:
                return None
        with self._meter.item():
            return result(await self._batcher.submit(Job(image, options)))

    async def _run(
        self, batch: Sequence[Job[CaptionOptions]]
    ) -> Sequence[Caption | FacegraphError]:
        def work() -> list[Caption | FacegraphError]:
            return in_groups(batch, lambda job: job.options, self._caption, self._tuning)

        with self._meter.run(len(batch)):
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _caption(
        self, options: CaptionOptions, images: list[ByteArray], _: list[CaptionOptions]
    ) -> list[Caption]:
        captioner = self._loaded
        assert captioner is not None, "nothing is batched before a model is loaded"
        with self._health.watch():
            texts = captioner.caption(images, options)
        return [Caption(text, captioner.name) for text in texts]

    def _open(self) -> Captioner | None:
        """The loaded model; None where the captioner is `inventory`."""
        configured = self._settings.captioner
        if configured == NONE:
            raise ModelUnavailable("no captioner is configured (captioner: none)")
        if (
            self._loaded is None
            and configured != INVENTORY
            and time.monotonic() >= self._look_again
        ):
            self._loaded = self._patience.load(None, self._load)
            self._look_again = time.monotonic() + LOOK_AGAIN_S
        return self._loaded

    def _load(self) -> Captioner | None:
        model = find_captioner(self._settings, self._settings.captioner)
        if model is None:
            return None
        return open_captioner(
            model,
            self._settings,
            threads=self._threads,
            gpu_memory_bytes=self._gpu_memory_bytes,
        )

    def warm_up(self) -> None:
        """Loads the configured model; where it is missing, requests will say so."""
        with suppress(FacegraphError):  # the description tells it too
            self._pool.submit(self._open).result()

    def reconfigure(self, tuning: CaptionerTuning) -> None:
        self._tuning = tuning
        self._batcher.max_batch, self._batcher.max_queue = tuning.max_batch, tuning.max_queue

    def describe(self) -> dict[str, Any]:
        loaded = [described(self._loaded)] if self._loaded else []
        if not loaded and self._settings.captioner in (INVENTORY, AUTO):
            loaded = [{"name": INVENTORY}]
        return {
            "configured": self._settings.captioner,
            "loaded": loaded,
            "problem": self._patience.problem(None),
            "tuning": self._tuning.model_dump(),
        }

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()
