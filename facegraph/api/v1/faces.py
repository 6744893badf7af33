"""Detect, embed, verify: what needs no gallery."""

from __future__ import annotations

from facegraph.api.endpoint import Call, Params, endpoint
from facegraph.api.fields import MaxFaces, Threshold
from facegraph.api.schemas import (
    DetectAnswer,
    EmbeddedFace,
    EmbeddingsAnswer,
    VerifyAnswer,
    contract_answer,
    detect_answer,
    face_list,
    image_size,
)
from facegraph.errors import (
    CollectionNotFound,
    ContractMismatch,
    FaceNotFound,
    GalleryBehind,
    GalleryTooLarge,
    ImageTooLarge,
    InvalidImage,
    ShardUnavailable,
)

IMAGE_ERRORS = (InvalidImage, ImageTooLarge)
SEARCH_ERRORS = (
    CollectionNotFound,
    ContractMismatch,
    GalleryBehind,
    GalleryTooLarge,
    ShardUnavailable,
)


class DetectParams(Params):
    max_faces: MaxFaces | None = None
    attributes: bool = False


class EmbeddingsParams(Params):
    max_faces: MaxFaces | None = None
    attributes: bool = False


class VerifyParams(Params):
    threshold: Threshold | None = None


@endpoint(
    "POST",
    "/v1/detect",
    answer=DetectAnswer,
    params=DetectParams,
    images="one",
    errors=IMAGE_ERRORS,
)
async def detect(call: Call[DetectParams]) -> DetectAnswer:
    """Faces in a picture, largest first; none is an empty list.

    `attributes=true` adds to each face its age, gender, pose, quality and liveness, as far as the
    face pack has the models; pose and quality need none. What is not told is left out.
    """
    detection = await call.service.detect(
        call.images[0], call.params.max_faces, attributes=call.params.attributes
    )
    return detect_answer(detection, call.service.pack.name)


@endpoint(
    "POST",
    "/v1/embeddings",
    answer=EmbeddingsAnswer,
    params=EmbeddingsParams,
    images="one",
    errors=IMAGE_ERRORS,
)
async def embeddings(call: Call[EmbeddingsParams]) -> EmbeddingsAnswer:
    """Faces in a picture with their L2-normalised embeddings and the contract they obey.

    `attributes=true` as with `/v1/detect`.
    """
    embedded = await call.service.embed(
        call.images[0], call.params.max_faces, attributes=call.params.attributes
    )
    rows = zip(face_list(embedded.detection), embedded.embeddings, strict=True)
    faces: list[EmbeddedFace] = [{**face, "embedding": embedding} for face, embedding in rows]
    return {
        "faces": faces,
        "image": image_size(embedded.detection),
        "contract": contract_answer(call.service.contract),
        "model": call.service.pack.name,
    }


@endpoint(
    "POST",
    "/v1/verify",
    answer=VerifyAnswer,
    params=VerifyParams,
    images="pair",
    errors=(*IMAGE_ERRORS, FaceNotFound),
)
async def verify(call: Call[VerifyParams]) -> VerifyAnswer:
    """Whether the largest faces of two pictures, `source` and `target`, are one person's."""
    source, target = call.images
    result = await call.service.verify(source, target, call.params.threshold)
    call.state.metrics.decisions.labels(result.decision).inc()
    return {
        "decision": "match" if result.decision == "match" else "unknown",
        "similarity": result.similarity,
        "threshold": result.threshold,
        "source": face_list(result.source)[0],
        "target": face_list(result.target)[0],
        "model": call.service.pack.name,
    }


ENDPOINTS = (detect, embeddings, verify)
