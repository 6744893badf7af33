"""The embedder: aligned crops in, embeddings out, batched across requests."""

from __future__ import annotations

from collections.abc import Sequence

from ray import serve

from deployments.arguments import EngineResources
from deployments.calls import outcomes
from deployments.engine import Engine
from deployments.startup import DID_NOT_START, reported
from facegraph.config import EmbedderTuning, Settings
from facegraph.errors import FacegraphError, ModelUnavailable
from facegraph.models.packs import find_pack
from facegraph.types import ByteArray, FloatArray
from facegraph.workers import EmbedderWorker


class Embedder(Engine[EmbedderWorker]):
    """One model; what waits while it runs becomes its next batch."""

    tuning = EmbedderTuning

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._contract_id = find_pack(settings).contract.id
        self._open(EmbedderWorker, settings, resources)
        self._worker.warm_up()

    async def embed(
        self, requests: Sequence[tuple[ByteArray, str]]
    ) -> list[FloatArray | FacegraphError]:
        """crops, and the contract under which the embeddings will be looked for or kept."""
        return await outcomes(self._embed(*request) for request in requests)

    async def _embed(self, crops: ByteArray, contract_id: str) -> FloatArray:
        """Refuses who takes it for another model.

        While the face pack changes, callers and embedders of both packs run; an embedding under
        the wrong contract would be compared with strangers to it.
        """
        if contract_id != self._contract_id:
            raise ModelUnavailable("the face pack is being changed; try again in a few seconds")
        return await self._worker.embed(crops)


embedder = serve.deployment(name="embedder", max_ongoing_requests=256, max_queued_requests=512)(
    Embedder
)
