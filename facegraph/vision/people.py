"""Which person mask a face lies in."""

from __future__ import annotations

from facegraph.types import Faces, Segmentation
from facegraph.vision.masks import coverage

PERSON = "person"

LEAST_COVERAGE = 0.5
"""Part of a face's box that must lie in the mask; hair and background take the corners."""


def persons_of(faces: Faces, segmentation: Segmentation) -> tuple[int | None, ...]:
    """For each face the row of the person whose mask covers most of it, or None.

    Of masks that cover it equally the better-scored one is taken.
    """
    people = [row for row, label in enumerate(segmentation.labels) if label == PERSON]
    return tuple(_person_of(box.tolist(), people, segmentation) for box in faces.boxes)


def _person_of(box: list[float], people: list[int], segmentation: Segmentation) -> int | None:
    best, most = None, 0.0
    for row in people:
        if not _meet(box, segmentation.boxes[row].tolist()):
            continue
        part = coverage(segmentation.masks[row], segmentation.width, segmentation.height, box)
        if part >= LEAST_COVERAGE and part > most:
            best, most = row, part
    return best


def _meet(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
