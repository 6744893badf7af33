"""Pictures with people made unrecognisable."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from facegraph.api.endpoint import Call, Params, Picture, endpoint
from facegraph.api.fields import Id, Listed, Threshold
from facegraph.api.v1.faces import SEARCH_ERRORS
from facegraph.api.v1.vision import VISION_ERRORS, ScoreThreshold
from facegraph.concealment import Rule, conceal
from facegraph.errors import (
    StoreUnavailable,
    SubjectNotFound,
    Unprocessable,
)
from facegraph.redaction import MAX_CELLS, MAX_PADDING, Method, OutputFormat
from facegraph.vision.labels import Label
from facegraph.vision.people import PERSON


class RedactParams(Params):
    target: Annotated[
        Literal["faces", "masks"],
        Field(description="Faces, or the masks of whole objects."),
    ] = "faces"
    labels: Annotated[
        tuple[Label, ...],
        Listed,
        Field(min_length=1, max_length=80, description="Kinds of objects, with target=masks."),
    ] = (PERSON,)
    score_threshold: ScoreThreshold = 0.15
    method: Method = "blur"
    cells: Annotated[
        int, Field(ge=1, le=MAX_CELLS, description="Along what is concealed; fewer hide more.")
    ] = 6
    padding: Annotated[
        float, Field(ge=0, le=MAX_PADDING, description="Around a face, in parts of its sides.")
    ] = 0.25
    keep: Annotated[
        tuple[Id, ...], Listed, Field(max_length=100, description="Subjects who stay to be seen.")
    ] = ()
    collection: Annotated[Id, Field(description="Where the subjects to keep are enrolled.")] = (
        "default"
    )
    threshold: Threshold | None = None
    format: Annotated[
        OutputFormat | None, Field(description="Of the answer; default: like the picture sent.")
    ] = None

    @model_validator(mode="after")
    def _what_is_said_counts(self) -> Self:
        if self.target == "faces" and (
            idle := {"labels", "score_threshold"} & self.model_fields_set
        ):
            raise ValueError(f"{', '.join(sorted(idle))} are for target=masks")
        if "keep" in self.model_fields_set and not self.keep:
            raise ValueError("keep names nobody; leave it out to conceal everybody")
        if self.keep and self.target == "masks" and PERSON not in self.labels:
            raise ValueError("keep is for people, and labels has no person")
        return self

    def rule(self) -> Rule:
        return Rule(
            target=self.target,
            labels=frozenset(self.labels),
            score_threshold=self.score_threshold,
            keep=frozenset(self.keep),
            collection_id=self.collection,
            threshold=self.threshold,
            method=self.method,
            cells=self.cells,
            padding=self.padding,
            output=self.format,
        )


@endpoint(
    "POST",
    "/v1/redact",
    answer=Picture,
    params=RedactParams,
    images="one",
    errors=(
        *VISION_ERRORS,
        Unprocessable,
        SubjectNotFound,
        *SEARCH_ERRORS,
        StoreUnavailable,
    ),
)
async def redact(call: Call[RedactParams]) -> Picture:
    """The picture with all faces or people concealed, or all but the subjects in `keep`.

    A face is kept only when its decision is `match`; `ambiguous` and `unknown` ones are concealed.
    A person mask is kept when all faces in it are; with `target=masks`, faces in no mask are
    concealed too. What is concealed cannot be computed back, and nothing but the pixels is
    answered: no EXIF, no thumbnail. `x-facegraph-concealed` and `x-facegraph-kept` count. A
    picture with too much in it is refused rather than half concealed.
    """
    done = await conceal(call.service, call.images[0], call.params.rule())
    return Picture(
        done.picture.data,
        done.picture.media_type,
        {"x-facegraph-concealed": str(done.concealed), "x-facegraph-kept": str(done.kept)},
    )


ENDPOINTS = (redact,)
