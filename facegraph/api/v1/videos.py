"""Frames of videos."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from facegraph.api.endpoint import Call, Params, endpoint
from facegraph.api.streaming import Streamed, bounds_of
from facegraph.errors import ImageTooLarge, InvalidVideo
from facegraph.video.decoding import extraction
from facegraph.video.packing import Multipart, Zip, packed
from facegraph.video.sampling import Sampling

Side = Annotated[int, Field(ge=1, le=16384, description="Larger frames are shrunk to fit.")]


class SamplingParams(Params):
    fps_max: Annotated[
        float, Field(gt=0, le=1000, description="At most about so many frames a second.")
    ] = 1.0
    width_max: Side = 1280
    height_max: Side = 720

    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class FramesParams(SamplingParams):
    start_s: Annotated[float, Field(ge=0, description="Where the part begins.")] = 0.0
    end_s: Annotated[
        float | None, Field(gt=0, description="Before where the part ends; default: the end.")
    ] = None
    max_frames: Annotated[
        int | None, Field(ge=1, description="The part ends after so many; default: all.")
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="Of the JPEGs.")] = 90
    format: Annotated[
        Literal["multipart", "zip"] | None,
        Field(description="Default: what `accept` names, else multipart."),
    ] = None

    @model_validator(mode="after")
    def _a_part(self) -> Self:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError("end_s must be after start_s")
        return self

    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump(exclude={"quality", "format"}))


@endpoint(
    "POST",
    "/v1/videos/frames",
    answer=Streamed,
    media_types=("multipart/mixed", "application/zip"),
    params=FramesParams,
    video=True,
    errors=(ImageTooLarge, InvalidVideo),
)
async def frames(call: Call[FramesParams]) -> Streamed:
    """Frames of a video as JPEG files: every N-th, upright, shrunk to fit, sent as they are made.

    N is the video's rate divided by `fps_max`, rounded, at least 1. Multipart begins with a JSON
    part of what is known at first; each frame follows with `x-facegraph-index` and
    `x-facegraph-time-s`; the metadata come last. A zip holds `frames/<index>.jpg` and
    `metadata.json`. Counts and durations in the metadata are those of the part asked for;
    `truncated` says that frames are missing, because data are damaged or end early. What goes wrong
    after the answer has begun is told in place of the metadata, as a problem
    (`application/problem+json`, `problem.json`).

    More frames than the service allows, or a video longer than it reads, are an `invalid_video`,
    before the first frame where the file tells.
    """
    params, service = call.params, call.service
    packer = Zip() if _wants_zip(call) else Multipart()
    write = partial(packed, packer, params.quality)
    make = extraction(call.video.file, params.sampling(), bounds_of(service.tuning), write)
    return Streamed(await call.video.work.body(make), packer.media_type)


def _wants_zip(call: Call[FramesParams]) -> bool:
    if call.params.format is not None:
        return call.params.format == "zip"
    return Zip.media_type in call.headers.get("accept", "")


ENDPOINTS = (frames,)
