"""Captions and instance masks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from facegraph.api.endpoint import Call, Params, endpoint
from facegraph.api.fields import no_control_characters
from facegraph.api.schemas import CaptionAnswer, MaskForm, SegmentationAnswer, segmentation_answer
from facegraph.api.v1.faces import IMAGE_ERRORS
from facegraph.errors import InvalidRequest, ModelUnavailable
from facegraph.service import Service
from facegraph.types import (
    DEFAULT_CAPTION,
    DEFAULT_SEGMENT,
    CaptionOptions,
    Segmentation,
    SegmentOptions,
)

MOST_PNG_PIXELS = 500_000_000
"""Of all masks of an answer together: some five seconds."""

VISION_ERRORS = (*IMAGE_ERRORS, ModelUnavailable)

TopK = Annotated[int, Field(ge=1, le=100, description="Best-scored objects answered at most.")]
ScoreThreshold = Annotated[
    float, Field(ge=0, le=1, description="Only objects whose score is above it.")
]
Masks = Annotated[
    Literal["rle", "png", "none"],
    Field(description="COCO's compressed run lengths, a PNG of the whole image, or no masks."),
]
Beams = Annotated[int, Field(ge=1, le=8, description="Beams of the search; more is slower.")]
MaxLength = Annotated[int, Field(ge=5, le=64, description="Tokens, with the prompt's.")]
MinLength = Annotated[int, Field(ge=1, le=64, description="Tokens, with the prompt's.")]
Prompt = Annotated[
    str,
    StringConstraints(max_length=128),
    AfterValidator(no_control_characters),
    Field(description="Begins the sentence and is taken off the answer."),
]


class CaptionParams(Params):
    num_beams: Beams = DEFAULT_CAPTION.num_beams
    max_length: MaxLength = DEFAULT_CAPTION.max_length
    min_length: MinLength = DEFAULT_CAPTION.min_length
    prompt: Prompt = DEFAULT_CAPTION.prompt

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError("min_length is more than max_length")
        return self

    def caption_options(self) -> CaptionOptions:
        return CaptionOptions(self.num_beams, self.max_length, self.min_length, self.prompt)


class SegmentationParams(Params):
    top_k: TopK = DEFAULT_SEGMENT.top_k
    score_threshold: ScoreThreshold = DEFAULT_SEGMENT.score_threshold
    masks: Masks = "rle"

    def segment_options(self) -> SegmentOptions:
        return SegmentOptions(self.top_k, self.score_threshold)


@endpoint(
    "POST",
    "/v1/captions",
    answer=CaptionAnswer,
    params=CaptionParams,
    images="one",
    errors=VISION_ERRORS,
)
async def caption(call: Call[CaptionParams]) -> CaptionAnswer:
    """One sentence about a picture, and the model that said it.

    `inventory` is the captioner of a machine without BLIP: it says what the segmenter found and
    heeds none of the options. 503 `model_unavailable` tells what to install.
    """
    said = await call.service.caption(call.images[0], call.params.caption_options())
    return {"caption": said.text, "model": said.model}


@endpoint(
    "POST",
    "/v1/segmentations",
    answer=SegmentationAnswer,
    params=SegmentationParams,
    images="one",
    errors=VISION_ERRORS,
)
async def segment(call: Call[SegmentationParams]) -> SegmentationAnswer:
    """Objects of COCO's 80 kinds with their masks, best score first; none is an empty list."""
    seen = await call.service.segment(call.images[0], call.params.segment_options())
    return await segmentation_of(call.service, seen, call.params.masks)


async def segmentation_of(
    service: Service, seen: Segmentation, form: MaskForm
) -> SegmentationAnswer:
    """The answer; PNG masks take a while to make, so beside the event loop, and not any number."""
    if form != "png":
        return segmentation_answer(seen, form)
    if len(seen) * seen.width * seen.height > MOST_PNG_PIXELS:
        raise InvalidRequest(
            f"{len(seen)} masks of {seen.width}×{seen.height} are too many PNGs; ask for masks=rle"
        )
    return await service.pixels.run(segmentation_answer, seen, form)


ENDPOINTS = (caption, segment)
