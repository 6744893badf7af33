"""The embedder: aligned crops in, embeddings out, batched across requests."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.arguments import EngineResources
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph.config import EmbedderTuning, Settings, parse
from facegraph.types import ByteArray, FloatArray
from facegraph.workers import EmbedderWorker


class Embedder:
    """One model; what waits while it runs becomes its next batch."""

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._worker = EmbedderWorker(
            settings,
            EmbedderTuning(),
            threads=resources.threads,
            gpu_memory_bytes=resources.gpu_memory_bytes,
        )
        self._worker.warm_up()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.reconfigure(parse(EmbedderTuning, user_config))

    async def embed(self, crops: ByteArray) -> FloatArray:
        return await self._worker.embed(crops)

    def check_health(self) -> None:
        self._worker.check()

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._worker.describe()}

    async def __del__(self) -> None:
        await self._worker.close()


embedder = serve.deployment(name="embedder", max_ongoing_requests=256, max_queued_requests=512)(
    Embedder
)
