"""A graph with a real matcher and fake models.

A picture is the text ``faces:3,5``, face ``n`` is person ``n``. That makes every decision
predictable; tests/model and tests/serve use real models.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facegraph.errors import FacegraphError, InvalidImage, InvalidRequest
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import (
    CROP_SIZE,
    Attributes,
    ByteArray,
    Candidate,
    Caption,
    CaptionOptions,
    Decision,
    Detection,
    Faces,
    FloatArray,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
)
from facegraph.vision.masks import encode
from facegraph.vision.selection import select


def picture(*people: int) -> bytes:
    """A fake picture of these people, the largest first."""
    return f"faces:{','.join(map(str, people))}".encode()


def variant(number: int, *people: int) -> bytes:
    """Another fake picture of these people, 1..255: each is a little unlike the person itself."""
    return f"variant:{number} faces:{','.join(map(str, people))}.".encode()


def photo(*people: int) -> bytes:
    """The same as a real PNG of 200×100 noise, which says in a text chunk who is in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    told = PngInfo()
    told.add_text("who", picture(*people).decode() + ".")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=told)
    return file.getvalue()


def embedding_of(person: int, dimension: int) -> FloatArray:
    """A unit vector of its own for each person; any two are nearly orthogonal."""
    vector = np.random.default_rng(person).normal(size=dimension)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def variant_of(person: int, number: int, dimension: int) -> FloatArray:
    """As far as a cosine of about 0.95 from the person; 0 is the person itself."""
    if not number:
        return embedding_of(person, dimension)
    noise = embedding_of(1000 * number + person, dimension)
    vector = embedding_of(person, dimension) + 0.3 * noise
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _fake_attributes(people: list[int]) -> Attributes:
    """Person n is 20 + n years old, male where n is odd, and looks ahead; no liveness.

    The quality is 0.8; that of person 13 and above 0.3, blurred.
    """
    ages = np.array([20.0 + person for person in people], np.float32)
    male = np.array([float(person % 2) for person in people], np.float32)
    n = len(people)
    parts = np.full((n, 4), 0.8, np.float32)
    parts[:, 0] = [0.3 if person >= 13 else 0.8 for person in people]
    return Attributes(
        ages,
        male,
        np.zeros((n, 3), np.float32),
        parts.min(axis=1),
        parts,
        quality_reasons=tuple(("blurred",) if person >= 13 else () for person in people),
    )


class FakeGraph:
    """Fake detector and embedder; a real matcher over a real store."""

    def __init__(self, matcher: Matcher, dimension: int) -> None:
        self._matcher = matcher
        self._dimension = dimension
        self.said: str | None = "a fake caption"
        self.failing: FacegraphError | None = None  # raised by both vision models
        self.asked: list[CaptionOptions | SegmentOptions] = []
        self.loaded: list[str] = []
        self.recognized: list[str] = []
        self.forgotten: list[str] = []
        self.shown: list[dict[str, Any]] | None = None  # as galleries, instead of the matcher's

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        found = re.fullmatch(rb"faces:([\d,]*)", image) or re.search(rb"faces:([\d,]*)\.", image)
        if found is None:
            raise InvalidImage("this is no picture")
        people = [int(text) for text in found[1].split(b",") if text]
        n = len(people)
        sizes = 10.0 + np.arange(n, 0, -1)
        left = 20.0 * np.arange(n)
        boxes = np.stack([left, np.zeros(n), left + sizes, sizes], 1).astype(np.float32)
        scores = np.full(n, 0.9, np.float32)
        faces = Faces(boxes, np.zeros((n, 5, 2), np.float32), scores).take(slice(0, max_faces))
        kept = len(faces) if crops else 0
        pixels = np.zeros((kept, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        pixels[:, 0, 0, 0] = people[:kept]
        if (number := re.match(rb"variant:(\d+)", image)) is not None:
            pixels[:, 0, 0, 1] = int(number[1])
        told = _fake_attributes(people[: len(faces)]) if attributes else None
        return Detection(200, 100, faces, pixels, n, told)

    async def embed(self, crops: ByteArray) -> FloatArray:
        numbers = [(int(crop[0, 0, 0]), int(crop[0, 0, 1])) for crop in crops]
        rows = [variant_of(who, which, self._dimension) for who, which in numbers]
        return np.array(rows, np.float32).reshape(-1, self._dimension)

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def galleries(self, collection_id: str) -> Sequence[Mapping[str, Any]]:
        if self.shown is not None:
            return self.shown
        gallery = self._matcher.describe_gallery(collection_id)
        return [] if gallery is None else [{"shard": 0, **gallery}]

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        self.asked.append(options)
        if self.failing is not None:
            raise self.failing
        await self.detect(image, max_faces=1, crops=False)
        return None if self.said is None else Caption(self.said, "fake-captioner")

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        """A person of the image's whole height around each face, a cup right of all."""
        self.asked.append(options)
        if self.failing is not None:
            raise self.failing
        n = len((await self.detect(image, max_faces=100, crops=False)).faces)
        boxes = [[20.0 * i, 0.0, 20.0 * i + 18, 100.0] for i in range(n)] + [[180.0, 80, 190, 90]]
        scores = np.linspace(0.9, 0.5, n + 1, dtype=np.float32)
        masks = tuple(
            encode(np.ones((int(b - t), int(r - x)), np.uint8), int(x), int(t), 200, 100)
            for x, t, r, b in boxes
        )
        labels = ("person",) * n + ("cup",)
        seen = Segmentation(
            200, 100, labels, scores, np.array(boxes, np.float32), masks, model or "fake-segmenter"
        )
        return select(seen, options)

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        """Person n is known to every recognizer as ``person-n``, and nobody above 9."""
        self.recognized.append(recognizer_id)
        told = []
        for probe in probes:
            known = [float(probe @ embedding_of(n, self._dimension)) for n in range(10)]
            best = int(np.argmax(known))
            decision: Decision = "match" if known[best] >= threshold else "unknown"
            candidate = Candidate(f"person-{best}", 0.9, known[best])
            told.append(Recognized(decision, known[best], (candidate,)))
        return told

    async def forget_recognizer(self, recognizer_id: str) -> None:
        self.forgotten.append(recognizer_id)

    async def load_segmenter(self, model: str) -> None:
        if not model.startswith("fake-"):
            raise InvalidRequest(f"there is no segmenter {model!r}")
        self.loaded.append(model)

    async def describe(self) -> dict[str, Any]:
        return {
            "detector": {},
            "embedder": {},
            "matcher": self._matcher.describe(),
            "segmenter": {"loaded": [{"name": "fake-segmenter"}]},
            "captioner": {"loaded": []},
        }


def image(*people: int) -> dict[str, Any]:
    """Request arguments that send one picture of these people."""
    return {"content": picture(*people), "headers": {"content-type": "image/png"}}


def images(*pictures: tuple[int, ...]) -> dict[str, Any]:
    """Request arguments that send several pictures."""
    files = [("images", ("p.png", picture(*people), "image/png")) for people in pictures]
    return {"files": files}
