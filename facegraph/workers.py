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
from facegraph.config import DetectorTuning, EmbedderTuning, Settings
from facegraph.errors import InvalidRequest
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.health import Health
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
    """Decodes, detects and aligns; ``threads`` images at a time, one thread each."""

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
        )
        self._tuning = tuning
        self._health = Health()
        self.check = self._health.check
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="detect")
        self._batcher = Batcher(self._run, max_batch=1, max_queue=tuning.max_queue, workers=threads)

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
        return await self._batcher.submit(_Image(image, max_faces, crops, min_score, attributes))

    async def _run(self, batch: Sequence[_Image]) -> list[Detection]:
        (item,) = batch
        loop = asyncio.get_running_loop()
        with self._health.watch():
            return [await loop.run_in_executor(self._pool, self._detect, item)]

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
    """Embeds crops in batches formed across requests; one batch at a time."""

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
        )
        self._tuning = tuning
        self._health = Health()
        self.check = self._health.check
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
        return await self._batcher.submit(crops)

    async def _run(self, batch: Sequence[ByteArray]) -> list[FloatArray]:
        crops = batch[0] if len(batch) == 1 else np.concatenate(batch)
        loop = asyncio.get_running_loop()
        with self._health.watch():
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
