"""The segmenter and the captioner: compressed bytes in, objects with masks or a sentence out."""

from __future__ import annotations

import asyncio

from ray import serve

from deployments.arguments import EngineResources
from deployments.engine import Engine
from deployments.startup import DID_NOT_START, reported
from facegraph.config import CaptionerTuning, SegmenterTuning, Settings
from facegraph.service import SEGMENTER
from facegraph.store.database import read_choice
from facegraph.types import Caption, CaptionOptions, Segmentation, SegmentOptions
from facegraph.vision.captioning import CaptionerWorker
from facegraph.vision.segmenting import SegmenterWorker


class Segmenter(Engine[SegmenterWorker]):
    """The model that each request names; without one, the configured model."""

    tuning = SegmenterTuning

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, resources: EngineResources
    ) -> None:
        self._open(SegmenterWorker, settings, resources)
        chosen = await read_choice(settings, SEGMENTER, settings.segmenter)
        await asyncio.to_thread(self._worker.warm_up, chosen)

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None
    ) -> Segmentation:
        return await self._worker.segment(image, options, model)

    async def load(self, model: str) -> None:
        await self._worker.load(model)


class Captioner(Engine[CaptionerWorker]):
    """One model; answers nothing where the sentence is to be made of a segmentation."""

    tuning = CaptionerTuning

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._open(CaptionerWorker, settings, resources)
        self._worker.warm_up()

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        return await self._worker.caption(image, options)


segmenter = serve.deployment(name="segmenter", max_ongoing_requests=64, max_queued_requests=256)(
    Segmenter
)
captioner = serve.deployment(name="captioner", max_ongoing_requests=64, max_queued_requests=256)(
    Captioner
)
