"""Which parts of a picture to make unrecognisable: all faces or people, or all but some subjects.

It fails closed: whoever is not certainly a subject to keep is concealed, and a picture with more
faces or objects than are looked at is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facegraph.errors import FacegraphError, Unprocessable
from facegraph.redaction import (
    FaceRegion,
    MaskRegion,
    Method,
    OutputFormat,
    Redacted,
    Region,
    redact,
)
from facegraph.service import Service
from facegraph.timing import stage
from facegraph.types import Detection, Segmentation, SegmentOptions
from facegraph.vision.people import PERSON, persons_of

MOST_FACES = 1000
MOST_OBJECTS = 100

LEAST_SCORE = 0.3
"""Faces are looked for harder than elsewhere: a false one costs a spot, a missed one everything."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What to conceal and how.

    labels: of the objects, where ``target`` is ``masks``
    keep: subjects of the collection ``collection_id`` who stay to be seen
    method, cells, padding, output: see :func:`facegraph.redaction.redact`
    """

    target: Literal["faces", "masks"] = "faces"
    labels: frozenset[str] = frozenset({PERSON})
    score_threshold: float = 0.15
    keep: frozenset[str] = frozenset()
    collection_id: str = "default"
    threshold: float | None = None
    method: Method = "blur"
    cells: int = 6
    padding: float = 0.25
    output: OutputFormat | None = None


@dataclass(frozen=True, slots=True)
class Concealed:
    picture: Redacted
    concealed: int
    kept: int


async def conceal(service: Service, image: bytes, rule: Rule) -> Concealed:
    """The picture with everybody concealed but those to keep.

    Raises SubjectNotFound for a subject to keep that does not exist, Unprocessable for a picture
    with too much in it, and what detecting, searching and segmenting raise.
    """
    for subject_id in sorted(rule.keep):  # a misspelt one must not go unnoticed
        await service.store.get_subject(rule.collection_id, subject_id)
    plan = await (_faces_plan if rule.target == "faces" else _masks_plan)(service, image, rule)
    picture = await service.pixels.run(
        redact,
        image,
        plan.regions,
        max_pixels=plan.size[0] * plan.size[1],
        method=rule.method,
        cells=rule.cells,
        padding=rule.padding,
        output=rule.output,
    )
    if (picture.width, picture.height) != plan.size:
        raise FacegraphError("the picture has another size than what was looked for in it")
    return Concealed(picture, plan.concealed, plan.kept)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to draw over a picture of this size, and what that amounts to."""

    size: tuple[int, int]
    regions: list[Region]
    concealed: int
    kept: int


async def _faces_plan(service: Service, image: bytes, rule: Rule) -> _Plan:
    detection = await _faces(service, image, crops=bool(rule.keep))
    kept = await _kept(service, detection, rule)
    regions = _boxes(detection, kept)
    return _Plan((detection.width, detection.height), regions, len(regions), len(kept))


async def _masks_plan(service: Service, image: bytes, rule: Rule) -> _Plan:
    """The objects, but for the person masks that hold faces to keep and no others.

    Where people are concealed, so is every face not to be kept: it may lie in no mask, or partly
    in that of somebody to be kept.
    """
    segmentation = await _objects(service, image, rule)
    size = segmentation.width, segmentation.height
    if PERSON not in rule.labels:
        regions = _masks(segmentation, rule, set())
        return _Plan(size, regions, len(regions), 0)
    detection = await _faces(service, image, crops=bool(rule.keep))
    known = await _kept(service, detection, rule)
    persons = await service.pixels.run(persons_of, detection.faces, segmentation)
    others = {person for face, person in enumerate(persons) if face not in known}
    seen = {face for face in known if persons[face] not in others or persons[face] is None}
    kept = {person for face in seen if (person := persons[face]) is not None}
    regions = _masks(segmentation, rule, kept)
    alone = sum(person is None for face, person in enumerate(persons) if face not in known)
    return _Plan(size, regions + _boxes(detection, known), len(regions) + alone, len(seen))


async def _faces(service: Service, image: bytes, *, crops: bool) -> Detection:
    with stage("detect"):
        detection = await service.graph.detect(
            image, max_faces=MOST_FACES, crops=crops, min_score=LEAST_SCORE
        )
    if detection.found > MOST_FACES:
        raise Unprocessable(
            f"{detection.found} faces in the image, at most {MOST_FACES} can be concealed"
        )
    return detection


async def _kept(service: Service, detection: Detection, rule: Rule) -> set[int]:
    """The faces that match a subject to keep, beyond doubt."""
    if not rule.keep or not len(detection.faces):
        return set()
    with stage("embed"):
        embeddings = await service.graph.embed(detection.crops)
    found = await service.identify(
        rule.collection_id, embeddings, limit=1, threshold=rule.threshold, exact=True
    )
    return {
        row
        for row, probe in enumerate(found.probes)
        if probe.decision == "match" and probe.matches[0].subject_id in rule.keep
    }


async def _objects(service: Service, image: bytes, rule: Rule) -> Segmentation:
    options = SegmentOptions(MOST_OBJECTS, rule.score_threshold)
    segmentation = await service.segment(image, options)
    if len(segmentation) >= MOST_OBJECTS:
        raise Unprocessable(f"{MOST_OBJECTS} objects in the image or more: too many to be sure")
    return segmentation


def _boxes(detection: Detection, kept: set[int]) -> list[Region]:
    boxes = detection.faces.boxes.tolist()
    return [FaceRegion(tuple(box)) for row, box in enumerate(boxes) if row not in kept]


def _masks(segmentation: Segmentation, rule: Rule, kept: set[int]) -> list[Region]:
    rows = zip(segmentation.labels, segmentation.boxes.tolist(), segmentation.masks, strict=True)
    return [
        MaskRegion(tuple(box), mask)
        for row, (label, box, mask) in enumerate(rows)
        if label in rule.labels and row not in kept
    ]
