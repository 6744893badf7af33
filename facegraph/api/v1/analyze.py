"""Everything about one picture in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field

from facegraph.analysis import FEATURES, Analysis, Feature, Question, analyze
from facegraph.api.endpoint import Call, endpoint
from facegraph.api.fields import Id, Listed, MaxFaces, Threshold
from facegraph.api.schemas import (
    AnalyzeAnswer,
    Part,
    SegmentationAnswer,
    detect_answer,
)
from facegraph.api.v1.faces import SEARCH_ERRORS
from facegraph.api.v1.search import search_answer
from facegraph.api.v1.vision import (
    VISION_ERRORS,
    CaptionParams,
    SegmentationParams,
    segmentation_of,
)
from facegraph.errors import (
    FacegraphError,
    StoreUnavailable,
)
from facegraph.types import Consistency, Detection, Segmentation

T = TypeVar("T")
A = TypeVar("A")


class AnalyzeParams(CaptionParams, SegmentationParams):
    features: Annotated[
        tuple[Feature, ...],
        Listed,
        Field(min_length=1, description="What is wanted; default: all."),
    ] = FEATURES
    collection: Id = "default"
    limit: Annotated[int, Field(ge=1, le=100, description="Subjects per face.")] | None = None
    threshold: Threshold | None = None
    max_faces: MaxFaces | None = None
    consistency: Consistency = "strong"
    partial: bool = False
    include_below: bool = False
    attributes: bool = False

    def question(self) -> Question:
        return Question(
            features=frozenset(self.features),
            collection_id=self.collection,
            limit=self.limit,
            threshold=self.threshold,
            include_below=self.include_below,
            consistency=self.consistency,
            partial=self.partial,
            max_faces=self.max_faces,
            attributes=self.attributes,
            caption=self.caption_options(),
            segment=self.segment_options(),
        )


@endpoint(
    "POST",
    "/v1/analyze",
    answer=AnalyzeAnswer,
    params=AnalyzeParams,
    images="one",
    errors=(
        *VISION_ERRORS,
        *SEARCH_ERRORS,
        StoreUnavailable,
    ),
)
async def analyze_picture(call: Call[AnalyzeParams]) -> AnalyzeAnswer:
    """Faces, search, caption and masks of one picture, the work done side by side.

    Each part is what its own endpoint would answer. With faces and masks both asked for, every
    face carries in `person` the index of the person mask it lies in. A part that fails is
    `{"problem": …}` and the others answer; where every part fails, the first problem is the answer.
    """
    analysis = await analyze(call.service, call.images[0], call.params.question())
    return await _answer(call, analysis)


async def _answer(call: Call[AnalyzeParams], analysis: Analysis) -> AnalyzeAnswer:
    wanted, answer = call.params.features, AnalyzeAnswer()
    detection, persons = analysis.detection, analysis.persons
    if "faces" in wanted and detection is not None:
        pack = call.service.pack.name
        answer["faces"] = _part(
            detection, lambda faces: _with_persons(detect_answer(faces, pack), persons)
        )
    if analysis.search is not None:
        answer["search"] = _part(
            analysis.search,
            lambda found: _with_persons(
                search_answer(call.state, _faces(detection), found), persons
            ),
        )
    if analysis.caption is not None:
        answer["caption"] = _part(
            analysis.caption, lambda said: {"caption": said.text, "model": said.model}
        )
    if analysis.segmentation is not None:
        answer["segmentation"] = await _segmentation(call, analysis.segmentation)
    return answer


async def _segmentation(
    call: Call[AnalyzeParams], seen: Segmentation | FacegraphError
) -> SegmentationAnswer | Part:
    try:
        if isinstance(seen, FacegraphError):
            raise seen
        return await segmentation_of(call.service, seen, call.params.masks)
    except FacegraphError as error:
        return {"problem": error.problem()}


def _part(outcome: T | FacegraphError, answer: Callable[[T], A]) -> A | Part:
    if isinstance(outcome, FacegraphError):
        return {"problem": outcome.problem()}
    return answer(outcome)


def _faces(detection: Detection | FacegraphError | None) -> Detection:
    assert isinstance(detection, Detection), "a search that found something had faces"
    return detection


def _with_persons(answer: Any, persons: Sequence[int | None]) -> Any:
    """A detect or search answer whose faces carry their person's index, where that is known."""
    if not persons:
        return answer
    faces = zip(answer["faces"], persons, strict=True)
    return {**answer, "faces": [{**face, "person": person} for face, person in faces]}


ENDPOINTS = (analyze_picture,)
