"""gnosis' pictures: who is where, embeddings, and who of a dataset it is.

Policies: faces come largest first. A person is known by the best single embedding of the dataset
that came with the request, when its similarity reaches the face pack's calibrated threshold.
Nothing of a dataset outlives its request.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import cv2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.compat.answering import service_of
from facegraph.api.compat.gnosis.wire import answering, dataset_of, read
from facegraph.datasets import Dataset
from facegraph.errors import FacegraphError, ImageTooLarge
from facegraph.images import decode
from facegraph.redaction import LONGEST_SIDE
from facegraph.service import Embedded, Service
from facegraph.types import Detection, FloatArray
from facegraph.vision.drawing import label_boxes

UNKNOWN = "Uknown"
"""As the old system spells it; its clients compare."""

JPEG_QUALITY = 90

_AT_ONCE = 8
"""Of a request's images, this many are in work."""

Label = int | str


@answering
async def detector_image(request: Request) -> Response:
    fields = await read(request, {"file": "image"}, flagged=True)
    service = service_of(request)
    (image,) = fields.files["file"]
    detection = await service.detect(image)
    labels = range(len(detection.faces))
    return await _faces(service, image, detection, labels, fields.return_img_b64)


@answering
async def encoder_image(request: Request) -> Response:
    fields = await read(request, {"file": "image"})
    embedded = await service_of(request).embed(fields.files["file"][0], 1)
    return JSONResponse(_embedding(embedded))


@answering
async def encoder_images(request: Request) -> Response:
    """A broken image fails the request, whose error says which one it was."""
    fields = await read(request, {"key": "text", "files": "images"})
    service = service_of(request)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def encode(image: bytes) -> Embedded | FacegraphError:
        async with turns:
            try:
                return await service.embed(image, 1)
            except FacegraphError as error:
                return error

    encoded = await asyncio.gather(*map(encode, fields.files["files"]))
    rows = []
    for index, outcome in enumerate(encoded):
        if isinstance(outcome, FacegraphError):
            raise type(outcome)(f"image {index}: {outcome.detail}")
        if (embedding := _embedding(outcome)) is not None:
            rows.append({"img": index, "embedding": embedding})
    return JSONResponse({fields.texts["key"]: rows})


@answering
async def recognizer_image(request: Request) -> Response:
    fields = await read(request, {"file": "image", "dataset": "dataset"}, flagged=True)
    service = service_of(request)
    (image,) = fields.files["file"]
    dataset = await dataset_of(service, fields.files["dataset"][0])
    embedded = await service.embed(image)
    labels = await names(service, dataset, embedded.embeddings)
    return await _faces(service, image, embedded.detection, labels, fields.return_img_b64)


async def names(service: Service, dataset: Dataset, probes: FloatArray) -> list[str]:
    """Who each row of ``probes`` (n, d) is; ``UNKNOWN`` below the threshold."""
    return await service.pixels.run(_names, dataset, probes, service.threshold(None, None))


def _names(dataset: Dataset, probes: FloatArray, threshold: float) -> list[str]:
    best = [dataset.best(probe) for probe in probes]
    return [found[0] if found and found[1] >= threshold else UNKNOWN for found in best]


def _embedding(embedded: Embedded) -> list[float] | None:
    """The largest face's; None where there is none."""
    rows: list[list[float]] = embedded.embeddings.tolist()
    return rows[0] if rows else None


async def _faces(
    service: Service, image: bytes, detection: Detection, labels: Sequence[Label], picture: bool
) -> Response:
    faces = detection.faces
    rows = zip(labels, faces.boxes.tolist(), faces.detection_scores.tolist(), strict=True)
    answer: dict[str, Any] = {
        "faces": [{"label": label, "bbox": [*box, score]} for label, box, score in rows]
    }
    if picture:
        answer["img_b64"] = await service.pixels.run(_annotated, image, detection, labels)
    return JSONResponse(answer)


def _annotated(image: bytes, detection: Detection, labels: Sequence[Label]) -> str:
    """The upright picture with boxes and labels: a bare base64 JPEG."""
    if max(detection.width, detection.height) > LONGEST_SIDE["jpeg"]:
        raise ImageTooLarge(f"a JPEG has at most {LONGEST_SIDE['jpeg']} pixels a side")
    rgb = decode(image, max_pixels=detection.width * detection.height)
    drawn = label_boxes(rgb, detection.faces.boxes, [str(label) for label in labels])
    bgr = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode("ascii")


ROUTES = [
    Route("/detector/image", detector_image, methods=["POST"]),
    Route("/encoder/image", encoder_image, methods=["POST"]),
    Route("/encoder/images", encoder_images, methods=["POST"]),
    Route("/recognizer/image", recognizer_image, methods=["POST"]),
]
