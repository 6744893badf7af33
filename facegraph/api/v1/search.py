"""Identify: who of a collection is in a picture."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from facegraph.api.endpoint import Call, Params, endpoint
from facegraph.api.fields import ContractId, Embedding, MaxFaces, Threshold
from facegraph.api.schemas import (
    SearchAnswer,
    SearchedFace,
    face_list,
    image_size,
    match_answer,
)
from facegraph.api.state import State
from facegraph.api.v1.faces import IMAGE_ERRORS, SEARCH_ERRORS
from facegraph.errors import (
    InvalidRequest,
)
from facegraph.service import Identification, Identified
from facegraph.types import Consistency, Detection, FloatArray


class SearchParams(Params):
    limit: Annotated[int, Field(ge=1, le=100, description="Subjects per face.")] | None = None
    threshold: Threshold | None = None
    max_faces: MaxFaces | None = None
    consistency: Consistency = "strong"
    partial: bool = False
    include_below: bool = False
    attributes: bool = False
    embedding: Embedding | None = None
    contract: ContractId | None = None


@endpoint(
    "POST",
    "/v1/collections/{c}/search",
    answer=SearchAnswer,
    params=SearchParams,
    images="optional",
    errors=(
        *IMAGE_ERRORS,
        *SEARCH_ERRORS,
    ),
)
async def search(call: Call[SearchParams]) -> SearchAnswer:
    """The subjects each face may be, best first, with the decision.

    `match`: the best subject is at or over the threshold. `ambiguous`: another subject comes
    almost as close. `unknown`: nobody is close enough. Only subjects at or over the threshold
    are listed unless `include_below=true`. `consistency=strong` sees every write acknowledged
    before the search began; `eventual` may lag by the poll interval and skips the check.
    `attributes=true` as with `/v1/detect`.

    Where the subjects are shared among several matchers (`matcher_shards`) and one is lost, the
    answer is 503 `shard_unavailable`. `partial=true` rather takes the subjects of the others:
    `partial` in the answer then names what was not searched, and every decision is `ambiguous`,
    since whoever was not searched may be the one, or come as close. `matches` are right as far
    as they go. Without `partial` in the answer nothing is missing.
    """
    if (call.params.embedding is None) == (not call.images):
        raise InvalidRequest("send an image, or an embedding with its contract")
    if call.params.embedding is not None:
        return await _search_embedding(call, call.params.embedding)
    embedded = await call.service.embed(
        call.images[0], call.params.max_faces, attributes=call.params.attributes
    )
    found = await _identify(call, embedded.embeddings)
    return search_answer(call.state, embedded.detection, found)


def search_answer(state: State, detection: Detection, found: Identification) -> SearchAnswer:
    """Every face with its decision, which is counted."""
    for probe in found.probes:
        state.metrics.decisions.labels(probe.decision).inc()
    faces: list[SearchedFace] = [
        {**face, **_decision(probe, found.threshold)}
        for face, probe in zip(face_list(detection), found.probes, strict=True)
    ]
    answer: SearchAnswer = {
        "faces": faces,
        "image": image_size(detection),
        "version": found.version,
        "model": state.service.pack.name,
    }
    return _with_missing(state, answer, found)


async def _search_embedding(call: Call[SearchParams], embedding: list[float]) -> SearchAnswer:
    if call.params.contract is None:
        raise InvalidRequest("an embedding needs the contract it was made under")
    probes = call.service.probes([embedding], call.params.contract)
    found = await _identify(call, probes)
    call.state.metrics.decisions.labels(found.probes[0].decision).inc()
    answer: SearchAnswer = {
        "faces": [_decision(probe, found.threshold) for probe in found.probes],
        "version": found.version,
        "model": call.service.pack.name,
    }
    return _with_missing(call.state, answer, found)


async def _identify(call: Call[SearchParams], probes: FloatArray) -> Identification:
    params = call.params
    return await call.service.identify(
        call.path["c"],
        probes,
        limit=params.limit,
        threshold=params.threshold,
        include_below=params.include_below,
        consistency=params.consistency,
        partial=params.partial,
    )


def _with_missing(state: State, answer: SearchAnswer, found: Identification) -> SearchAnswer:
    """The answer, which names and counts what was not searched, if anything."""
    if found.missing_shards:
        state.metrics.partial.inc()
        answer["partial"] = {
            "missing_shards": list(found.missing_shards),
            "shards": found.shards,
        }
    return answer


def _decision(probe: Identified, threshold: float) -> SearchedFace:
    return {
        "decision": probe.decision,
        "matches": [match_answer(match) for match in probe.matches],
        "threshold": threshold,
    }


ENDPOINTS = (search,)
