"""A face pack's two networks in this process: all of a graph that enrolling takes."""

from __future__ import annotations

from facegraph.config import DetectorTuning, EmbedderTuning, Settings
from facegraph.types import ByteArray, Detection, FloatArray
from facegraph.workers import DetectorWorker, EmbedderWorker


class LocalFaces:
    """Implements :class:`facegraph.graph.FaceGraph`; ``threads`` pictures at a time."""

    def __init__(self, settings: Settings, *, threads: int = 1, embedder_threads: int = 1) -> None:
        self._detector = DetectorWorker(settings, DetectorTuning(), threads=threads)
        self._embedder = EmbedderWorker(settings, EmbedderTuning(), threads=embedder_threads)

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        return await self._detector.detect(
            image, max_faces=max_faces, crops=crops, min_score=min_score, attributes=attributes
        )

    async def embed(self, crops: ByteArray) -> FloatArray:
        return await self._embedder.embed(crops)

    async def close(self) -> None:
        await self._embedder.close()
        await self._detector.close()
