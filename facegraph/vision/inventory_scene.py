"""What of a segmentation ``inventory`` speaks of: each thing once, by kinds, the subject first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from facegraph.types import Segmentation
from facegraph.vision.inventory_relations import (
    ANIMALS,
    DOING,
    FURNITURE,
    VEHICLES,
    Thing,
    relation,
)
from facegraph.vision.inventory_words import counted, counted_more

SAME = 0.8
"""Of a mask, this part within another means the same thing, found twice."""

FAR = 0.02
"""Things in the background cover less than this part of the picture."""


@dataclass(frozen=True, slots=True)
class Group:
    """All things of one label; or, with ``more``, those of a subject's label far behind it."""

    label: str
    things: tuple[Thing, ...]
    more: bool = False

    def __len__(self) -> int:
        return len(self.things)

    @property
    def salience(self) -> float:
        """By area and centrality; people before animals, vehicles, things and furniture."""
        return _weight(self.label) * sum(
            thing.share * (1 - 0.5 * min(1.0, math.hypot(thing.x - 0.5, thing.y - 0.5) / 0.7))
            for thing in self.things
        )

    def name(self) -> str:
        if self.more:
            return counted_more(self.label, len(self))
        return counted(self.label, len(self))


def groups_of(segmentation: Segmentation, min_score: float) -> list[Group]:
    """The kinds of things that score enough, most salient first; the first is the subject.

    Whoever rides the first goes before it. Those of the subject's kind that are far behind it
    come second, as a group of their own.
    """
    things = _things(segmentation, min_score)
    if not things:
        return []
    labels = sorted({thing.label for thing in things})
    groups = [Group(label, tuple(t for t in things if t.label == label)) for label in labels]
    groups.sort(key=lambda group: -group.salience)
    first = groups[0]
    groups.sort(key=lambda group: not _rides(group, first))
    return [*_split(groups[0]), *groups[1:]]


def _rides(group: Group, first: Group) -> bool:
    found = relation(group.things, first.things)
    return found is not None and found.rank == DOING


def _things(segmentation: Segmentation, min_score: float) -> list[Thing]:
    """The objects that count, each once, best score first."""
    width, height = segmentation.width, segmentation.height
    rles = [{"size": [height, width], "counts": counts} for counts in segmentation.masks]
    boxes = segmentation.boxes.astype(np.float64) / np.tile([width, height], 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    rows = [
        row
        for row in range(len(segmentation))
        if segmentation.scores[row] >= np.float32(min_score)
        and (sides[row] > 0).all()
        and coco.area(rles[row]) > 0
    ]
    return [
        _thing(segmentation.labels[row], boxes[row], coco.area(rles[row]) / (width * height))
        for row in _once(rows, segmentation.labels, rles)
    ]


def _thing(label: str, box: npt.NDArray[np.float64], share: float) -> Thing:
    left, top, right, bottom = (float(value) for value in box)
    return Thing(label, left, top, right, bottom, float(share))


def _once(rows: list[int], labels: Sequence[str], rles: Sequence[Any]) -> list[int]:
    """``rows`` without those that are the same thing as an earlier, better-scored one.

    Of one label: where either mask lies in the other; of two: where both do.
    """
    if not rows:
        return []
    masks = [rles[row] for row in rows]
    # Where the second is called a crowd, iou is how much of the first lies in it.
    lies_in = coco.iou(masks, masks, [1] * len(masks))
    kept: list[int] = []
    for i, row in enumerate(rows):
        either = [
            (max if labels[row] == labels[rows[j]] else min)(lies_in[i, j], lies_in[j, i])
            for j in kept
        ]
        if max(either, default=0.0) < SAME:
            kept.append(i)
    return [rows[i] for i in kept]


def _split(group: Group) -> list[Group]:
    """Apart from the subject: those of a tenth of the largest's area, ending higher, and far."""
    largest = max(group.things, key=lambda thing: thing.share)
    limit, horizon = min(FAR, largest.share / 10), min(0.75, largest.bottom)
    far = [thing.share < limit and thing.bottom < horizon for thing in group.things]
    if not any(far):
        return [group]
    rows = list(zip(group.things, far, strict=True))
    return [
        Group(group.label, tuple(thing for thing, away in rows if not away)),
        Group(group.label, tuple(thing for thing, away in rows if away), more=True),
    ]


def _weight(label: str) -> float:
    if label == "person":
        return 8.0
    if label in ANIMALS:
        return 3.0
    if label in VEHICLES:
        return 1.5
    return 0.1 if label in FURNITURE else 1.0
