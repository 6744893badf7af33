"""The models' synchronous engines behind asyncio: queues, threads, batches.

A worker owns its model and its threads. Both graphs use the same workers: in process
(:mod:`facegraph.local`) and, one per replica, in ``deployments/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegraph.batching import Batcher
from facegraph.config import MAX_PICTURES, DetectorTuning, EmbedderTuning, Settings
from facegraph.errors import InvalidRequest, ModelUnavailable
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.health import Health
from facegraph.load import Load
from facegraph.models.packs import find_pack
from facegraph.types import CROP_SIZE, ByteArray, Detection, FloatArray


@dataclass(frozen=True, slots=True)
class _Image:
    data: bytes
    max_faces: int
    crops: bool
    min_score: float | None
    attributes: bool


class DetectorWorker:
    """Decodes, detects and aligns; ``threads`` images at a time, one thread each.

    Where the network gains from batches, on a GPU, up to ``max_batch`` images are in work at once,
    and what they want to look at while it is busy runs together next
    (:class:`facegraph.models.shared.SharedEngine`). Each is a request of its own all the way: it
    waits for no other, and only its own error is its answer.
    """

    def __init__(
        self,
        settings: Settings,
        tuning: DetectorTuning,
        *,
        threads: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self._detector = Detector(
            find_pack(settings),
            tuning,
            engine=settings.engine,
            accelerator=settings.accelerator,
            threads=1,
            concurrency=threads,
            gpu_memory_bytes=gpu_memory_bytes,
            engines_dir=settings.engines_path,
        )
        self._tuning = tuning
        self._health = Health()
        self.check = self._health.check
        self._meter = Load(self._at_once)
        self.read_load = self._meter.read
        self._threads = threads
        self._pool = ThreadPoolExecutor(
            max(threads, MAX_PICTURES), thread_name_prefix="detect"
        )  # which starts a thread only where none is idle
        self._batcher = Batcher(
            self._run, max_batch=1, max_queue=tuning.max_queue, workers=self._at_once
        )

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        """See :meth:`facegraph.graph.Graph.detect`."""
        with self._meter.item():
            return await self._batcher.submit(
                _Image(image, max_faces, crops, min_score, attributes)
            )

    async def _run(self, batch: Sequence[_Image]) -> list[Detection]:
        (item,) = batch
        loop = asyncio.get_running_loop()
        with self._meter.run(1), self._health.watch():
            return [await loop.run_in_executor(self._pool, self._detect, item)]

    def _at_once(self) -> int:
        return max(self._threads, self._detector.at_once)

    def _detect(self, item: _Image) -> Detection:
        return self._detector.detect(
            item.data,
            max_faces=item.max_faces,
            crops=item.crops,
            min_score=item.min_score,
            attributes=item.attributes,
        )

    def warm_up(self) -> None:
        self._detector.warm_up()

    def reconfigure(self, tuning: DetectorTuning) -> None:
        self._tuning = tuning
        self._detector.reconfigure(tuning)
        self._batcher.max_queue = tuning.max_queue

    def describe(self) -> dict[str, Any]:
        return self._detector.describe() | {"tuning": self._tuning.model_dump()}

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()


class EmbedderWorker:
    """Embeds crops in batches formed across requests; one batch at a time.

    Where the model fails at one, its requests run again one by one: only those at fault get the
    error, and a batch too large for a GPU's memory costs nobody an answer.
    """

    def __init__(
        self,
        settings: Settings,
        tuning: EmbedderTuning,
        *,
        threads: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self._model = EmbeddingModel(
            find_pack(settings),
            engine=settings.engine,
            accelerator=settings.accelerator,
            threads=threads,
            concurrency=1,
            gpu_memory_bytes=gpu_memory_bytes,
            exact=settings.precision == "fp32",
            engines_dir=settings.engines_path,
        )
        self._tuning = tuning
        self._health = Health()
        self.check = self._health.check
        self._meter = Load()
        self.read_load = self._meter.read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._batcher = Batcher(
            self._run, max_batch=tuning.max_batch, max_queue=tuning.max_queue, size=len
        )

    async def embed(self, crops: ByteArray) -> FloatArray:
        """See :meth:`facegraph.graph.Graph.embed`."""
        if crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
            raise InvalidRequest(
                f"crops must be n×112×112×3 uint8, got {crops.shape} {crops.dtype}"
            )
        with self._meter.item(len(crops)):
            return await self._batcher.submit(crops)

    async def _run(self, batch: Sequence[ByteArray]) -> Sequence[FloatArray | ModelUnavailable]:
        try:
            return await self._together(batch)
        except ModelUnavailable as error:
            if len(batch) == 1:
                return [error]
        return [one for crops in batch for one in await self._run([crops])]

    async def _together(self, batch: Sequence[ByteArray]) -> list[FloatArray]:
        crops = batch[0] if len(batch) == 1 else np.concatenate(batch)
        loop = asyncio.get_running_loop()
        with self._meter.run(len(crops)), self._health.watch():
            embeddings = await loop.run_in_executor(self._pool, self._model.embed, crops)
        ends = np.cumsum([len(part) for part in batch])
        return np.split(embeddings, ends[:-1])

    def warm_up(self) -> None:
        self._model.warm_up()

    def reconfigure(self, tuning: EmbedderTuning) -> None:
        self._tuning = tuning
        self._batcher.max_batch = tuning.max_batch
        self._batcher.max_queue = tuning.max_queue

    def describe(self) -> dict[str, Any]:
        return self._model.describe() | {"tuning": self._tuning.model_dump()}

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()
