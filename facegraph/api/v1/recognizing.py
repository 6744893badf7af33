"""Whom a recognizer takes the faces of a picture for."""

from __future__ import annotations

from collections.abc import Sequence

from facegraph.api.endpoint import Call, Params, endpoint
from facegraph.api.fields import ContractId, Embedding, MaxFaces, Threshold
from facegraph.api.schemas import face_list, image_size
from facegraph.api.v1.faces import IMAGE_ERRORS
from facegraph.api.v1.recognizer_answers import PredictAnswer, Recognition, RecognizedFace
from facegraph.api.v1.recognizers import ready
from facegraph.errors import (
    ContractMismatch,
    InvalidRequest,
    RecognizerNotFound,
    RecognizerNotReady,
)
from facegraph.recognizers.pictures import UNKNOWN
from facegraph.store import Recognizer
from facegraph.timing import stage
from facegraph.types import FloatArray, Recognized


class PredictParams(Params):
    max_faces: MaxFaces | None = None
    threshold: Threshold | None = None
    embedding: Embedding | None = None
    contract: ContractId | None = None


@endpoint(
    "POST",
    "/v1/recognizers/{id}/predict",
    answer=PredictAnswer,
    params=PredictParams,
    images="optional",
    errors=(
        *IMAGE_ERRORS,
        RecognizerNotFound,
        RecognizerNotReady,
        ContractMismatch,
    ),
)
async def predict(call: Call[PredictParams]) -> PredictAnswer:
    """Whom the recognizer takes each face for, largest first, with the decision.

    `match`: it is near a picture of the most probable label. `ambiguous`: it is near somebody's,
    but not near those of the most probable. `unknown`: it is near nobody's. Near is at or over the
    threshold, by default the recognizer's own. `label` is the most probable for a `match`, else
    `unknown`.

    Nobody is told of whom anything was removed since from the collection that the recognizer was
    built from.
    """
    params, service = call.params, call.service
    recognizer = await _usable(call)
    if (params.embedding is None) == (not call.images):
        raise InvalidRequest("send an image, or an embedding with its contract")
    threshold = params.threshold
    if threshold is None:
        threshold = float(recognizer.options["threshold"])
    answer: PredictAnswer = {
        "faces": [],
        "threshold": threshold,
        "recognizer": recognizer.id,
        "model": service.pack.name,
    }
    if params.embedding is not None:
        probes = _probe(call, params.embedding)
        answer["faces"] = [*await _recognize(call, recognizer, probes, threshold)]
        return answer
    embedded = await service.embed(call.images[0], params.max_faces)
    told = await _recognize(call, recognizer, embedded.embeddings, threshold)
    faces: list[RecognizedFace] = [
        {**face, **one} for face, one in zip(face_list(embedded.detection), told, strict=True)
    ]
    answer["faces"] = [*faces]
    answer["image"] = image_size(embedded.detection)
    return answer


async def _usable(call: Call[PredictParams]) -> Recognizer:
    """The row is read each time: what was deleted recognizes nobody from then on."""
    recognizer = await ready(call)
    if recognizer.contract_id != call.service.contract.id:
        raise ContractMismatch(
            f"recognizer {recognizer.id!r} takes embeddings of {recognizer.contract_id}, and "
            f"{call.service.contract.id} is active"
        )
    return recognizer


def _probe(call: Call[PredictParams], embedding: list[float]) -> FloatArray:
    if call.params.contract is None:
        raise InvalidRequest("an embedding needs the contract it was made under")
    return call.service.probes([embedding], call.params.contract)


async def _recognize(
    call: Call[PredictParams], recognizer: Recognizer, probes: FloatArray, threshold: float
) -> list[Recognition]:
    """Every probe's decision, which is counted."""
    if not len(probes):
        return []
    with stage("recognize"):
        found = await call.service.graph.recognize(
            recognizer.id, probes, threshold, call.service.tuning.margin
        )
    known = await _still_known(call, recognizer, found)
    told = [_told(one, known, threshold) for one in found]
    for one in told:
        call.state.metrics.decisions.labels(one["decision"]).inc()
    return told


async def _still_known(
    call: Call[PredictParams], recognizer: Recognizer, found: Sequence[Recognized]
) -> set[str]:
    """Those of the labels found who may be told."""
    labels = {candidate.label for one in found for candidate in one.candidates}
    return await call.service.store.recognizers.present(recognizer, sorted(labels))


def _told(found: Recognized, known: set[str], threshold: float) -> Recognition:
    """Where the most probable may not be told, it is nobody, and not the next one."""
    candidates = [candidate for candidate in found.candidates if candidate.label in known]
    decision, similarity = found.decision, found.similarity
    if len(candidates) < len(found.candidates):
        similarity = max((one.similarity for one in candidates), default=0.0)
        if candidates[:1] != list(found.candidates[:1]) or similarity < threshold:
            decision = "unknown"
    return {
        "decision": decision,
        "label": candidates[0].label if decision == "match" else UNKNOWN,
        "probability": candidates[0].probability if candidates else 0.0,
        "similarity": similarity,
        "candidates": [
            {"label": one.label, "probability": one.probability, "similarity": one.similarity}
            for one in candidates
        ],
    }


ENDPOINTS = (predict,)
