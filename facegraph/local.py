"""The whole graph in this process: for the command line and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from facegraph.config import (
    CaptionerTuning,
    MatcherTuning,
    SegmenterTuning,
    Settings,
)
from facegraph.errors import RecognizerNotFound
from facegraph.graph import Query
from facegraph.local_faces import LocalFaces
from facegraph.matcher import Matcher, Records
from facegraph.recognizers.predicting import RecognizerWorker
from facegraph.types import (
    Caption,
    CaptionOptions,
    FloatArray,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
)
from facegraph.vision.captioning import CaptionerWorker
from facegraph.vision.segmenting import SegmenterWorker


async def no_model(recognizer_id: str) -> bytes:
    raise RecognizerNotFound(f"no recognizer is kept here, so neither is {recognizer_id!r}")


class LocalGraph(LocalFaces):
    """Implements :class:`facegraph.graph.Graph` without Ray.

    models: the file of a recognizer; ``store.recognizers.model``
    """

    def __init__(
        self,
        settings: Settings,
        records: Records,
        *,
        threads: int = 1,
        models: Callable[[str], Awaitable[bytes]] = no_model,
    ) -> None:
        super().__init__(settings, threads=threads, embedder_threads=threads)
        self._segmenter = SegmenterWorker(settings, SegmenterTuning(), threads=threads)
        self._captioner = CaptionerWorker(settings, CaptionerTuning(), threads=threads)
        self._recognizer = RecognizerWorker(
            models, max_models=settings.max_loaded_recognizers, threads=threads
        )
        self._matcher = Matcher(
            records, MatcherTuning(), threads=threads, storage=settings.gallery_storage
        )

    async def start(self) -> None:
        """Warms the models and loads the galleries."""
        await asyncio.to_thread(self._detector.warm_up)
        await asyncio.to_thread(self._embedder.warm_up)
        await asyncio.to_thread(self._segmenter.warm_up)
        await asyncio.to_thread(self._captioner.warm_up)
        await self._matcher.start()

    async def close(self) -> None:
        await self._matcher.close()
        await self._recognizer.close()
        await self._captioner.close()
        await self._segmenter.close()
        await super().close()

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def galleries(self, collection_id: str) -> Sequence[Mapping[str, Any]]:
        gallery = self._matcher.describe_gallery(collection_id)
        return [] if gallery is None else [{"shard": 0, **gallery}]

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        return await self._captioner.caption(image, options)

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        return await self._segmenter.segment(image, options, model)

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        return await self._recognizer.recognize(recognizer_id, probes, threshold, margin)

    async def forget_recognizer(self, recognizer_id: str) -> None:
        self._recognizer.forget(recognizer_id)

    async def load_segmenter(self, model: str) -> None:
        await self._segmenter.load(model)

    async def describe(self) -> dict[str, Any]:
        return {
            "detector": self._detector.describe(),
            "embedder": self._embedder.describe(),
            "matcher": self._matcher.describe(),
            "segmenter": self._segmenter.describe(),
            "captioner": self._captioner.describe(),
            "recognizer": self._recognizer.describe(),
        }
