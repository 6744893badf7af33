"""The embedder: aligned crops in, embeddings out, batched across requests."""

from __future__ import annotations

from ray import serve

from deployments.arguments import EngineResources
from deployments.engine import Engine
from deployments.startup import DID_NOT_START, reported
from facegraph.config import EmbedderTuning, Settings
from facegraph.types import ByteArray, FloatArray
from facegraph.workers import EmbedderWorker


class Embedder(Engine[EmbedderWorker]):
    """One model; what waits while it runs becomes its next batch."""

    tuning = EmbedderTuning

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._open(EmbedderWorker, settings, resources)
        self._worker.warm_up()

    async def embed(self, crops: ByteArray) -> FloatArray:
        return await self._worker.embed(crops)


embedder = serve.deployment(name="embedder", max_ongoing_requests=256, max_queued_requests=512)(
    Embedder
)
