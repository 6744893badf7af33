"""The segmenter and the captioner: compressed bytes in, objects with masks or a sentence out."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from deployments.arguments import EngineResources
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph.config import CaptionerTuning, SegmenterTuning, Settings, parse
from facegraph.service import SEGMENTER
from facegraph.store.database import read_choice
from facegraph.types import Caption, CaptionOptions, Segmentation, SegmentOptions
from facegraph.vision.captioning import CaptionerWorker
from facegraph.vision.segmenting import SegmenterWorker


class Segmenter:
    """The model that each request names; without one, the configured model."""

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, resources: EngineResources
    ) -> None:
        self._worker = SegmenterWorker(
            settings,
            SegmenterTuning(),
            threads=resources.threads,
            gpu_memory_bytes=resources.gpu_memory_bytes,
        )
        chosen = await read_choice(settings, SEGMENTER, settings.segmenter)
        await asyncio.to_thread(self._worker.warm_up, chosen)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.reconfigure(parse(SegmenterTuning, user_config))

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None
    ) -> Segmentation:
        return await self._worker.segment(image, options, model)

    async def load(self, model: str) -> None:
        await self._worker.load(model)

    def check_health(self) -> None:
        self._worker.check()

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._worker.describe()}

    async def __del__(self) -> None:
        await self._worker.close()


class Captioner:
    """One model; answers nothing where the sentence is to be made of a segmentation."""

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: EngineResources) -> None:
        self._worker = CaptionerWorker(
            settings,
            CaptionerTuning(),
            threads=resources.threads,
            gpu_memory_bytes=resources.gpu_memory_bytes,
        )
        self._worker.warm_up()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.reconfigure(parse(CaptionerTuning, user_config))

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        return await self._worker.caption(image, options)

    def check_health(self) -> None:
        self._worker.check()

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._worker.describe()}

    async def __del__(self) -> None:
        await self._worker.close()


segmenter = serve.deployment(name="segmenter", max_ongoing_requests=64, max_queued_requests=256)(
    Segmenter
)
captioner = serve.deployment(name="captioner", max_ongoing_requests=64, max_queued_requests=256)(
    Captioner
)
