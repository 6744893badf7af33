"""How gnosis reads forms and says what is wrong: FastAPI's 422s, ``{"error": …}`` for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.compat.answering import Handler, service_of
from facegraph.api.compat.answering import answering as told
from facegraph.api.parsing import read_form
from facegraph.datasets import Dataset, read_dataset
from facegraph.errors import ImageTooLarge, InvalidRequest
from facegraph.service import Service

Kind = Literal["text", "image", "images", "dataset"]

_FLAG = TypeAdapter(bool)
_ECHO = 256
"""Of a text that came instead of a file, so many characters are sent back."""


class Unfit(Exception):
    """Fields are missing or of the wrong kind; ``detail`` is FastAPI's list of them."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Fields:
    """A form's texts and files by name; a field that comes once has one file."""

    texts: Mapping[str, str]
    files: Mapping[str, list[bytes]]
    return_img_b64: bool


def answering(handler: Handler) -> Handler:
    """``handler`` with its errors as gnosis' clients know them."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Unfit as error:
            return JSONResponse({"detail": error.detail}, 422)

    return told(answer)


async def dataset_of(service: Service, data: bytes) -> Dataset:
    """The people of one request; InvalidRequest also for embeddings of another dimension."""
    return await service.pixels.run(read_dataset, data, service.contract.dimension)


async def read(request: Request, kinds: Mapping[str, Kind], *, flagged: bool = False) -> Fields:
    """The named fields; others are ignored, and of several with one name the last counts.

    flagged: ``return_img_b64`` of the query counts
    Raises Unfit, InvalidRequest for what is no form or has too many images, ImageTooLarge.
    """
    tuning = service_of(request).tuning
    wrong: list[dict[str, Any]] = []
    flag = flagged and _flag(request, "return_img_b64", wrong)
    async with read_form(request, tuning) as form:
        found = {name: _values(form, name, kind, wrong) for name, kind in kinds.items()}
        if wrong:
            raise Unfit(wrong)
        texts, files = {}, {}
        for name, values in found.items():
            uploads = [value for value in values if isinstance(value, UploadFile)]
            if kinds[name] == "text":
                texts[name] = str(values[0])
            else:
                most = None if kinds[name] == "dataset" else tuning.max_image_bytes
                files[name] = await _bytes(uploads, tuning.max_images, most)
    return Fields(texts, files, flag)


def _flag(request: Request, name: str, wrong: list[dict[str, Any]]) -> bool:
    """A boolean of the query as FastAPI spells them; absent means no."""
    try:
        return _FLAG.validate_python(request.query_params.get(name, False))
    except ValidationError as error:
        (said,) = error.errors(include_url=False, include_context=False)
        wrong.append({**said, "loc": ["query", name]})
        return False


def _values(
    form: FormData, name: str, kind: Kind, wrong: list[dict[str, Any]]
) -> list[str | UploadFile]:
    """What came under ``name``; whatever is not of ``kind`` is added to ``wrong``."""
    values = form.getlist(name)
    if kind != "images":
        values = [value for value in values[-1:] if value != ""]
    if not values:
        wrong.append(_fault("missing", ["body", name], "Field required", None))
    for at, value in enumerate(values):
        place: list[str | int] = ["body", name, at] if kind == "images" else ["body", name]
        if kind == "text" and isinstance(value, UploadFile):
            said = "Input should be a valid string"
            wrong.append(_fault("string_type", place, said, value.filename))
        elif kind != "text" and isinstance(value, str):
            said = "Value error, Expected UploadFile, received: <class 'str'>"
            fault = _fault("value_error", place, said, value[:_ECHO])
            wrong.append({**fault, "ctx": {"error": {}}})
    return values


def _fault(type: str, loc: list[str | int], msg: str, input: str | None) -> dict[str, Any]:
    return {"type": type, "loc": loc, "msg": msg, "input": input}


async def _bytes(uploads: list[UploadFile], most: int, max_bytes: int | None) -> list[bytes]:
    if len(uploads) > most:
        raise InvalidRequest(f"more than {most} images in one request")
    for upload in uploads:
        if max_bytes is not None and (upload.size or 0) > max_bytes:
            raise ImageTooLarge(f"an image may have {max_bytes} bytes")
    return [await upload.read() for upload in uploads]
