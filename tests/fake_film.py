"""Films of coloured squares, and a graph that takes each square for a face.

The colour says who it is, so that every decision is predictable; tests/model uses real faces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from facegraph.config import IngressTuning, settings_from
from facegraph.errors import CollectionNotFound, FacegraphError
from facegraph.graph import Query
from facegraph.images import decode
from facegraph.models.packs import find_pack
from facegraph.service import Service
from facegraph.store import Store
from facegraph.types import (
    CROP_SIZE,
    ByteArray,
    Caption,
    CaptionOptions,
    Detection,
    Faces,
    FloatArray,
    Match,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
)
from tests.fake_graph import embedding_of

SIDE = 24
"""Of a square, in pixels of a film of 160×90."""


def write_film(path: Path, frames: Iterable[ByteArray], fps: int = 10) -> Path:
    """A lossless film of (h, w, 3) uint8 RGB frames."""
    with av.open(str(path), "w", format="matroska") as container:
        stream: av.VideoStream | None = None
        for at, rgb in enumerate(frames):
            if stream is None:
                stream = container.add_stream("ffv1", rate=fps)
                stream.height, stream.width = rgb.shape[:2]
                stream.pix_fmt = "bgr0"
                stream.codec_context.time_base = Fraction(1, fps)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = at, Fraction(1, fps)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return path


def scene(*people: tuple[int, int, int], ground: int = 0) -> ByteArray:
    """One frame of 160×90: (person 1..5, left, top) on a grey ``ground`` up to 150."""
    rgb = np.full((90, 160, 3), ground, np.uint8)
    for person, left, top in people:
        rgb[top : top + SIDE, left : left + SIDE] = _colour(person)
    return rgb


def _colour(person: int) -> tuple[int, int, int]:
    return (250, 40 * person, 0)


class FakeFilmGraph:
    """Fake models and a fake matcher: subject ``n`` is person n, for those ``enrolled``."""

    def __init__(self, enrolled: Iterable[int], dimension: int) -> None:
        self.enrolled = tuple(enrolled)
        self.failures: list[FacegraphError] = []  # raised by the next calls of detect
        self.in_work = self.most_in_work = 0
        self.wait_for = 1  # pictures that must be in work together before the first is answered
        self._together = asyncio.Event()
        self._dimension = dimension

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        if self.failures:
            raise self.failures.pop()
        self.in_work += 1
        self.most_in_work = max(self.most_in_work, self.in_work)
        if self.in_work >= self.wait_for:
            self._together.set()
        await self._together.wait()
        self.in_work -= 1
        rgb = decode(image, max_pixels=10**7)
        people = [person for person in range(1, 6) if _mask(rgb, person).any()][:max_faces]
        boxes = np.array([_box(rgb, person) for person in people], np.float32).reshape(-1, 4)
        points = np.array([[0, 0], [2, 0], [1, 1], [0, 2], [2, 2]], np.float32)
        n = len(people)
        faces = Faces(
            boxes, np.tile(points, (n, 1, 1)).astype(np.float32), np.full(n, 0.9, np.float32)
        )
        pixels = np.zeros((n, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        pixels[:, ::2] = 255
        pixels[:, 0, 0, 0] = people
        return Detection(rgb.shape[1], rgb.shape[0], faces, pixels, n)

    async def embed(self, crops: ByteArray) -> FloatArray:
        rows = [embedding_of(int(crop[0, 0, 0]), self._dimension) for crop in crops]
        return np.array(rows, np.float32).reshape(-1, self._dimension)

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        if collection_id != "default":
            raise CollectionNotFound(f"no collection {collection_id!r}")
        found = tuple(self._found(probe)[: query.limit] for probe in probes)
        return SearchResult(len(self.enrolled), None, found)

    async def galleries(self, collection_id: str) -> Sequence[Mapping[str, Any]]:
        raise NotImplementedError

    def _found(self, probe: FloatArray) -> tuple[Match, ...]:
        matches = [
            Match(
                f"person-{n}",
                f"sample-{n}",
                float(embedding_of(n, self._dimension) @ probe),
                f"Person {n}",
                {"number": n},
            )
            for n in self.enrolled
        ]
        return tuple(sorted(matches, key=lambda match: -match.similarity))

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        raise NotImplementedError

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        raise NotImplementedError

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        raise NotImplementedError

    async def forget_recognizer(self, recognizer_id: str) -> None:
        raise NotImplementedError

    async def load_segmenter(self, model: str) -> None:
        raise NotImplementedError

    async def describe(self) -> dict[str, Any]:
        raise NotImplementedError


def film_service(*enrolled: int) -> tuple[Service, FakeFilmGraph]:
    """The service over a fake graph that knows these people; it has no store."""
    settings = settings_from({}, {})
    pack = find_pack(settings)
    graph = FakeFilmGraph(enrolled, pack.contract.dimension)
    return Service(graph, cast(Store, None), settings, IngressTuning(), pack), graph


def _mask(rgb: ByteArray, person: int) -> np.ndarray:
    return np.asarray((np.abs(rgb.astype(int) - _colour(person)) < 15).all(axis=2))


def _box(rgb: ByteArray, person: int) -> list[float]:
    rows, columns = np.nonzero(_mask(rgb, person))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
