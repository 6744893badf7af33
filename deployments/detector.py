"""The detector: compressed bytes in, faces and aligned crops out."""

from __future__ import annotations

from collections.abc import Sequence

from ray import serve

from deployments.arguments import EngineResources
from deployments.calls import outcomes
from deployments.engine import Engine
from deployments.startup import DID_NOT_START, reported
from facegraph.config import DetectorTuning, Settings
from facegraph.errors import FacegraphError
from facegraph.types import Detection
from facegraph.workers import DetectorWorker


class Detector(Engine[DetectorWorker]):
    """One model; ``threads`` images at a time, the rest wait here."""

    tuning = DetectorTuning

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._open(DetectorWorker, settings, resources)
        self._worker.warm_up()

    async def detect(
        self, requests: Sequence[tuple[bytes, int, bool, float | None, bool]]
    ) -> list[Detection | FacegraphError]:
        """image, max_faces, crops, min_score, attributes: :meth:`DetectorWorker.detect`."""
        return await outcomes(self._detect(*request) for request in requests)

    async def _detect(
        self, image: bytes, max_faces: int, crops: bool, min_score: float | None, attributes: bool
    ) -> Detection:
        return await self._worker.detect(
            image, max_faces=max_faces, crops=crops, min_score=min_score, attributes=attributes
        )


detector = serve.deployment(name="detector", max_ongoing_requests=64, max_queued_requests=512)(
    Detector
)
