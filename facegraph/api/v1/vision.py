"""Captions and instance masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from facegraph.api.endpoint import Call, NoParams, Params, endpoint
from facegraph.api.schemas import AnyAnswer
from facegraph.api.v1.faces import IMAGE_ERRORS
from facegraph.errors import ModelUnavailable

ERRORS = (*IMAGE_ERRORS, ModelUnavailable)


class SegmentationParams(Params):
    top_k: Annotated[int, Field(ge=1, le=100)] = 15
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.15
    masks: Literal["rle", "png", "none"] = "rle"


@endpoint("POST", "/v1/captions", answer=AnyAnswer, params=NoParams, images="one", errors=ERRORS)
async def caption(call: Call[NoParams]) -> Mapping[str, Any]:
    """One sentence about a picture; 503 `model_unavailable` without a captioning model."""
    return await call.service.graph.caption(call.images[0])


@endpoint(
    "POST",
    "/v1/segmentations",
    answer=AnyAnswer,
    params=SegmentationParams,
    images="one",
    errors=ERRORS,
)
async def segment(call: Call[SegmentationParams]) -> Mapping[str, Any]:
    """Instance masks of a picture; 503 `model_unavailable` without a segmentation model."""
    return await call.service.graph.segment(call.images[0])


ENDPOINTS = (caption, segment)
