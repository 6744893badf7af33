"""Face analysis: where the faces are, their embeddings, age and gender, as a pickle."""

from __future__ import annotations

import json

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from facegraph.api.compat.answering import answering, service_of
from facegraph.api.compat.face.pickles import TEXT, array_shape, read
from facegraph.api.parsing import read_form
from facegraph.errors import InvalidRequest
from facegraph.service import Embedded
from facegraph.types import FloatArray

MALE = 0.5
"""Probability from which ``gender`` is 1."""


@answering
async def face_analysis(request: Request) -> Response:
    tuning = service_of(request).tuning
    async with read_form(request, tuning, max_field_bytes=tuning.max_request_bytes) as form:
        return await analysis_of(request, await picture_of(request, form.get("image")))


async def picture_of(request: Request, sent: UploadFile | str | None) -> bytes:
    """The form's ``image``: a pickle, as text or as a file, or a file that is a picture itself."""
    if sent is None:
        raise InvalidRequest("'image' is missing")
    data = await sent.read() if isinstance(sent, UploadFile) else sent.encode()
    if data.lstrip()[:1] in (b"{", b'"'):
        return (await service_of(request).pixels.run(read, data)).data
    return data


async def analysis_of(request: Request, picture: bytes) -> Response:
    """The answer about a picture, largest face first."""
    service = service_of(request)
    embedded = await service.embed(picture, attributes=True)
    return Response(await service.pixels.run(_text, embedded), media_type=TEXT)


def _text(embedded: Embedded) -> str:
    detection = embedded.detection
    faces, told = detection.faces, detection.attributes
    ages = None if told is None else told.ages
    males = None if told is None else told.male_probabilities
    results = [
        {
            "age": _age(ages, row),
            "bbox": array_shape(faces.boxes[row].astype(np.float64)),
            "det_score": float(faces.detection_scores[row]),
            "gender": _gender(males, row),
            "landmark": array_shape(faces.landmarks[row]),
            "normed_embedding": array_shape(embedded.embeddings[row]),
        }
        for row in range(len(faces))
    ]
    return json.dumps({"fa_results": results})


def _age(ages: FloatArray | None, row: int) -> int | None:
    return None if ages is None else round(float(ages[row]))


def _gender(males: FloatArray | None, row: int) -> int | None:
    return None if males is None else int(males[row] >= MALE)
