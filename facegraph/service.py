"""What the service does with pictures, once for all its dialects.

Every operation is a few calls of the graph and of the store; ``api/`` only translates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np

from facegraph.config import IngressTuning, Settings
from facegraph.decisions import decide, similarity
from facegraph.errors import (
    ContractMismatch,
    FacegraphError,
    FaceNotFound,
    InvalidImage,
    InvalidRequest,
    LowQuality,
    Overloaded,
    SeveralFaces,
    StoreUnavailable,
    Unprocessable,
)
from facegraph.graph import FaceGraph, Graph, Query
from facegraph.models.packs import FacePack
from facegraph.offload import Offload
from facegraph.store import Store
from facegraph.timing import stage
from facegraph.types import (
    Caption,
    CaptionOptions,
    Consistency,
    Contract,
    Decision,
    Detection,
    FloatArray,
    Match,
    NewSample,
    Segmentation,
    SegmentOptions,
)
from facegraph.vision.inventory import sentence
from facegraph.vision.selection import select

log = logging.getLogger(__name__)

T = TypeVar("T")

INVENTORY = SegmentOptions(top_k=50, score_threshold=0.5)
"""What a sentence about the objects of a picture is made of."""

SEGMENTER = "segmenter"
CHOICE_TIMEOUT_S = 1.0

FacePolicy = Literal["only", "largest"]


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A detection with the embedding of each of its faces: (n, d) float32, L2-normalised."""

    detection: Detection
    embeddings: FloatArray


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why picture ``index`` of a request gave no sample."""

    index: int
    error: FacegraphError

    def told(self) -> dict[str, Any]:
        """What the client is told of it."""
        told = {"index": self.index, "code": self.error.code, "detail": self.error.detail}
        if isinstance(self.error, LowQuality):
            told["reasons"] = [error["reason"] for error in self.error.errors]
        return told


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    decision: Decision
    similarity: float
    threshold: float
    source: Detection
    target: Detection


@dataclass(frozen=True, slots=True)
class Identified:
    """The decision for one probe with its subjects, best first."""

    decision: Decision
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Identification:
    """``probes[i]`` answers face or embedding i; all at one ``version`` of the gallery.

    ``missing_shards`` of all ``shards`` were not searched; without them nothing is decided.
    """

    version: int
    threshold: float
    probes: tuple[Identified, ...]
    missing_shards: tuple[int, ...] = ()
    shards: int = 1


@dataclass(slots=True)
class Service:
    """The graph, the store and the limits in force."""

    graph: Graph
    store: Store
    settings: Settings
    tuning: IngressTuning
    pack: FacePack
    pixels: Offload = field(default_factory=Offload, init=False)
    _in_vision: int = field(default=0, init=False)
    _chosen: str | None = field(default=None, init=False)

    @property
    def contract(self) -> Contract:
        return self.pack.contract

    async def detect(
        self,
        image: bytes,
        max_faces: int | None = None,
        *,
        crops: bool = False,
        attributes: bool = False,
    ) -> Detection:
        with stage("detect"):
            return await self.graph.detect(
                image, max_faces=self._faces(max_faces), crops=crops, attributes=attributes
            )

    async def embed(
        self, image: bytes, max_faces: int | None = None, *, attributes: bool = False
    ) -> Embedded:
        """The largest ``max_faces`` faces of ``image`` with their embeddings."""
        detection = await self.detect(image, max_faces, crops=True, attributes=attributes)
        if not len(detection.faces):
            return Embedded(detection, np.zeros((0, self.contract.dimension), np.float32))
        with stage("embed"):
            return Embedded(detection, await self.graph.embed(detection.crops))

    async def verify(
        self, source: bytes, target: bytes, threshold: float | None = None
    ) -> Verification:
        """1:1 between the largest faces. FaceNotFound names the picture without one."""
        one, other = await _all(self._largest(source, "source"), self._largest(target, "target"))
        score = similarity(one.embeddings[0], other.embeddings[0])
        bar = self.threshold(threshold, None)
        decision: Decision = "match" if score >= bar else "unknown"
        return Verification(decision, score, bar, one.detection, other.detection)

    async def identify(
        self,
        collection_id: str,
        probes: FloatArray,
        *,
        limit: int | None = None,
        threshold: float | None = None,
        include_below: bool = False,
        consistency: Consistency = "strong",
        partial: bool = False,
        exact: bool = False,
    ) -> Identification:
        """1:N for each row of ``probes`` (n, d) float32, L2-normalised.

        The second best subject is always looked at, so that a decision does not depend on
        ``limit``. A partial answer decides nothing: whoever was not searched may be the one, or
        come as close. So every probe is ``ambiguous`` then.

        exact: also where the collection is searched approximately: whoever is missed is lost
        """
        limit = self.tuning.search_limit if limit is None else limit
        query = Query(max(limit, 2), consistency, partial, exact)
        with stage("match"):
            found = await self.graph.match(collection_id, self.contract.id, probes, query)
        bar, margin = self.threshold(threshold, found.threshold), self.tuning.margin
        return Identification(
            found.version,
            bar,
            tuple(
                Identified(
                    "ambiguous" if found.missing_shards else decide(matches, bar, margin),
                    tuple(m for m in matches[:limit] if include_below or m.similarity >= bar),
                )
                for matches in found.matches
            ),
            found.missing_shards,
            found.shards,
        )

    async def samples(
        self,
        images: Sequence[bytes],
        face: FacePolicy = "only",
        min_quality: float | None = None,
    ) -> tuple[list[NewSample], list[Rejected]]:
        """A sample from each picture, or the reason there is none.

        min_quality: a face of less is LowQuality; None takes any and measures nothing

        Raises when no picture gave one: a single picture's own error, else Unprocessable with
        every reason in ``errors``. A failing part of the service fails the whole request.
        """
        outcomes = await _all(*(sample(self.graph, image, face, min_quality) for image in images))
        rejected = [Rejected(i, o) for i, o in enumerate(outcomes) if isinstance(o, FacegraphError)]
        if images and len(rejected) == len(images):
            _raise(rejected)
        return [o for o in outcomes if isinstance(o, NewSample)], rejected

    def probes(self, embeddings: Sequence[Sequence[float]], contract_id: str) -> FloatArray:
        """Client-made embeddings as (n, d) float32, normalised; ContractMismatch when foreign."""
        if contract_id != self.contract.id:
            raise ContractMismatch(
                f"embeddings of contract {contract_id!r} cannot be compared: "
                f"the active contract is {self.contract.id!r}"
            )
        widths = {len(row) for row in embeddings}
        if widths != {self.contract.dimension}:
            raise InvalidRequest(
                f"an embedding of this contract has {self.contract.dimension} numbers, "
                f"got {', '.join(map(str, sorted(widths)))}"
            )
        rows = np.asarray(embeddings, np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms < 1e-6).any():
            raise InvalidRequest("an embedding must be finite and must not be all zeros")
        normalised: FloatArray = (rows / norms).astype(np.float32)
        return normalised

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption:
        """One sentence, by the captioner or, without one, of what the segmenter found."""
        caption = await self.own_caption(image, options)
        if caption is None:
            caption = await self.inventory(await self.segment(image, INVENTORY))
        return caption

    async def own_caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        """The captioner's sentence; None where it has no model of its own."""
        with self._vision(), stage("caption"):
            return await self.graph.caption(image, options)

    async def inventory(self, segmentation: Segmentation) -> Caption:
        """The sentence of a segmentation made with ``INVENTORY`` or wider options."""
        seen = select(segmentation, INVENTORY)
        return Caption(await self.pixels.run(sentence, seen), "inventory")

    async def segment(self, image: bytes, options: SegmentOptions) -> Segmentation:
        """Instance masks by the segmenter in force when the request came."""
        with self._vision(), stage("segment"):
            return await self.graph.segment(image, options, await self._segmenter())

    @contextmanager
    def _vision(self) -> Iterator[None]:
        """Counts a caption or segmentation in work; Overloaded when there are too many."""
        if self._in_vision >= self.tuning.max_vision_requests:
            raise Overloaded(f"{self._in_vision} captions and segmentations are in work")
        self._in_vision += 1
        try:
            yield
        finally:
            self._in_vision -= 1

    async def use_segmenter(self, model: str) -> None:
        """Switches every replica to ``model``, also those that start later, or none.

        It lasts until the configuration names another segmenter. InvalidRequest for an unknown
        name, ModelUnavailable where a replica cannot load it.
        """
        await self.graph.load_segmenter(model)
        await self.store.choose(SEGMENTER, model, self.settings.segmenter)

    async def _segmenter(self) -> str | None:
        """What was switched to; None is what the configuration names.

        Asked of the database each time, so that no replica goes on with another; while that
        does not answer, masks need not stop: the last answer serves.
        """
        try:
            async with asyncio.timeout(CHOICE_TIMEOUT_S):
                self._chosen = await self.store.choice(SEGMENTER, self.settings.segmenter)
        except (StoreUnavailable, TimeoutError):
            log.warning("the database does not answer; the segmenter stays as it was")
        return self._chosen

    def threshold(self, asked: float | None, collection: float | None) -> float:
        """The threshold in force: asked for, the collection's, the operator's, the pack's."""
        for value in (asked, collection, self.tuning.threshold):
            if value is not None:
                return value
        return self.pack.threshold

    def _faces(self, max_faces: int | None) -> int:
        return min(max_faces or self.tuning.max_faces, self.tuning.max_faces)

    async def _largest(self, image: bytes, name: str) -> Embedded:
        embedded = await self.embed(image, 1)
        if not len(embedded.detection.faces):
            raise FaceNotFound(f"no face in image {name!r}")
        return embedded


async def sample(
    graph: FaceGraph, image: bytes, face: FacePolicy, min_quality: float | None
) -> NewSample | FacegraphError:
    """A sample from one picture, or the picture's own fault; raises what is no fault of its."""
    try:
        with stage("detect"):
            detection = await graph.detect(
                image, max_faces=1, crops=True, attributes=min_quality is not None
            )
        if not detection.found:
            raise FaceNotFound("no face in the image")
        if detection.found > 1 and face == "only":
            raise SeveralFaces(
                f"{detection.found} faces in the image; send one, or ask for face=largest"
            )
        if min_quality is not None:
            _require_quality(detection, min_quality)
        with stage("embed"):
            (embedding,) = await graph.embed(detection.crops)
    except FacegraphError as error:
        if error.status >= 500:  # no fault of the picture
            raise
        return error
    x1, y1, x2, y2 = detection.faces.boxes[0].tolist()
    return NewSample(
        embedding=embedding,
        bbox=(x1, y1, x2, y2),
        detection_score=float(detection.faces.detection_scores[0]),
        crop=detection.crops[0],
    )


def _require_quality(detection: Detection, least: float) -> None:
    """LowQuality, with a reason in each of its ``errors``, where the first face has less."""
    told = detection.attributes
    assert told is not None
    assert told.qualities is not None
    quality = float(told.qualities[0])
    if quality < least:
        reasons = told.quality_reasons[0] if told.quality_reasons else ()
        why = f": {', '.join(reasons)}" if reasons else ""
        raise LowQuality(
            f"the face's quality is {quality:.2f}, {least:g} is asked for{why}",
            tuple({"reason": reason} for reason in reasons),
        )


async def _all(*parts: Coroutine[Any, Any, T]) -> list[T]:
    """Every part's result, in order; the first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _raise(rejected: Sequence[Rejected]) -> NoReturn:
    if len(rejected) == 1:
        raise rejected[0].error
    errors = tuple(r.told() for r in rejected)
    first = type(rejected[0].error)
    kind = first if issubclass(first, Unprocessable) else InvalidImage
    raise kind("no picture could be enrolled", errors)
