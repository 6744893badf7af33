"""One picture, several questions, answered side by side; each part fails on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from facegraph.errors import FacegraphError
from facegraph.service import INVENTORY, Identification, Service
from facegraph.timing import stage
from facegraph.types import (
    DEFAULT_CAPTION,
    DEFAULT_SEGMENT,
    Caption,
    CaptionOptions,
    Consistency,
    Detection,
    Segmentation,
    SegmentOptions,
)
from facegraph.vision.people import persons_of
from facegraph.vision.selection import select

Feature = Literal["faces", "search", "caption", "segmentation"]
FEATURES: tuple[Feature, ...] = get_args(Feature)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a picture; the options are those of each feature's own endpoint."""

    features: frozenset[Feature]
    collection_id: str
    limit: int | None = None
    threshold: float | None = None
    include_below: bool = False
    consistency: Consistency = "strong"
    partial: bool = False
    max_faces: int | None = None
    attributes: bool = False
    caption: CaptionOptions = DEFAULT_CAPTION
    segment: SegmentOptions = DEFAULT_SEGMENT


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Each part's result or its error; None: not needed. ``detection`` is there for a search too.

    persons: for each face the row of the person mask it lies in, None for a face in none;
        empty unless faces and masks were found
    """

    detection: Detection | FacegraphError | None
    search: Identification | FacegraphError | None
    caption: Caption | FacegraphError | None
    segmentation: Segmentation | FacegraphError | None
    persons: tuple[int | None, ...]


async def analyze(service: Service, image: bytes, question: Question) -> Analysis:
    """Answers ``question``. Raises the first part's error when every part failed."""
    async with asyncio.TaskGroup() as group:
        segmenting = group.create_task(_outcome(_segment(service, image, question)))
        detecting = group.create_task(_outcome(_detect(service, image, question)))
        captioning = group.create_task(_outcome(_caption(service, image, question, segmenting)))
        searching = group.create_task(_outcome(_search(service, question, detecting)))
    parts: dict[Feature, Any] = {
        "faces": detecting.result(),
        "search": searching.result(),
        "caption": captioning.result(),
        "segmentation": segmenting.result(),
    }
    asked = [parts[feature] for feature in FEATURES if feature in question.features]
    if all(isinstance(part, FacegraphError) for part in asked):
        raise asked[0]
    return await _assembled(service, question, **parts)


async def _assembled(
    service: Service,
    question: Question,
    faces: Detection | FacegraphError | None,
    search: Identification | FacegraphError | None,
    caption: Caption | FacegraphError | None,
    segmentation: Segmentation | FacegraphError | None,
) -> Analysis:
    persons: tuple[int | None, ...] = ()
    if isinstance(segmentation, Segmentation):
        segmentation = select(segmentation, question.segment)
        if isinstance(faces, Detection):
            persons = await service.pixels.run(persons_of, faces.faces, segmentation)
    return Analysis(faces, search, caption, segmentation, persons)


async def _outcome(work: Awaitable[T]) -> T | FacegraphError:
    try:
        return await work
    except FacegraphError as error:
        return error


async def _detect(service: Service, image: bytes, question: Question) -> Detection | None:
    if not question.features & {"faces", "search"}:
        return None
    return await service.detect(
        image,
        question.max_faces,
        crops="search" in question.features,
        attributes=question.attributes,
    )


async def _search(
    service: Service,
    question: Question,
    detecting: asyncio.Task[Detection | FacegraphError | None],
) -> Identification | None:
    if "search" not in question.features:
        return None
    detection = _value(await detecting)
    assert detection is not None
    embeddings = np.zeros((0, service.contract.dimension), np.float32)
    if len(detection.faces):
        with stage("embed"):
            embeddings = await service.graph.embed(detection.crops)
    return await service.identify(
        question.collection_id,
        embeddings,
        limit=question.limit,
        threshold=question.threshold,
        include_below=question.include_below,
        consistency=question.consistency,
        partial=question.partial,
    )


async def _segment(service: Service, image: bytes, question: Question) -> Segmentation | None:
    """With enough objects for the caption too, which may be made of them."""
    if "segmentation" not in question.features:
        return None
    options = question.segment
    if "caption" in question.features:
        options = replace(
            options,
            top_k=max(options.top_k, INVENTORY.top_k),
            score_threshold=min(options.score_threshold, INVENTORY.score_threshold),
        )
    return await service.segment(image, options)


async def _caption(
    service: Service,
    image: bytes,
    question: Question,
    segmenting: asyncio.Task[Segmentation | FacegraphError | None],
) -> Caption | None:
    if "caption" not in question.features:
        return None
    caption = await service.own_caption(image, question.caption)
    if caption is not None:
        return caption
    seen = _value(await segmenting)
    if seen is None:
        seen = await service.segment(image, INVENTORY)
    return await service.inventory(seen)


def _value(outcome: T | FacegraphError) -> T:
    if isinstance(outcome, FacegraphError):
        raise outcome
    return outcome
