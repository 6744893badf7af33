"""The detector: compressed bytes in, faces and aligned crops out."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.arguments import EngineResources
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph.config import DetectorTuning, Settings, parse
from facegraph.types import Detection
from facegraph.workers import DetectorWorker


class Detector:
    """One model; ``threads`` images at a time, the rest wait here."""

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._worker = DetectorWorker(
            settings,
            DetectorTuning(),
            threads=resources.threads,
            gpu_memory_bytes=resources.gpu_memory_bytes,
        )
        self._worker.warm_up()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.reconfigure(parse(DetectorTuning, user_config))

    async def detect(
        self, image: bytes, max_faces: int, crops: bool, min_score: float | None, attributes: bool
    ) -> Detection:
        return await self._worker.detect(
            image, max_faces=max_faces, crops=crops, min_score=min_score, attributes=attributes
        )

    def check_health(self) -> None:
        self._worker.check()

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._worker.describe()}

    async def __del__(self) -> None:
        await self._worker.close()


detector = serve.deployment(name="detector", max_ongoing_requests=64, max_queued_requests=512)(
    Detector
)
