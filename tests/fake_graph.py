"""A graph with a real matcher and two fake models.

A picture is the text ``faces:3,5``, face ``n`` is person ``n``. That makes every decision
predictable; tests/model and tests/serve use real models.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from facegraph.errors import InvalidImage, ModelUnavailable
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import CROP_SIZE, ByteArray, Detection, Faces, FloatArray, SearchResult


def picture(*people: int) -> bytes:
    """A fake picture of these people, the largest first."""
    return f"faces:{','.join(map(str, people))}".encode()


def embedding_of(person: int, dimension: int) -> FloatArray:
    """A unit vector of its own for each person; any two are nearly orthogonal."""
    vector = np.random.default_rng(person).normal(size=dimension)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class FakeGraph:
    """Fake detector and embedder; a real matcher over a real store."""

    def __init__(self, matcher: Matcher, dimension: int) -> None:
        self._matcher = matcher
        self._dimension = dimension

    async def detect(self, image: bytes, *, max_faces: int, crops: bool) -> Detection:
        found = re.fullmatch(rb"faces:([\d,]*)", image)
        if found is None:
            raise InvalidImage("this is no picture")
        people = [int(text) for text in found[1].split(b",") if text]
        n = len(people)
        sizes = 10.0 + np.arange(n, 0, -1)
        boxes = np.stack([np.zeros(n), np.zeros(n), sizes, sizes], 1).astype(np.float32)
        scores = np.full(n, 0.9, np.float32)
        faces = Faces(boxes, np.zeros((n, 5, 2), np.float32), scores).take(slice(0, max_faces))
        kept = len(faces) if crops else 0
        pixels = np.zeros((kept, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        pixels[:, 0, 0, 0] = people[:kept]
        return Detection(200, 100, faces, pixels, n)

    async def embed(self, crops: ByteArray) -> FloatArray:
        rows = [embedding_of(int(crop[0, 0, 0]), self._dimension) for crop in crops]
        return np.array(rows, np.float32).reshape(-1, self._dimension)

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def caption(self, image: bytes) -> dict[str, Any]:
        raise ModelUnavailable("no captioning model here")

    async def segment(self, image: bytes) -> dict[str, Any]:
        raise ModelUnavailable("no segmentation model here")

    async def describe(self) -> dict[str, Any]:
        return {"detector": {}, "embedder": {}, "matcher": self._matcher.describe()}


def image(*people: int) -> dict[str, Any]:
    """Request arguments that send one picture of these people."""
    return {"content": picture(*people), "headers": {"content-type": "image/png"}}


def images(*pictures: tuple[int, ...]) -> dict[str, Any]:
    """Request arguments that send several pictures."""
    files = [("images", ("p.png", picture(*people), "image/png")) for people in pictures]
    return {"files": files}
