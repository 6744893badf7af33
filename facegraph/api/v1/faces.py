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
from facegraph.errors import FaceNotFound, ImageTooLarge, InvalidImage

IMAGE_ERRORS = (InvalidImage, ImageTooLarge)


class DetectParams(Params):
    max_faces: MaxFaces | None = None
    attributes: bool = False


class EmbeddingsParams(Params):
    max_faces: MaxFaces | None = None


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

    `attributes=true` is for what a face pack's attribute models tell of a face; no pack of this
    version has any, so it adds nothing.
    """
    detection = await call.service.detect(call.images[0], call.params.max_faces)
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
    """Faces in a picture with their L2-normalised embeddings and the contract they obey."""
    embedded = await call.service.embed(call.images[0], call.params.max_faces)
    vectors = embedded.embeddings.tolist()
    faces: list[EmbeddedFace] = [
        {**face, "embedding": vector}
        for face, vector in zip(face_list(embedded.detection), vectors, strict=True)
    ]
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
