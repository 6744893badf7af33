"""Which parts of a picture to make unrecognisable: all faces or people, or all but some subjects.

It fails closed: whoever is not certainly a subject to keep is concealed, and a picture with more
faces or objects than are looked at is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from facegraph.errors import Unprocessable
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
from facegraph.types import Detection, Segmentation, SegmentOptions
from facegraph.vision.people import PERSON, persons_of

MOST_FACES = 1000
MOST_OBJECTS = 100


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
    if rule.target == "faces":
        detection = await _faces(service, image, crops=bool(rule.keep))
        kept = await _kept(service, detection, rule)
        size = detection.width, detection.height
        boxes = detection.faces.boxes.tolist()
        regions: list[Region] = [
            FaceRegion(tuple(box)) for row, box in enumerate(boxes) if row not in kept
        ]
    else:
        segmentation = await _objects(service, image, rule)
        kept = await _kept_people(service, image, segmentation, rule) if rule.keep else set()
        size = segmentation.width, segmentation.height
        regions = _masks(segmentation, rule, kept)
    async with service.drawing:
        picture = await asyncio.to_thread(
            redact,
            image,
            regions,
            max_pixels=size[0] * size[1],
            method=rule.method,
            cells=rule.cells,
            padding=rule.padding,
            output=rule.output,
        )
    return Concealed(picture, len(regions), len(kept))


async def _faces(service: Service, image: bytes, *, crops: bool) -> Detection:
    detection = await service.graph.detect(image, max_faces=MOST_FACES, crops=crops)
    if detection.found > MOST_FACES:
        raise Unprocessable(
            f"{detection.found} faces in the image, at most {MOST_FACES} can be concealed"
        )
    return detection


async def _kept(service: Service, detection: Detection, rule: Rule) -> set[int]:
    """The faces that match a subject to keep, beyond doubt."""
    if not rule.keep or not len(detection.faces):
        return set()
    embeddings = await service.graph.embed(detection.crops)
    found = await service.identify(
        rule.collection_id, embeddings, limit=1, threshold=rule.threshold
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


async def _kept_people(
    service: Service, image: bytes, segmentation: Segmentation, rule: Rule
) -> set[int]:
    """The person masks that hold a face to keep, and no other face."""
    detection = await _faces(service, image, crops=True)
    kept = await _kept(service, detection, rule)
    persons = await asyncio.to_thread(persons_of, detection.faces, segmentation)
    known = {person for face, person in enumerate(persons) if face in kept and person is not None}
    others = {person for face, person in enumerate(persons) if face not in kept}
    return known - others


def _masks(segmentation: Segmentation, rule: Rule, kept: set[int]) -> list[Region]:
    rows = zip(segmentation.labels, segmentation.boxes.tolist(), segmentation.masks, strict=True)
    return [
        MaskRegion(tuple(box), mask)
        for row, (label, box, mask) in enumerate(rows)
        if label in rule.labels and row not in kept
    ]
