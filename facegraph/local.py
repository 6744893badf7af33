"""The whole graph in this process: for the command line and for tests."""

from __future__ import annotations

import asyncio
from typing import Any

from facegraph.config import DetectorTuning, EmbedderTuning, MatcherTuning, Settings
from facegraph.errors import ModelUnavailable
from facegraph.graph import Query
from facegraph.matcher import Matcher, Records
from facegraph.types import ByteArray, Detection, FloatArray, SearchResult
from facegraph.workers import DetectorWorker, EmbedderWorker


class LocalGraph:
    """Implements :class:`facegraph.graph.Graph` without Ray."""

    def __init__(self, settings: Settings, records: Records, *, threads: int = 1) -> None:
        self._detector = DetectorWorker(settings, DetectorTuning(), threads=threads)
        self._embedder = EmbedderWorker(settings, EmbedderTuning(), threads=threads)
        self._matcher = Matcher(records, MatcherTuning(), threads=threads)

    async def start(self) -> None:
        """Warms the models and loads the galleries."""
        await asyncio.to_thread(self._detector.warm_up)
        await asyncio.to_thread(self._embedder.warm_up)
        await self._matcher.start()

    async def close(self) -> None:
        await self._matcher.close()
        await self._embedder.close()
        await self._detector.close()

    async def detect(self, image: bytes, *, max_faces: int, crops: bool) -> Detection:
        return await self._detector.detect(image, max_faces=max_faces, crops=crops)

    async def embed(self, crops: ByteArray) -> FloatArray:
        return await self._embedder.embed(crops)

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def caption(self, image: bytes) -> dict[str, Any]:
        raise ModelUnavailable("this graph has no captioning model")

    async def segment(self, image: bytes) -> dict[str, Any]:
        raise ModelUnavailable("this graph has no segmentation model")

    async def describe(self) -> dict[str, Any]:
        return {
            "detector": self._detector.describe(),
            "embedder": self._embedder.describe(),
            "matcher": self._matcher.describe(),
        }
