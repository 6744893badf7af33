"""Endpoints, each declared once: what dispatches them is what OpenAPI describes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from facegraph.api import messagepack
from facegraph.api.parsing import Parsed, parse
from facegraph.api.state import State
from facegraph.api.streaming import Streamed, StreamedResponse, Upload, received_video
from facegraph.api.training_forms import TrainingUpload
from facegraph.config import IngressTuning, nearest
from facegraph.errors import FacegraphError, InvalidRequest
from facegraph.ids import is_id
from facegraph.service import Service

ImageRule = Literal["none", "one", "pair", "optional", "several"]
"""none; exactly one `image`; `source` and `target`; at most one `image`; any number as
`image` or `images`, even none."""

_ALLOWED: Mapping[ImageRule, tuple[str, ...]] = {
    "none": (),
    "one": ("image",),
    "pair": ("source", "target"),
    "optional": ("image",),
    "several": ("image", "images"),
}


class Params(BaseModel):
    """Base of every endpoint's parameters: closed, so a misspelt name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(Params):
    """An endpoint without parameters."""


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class Call(Generic[P]):
    """One request, read and validated.

    images: the compressed bytes in the order sent
    upload: the video, where the endpoint takes one
    training: the pictures, where the endpoint takes very many
    """

    params: P
    images: tuple[bytes, ...]
    path: Mapping[str, str]
    headers: Mapping[str, str]
    state: State
    upload: Upload | None = None
    training: TrainingUpload | None = None

    @property
    def service(self) -> Service:
        return self.state.service

    @property
    def video(self) -> Upload:
        """The video of an endpoint that takes one."""
        assert self.upload is not None
        return self.upload


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with its own headers."""

    body: Mapping[str, Any] | None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """An answer that is a picture."""

    data: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class InProcess:
    """A request without an HTTP body, as ``scope[IN_PROCESS]``, and its answer.

    It passes through the app as any other: limits, time, errors, metrics. ``read`` says what it
    brought, as :func:`parse` would; instead of a body, the answer's members are left here.
    """

    read: Callable[[IngressTuning], Parsed]
    reply: Reply | None = None


IN_PROCESS = "facegraph.in_process"

Handler = Callable[[Call[P]], Awaitable[Mapping[str, Any] | Reply | Picture | Streamed | None]]


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[P]):
    """A route with its parameters, images, answer and the errors of its own.

    answer: the TypedDict of its JSON, ``Picture``, ``Streamed``, or None for no body
    video: whether the request brings a video, and no image
    media_types: of a ``Streamed`` answer
    """

    method: str
    path: str
    handler: Handler[P]
    params: type[P]
    answer: Any
    images: ImageRule = "none"
    status: int = 200
    errors: tuple[type[FacegraphError], ...] = ()
    video: bool = False
    media_types: tuple[str, ...] = ()

    async def __call__(self, request: Request) -> Response:
        state: State = request.app.state.facegraph
        if (brought := request.scope.get(IN_PROCESS)) is not None:
            return await self._answer_in_process(request, state, brought)
        if not self.video:
            parsed = await parse(request, state.service.tuning, state.fetch)
            return await self._answer(request, state, parsed)
        async with AsyncExitStack() as held:
            parsed, upload = await held.enter_async_context(received_video(request))
            response = await self._answer(request, state, parsed, upload)
            if isinstance(response, StreamedResponse):
                response.hold(held.pop_all())
            return response

    async def _answer(
        self,
        request: Request,
        state: State,
        parsed: Parsed,
        upload: Upload | None = None,
        training: TrainingUpload | None = None,
    ) -> Response:
        answer = await self._handle(request, state, parsed, upload, training)
        if isinstance(answer, Streamed):
            return StreamedResponse(answer, self.status)
        if isinstance(answer, Picture):
            return Response(answer.data, self.status, dict(answer.headers), answer.media_type)
        return encoded(request, answer, self.status)

    async def _answer_in_process(
        self, request: Request, state: State, brought: InProcess
    ) -> Response:
        answer = await self._handle(request, state, brought.read(state.service.tuning))
        assert isinstance(answer, Reply), "only endpoints that answer JSON are called so"
        brought.reply = answer
        return Response(status_code=self.status)

    async def _handle(
        self,
        request: Request,
        state: State,
        parsed: Parsed,
        upload: Upload | None = None,
        training: TrainingUpload | None = None,
    ) -> Reply | Picture | Streamed:
        call = Call(
            params=validate(self.params, parsed.params),
            images=pick_images(self.images, parsed),
            path=_path_ids(request.path_params),
            headers=request.headers,
            state=state,
            upload=upload,
            training=training,
        )
        answer = await self.handler(call)
        return answer if isinstance(answer, Reply | Picture | Streamed) else Reply(answer)


def endpoint(
    method: str,
    path: str,
    *,
    answer: Any,
    params: type[P],
    images: ImageRule = "none",
    status: int = 200,
    errors: tuple[type[FacegraphError], ...] = (),
    video: bool = False,
    media_types: tuple[str, ...] = (),
) -> Callable[[Handler[P]], Endpoint[P]]:
    """Declares the decorated coroutine as the handler of ``method path``."""

    def declare(handler: Handler[P]) -> Endpoint[P]:
        return Endpoint(
            method, path, handler, params, answer, images, status, errors, video, media_types
        )

    return declare


def encoded(request: Request, reply: Reply, status: int) -> Response:
    """The reply with the request id in it, as JSON or MessagePack; 204 has no body."""
    if reply.body is None:
        return Response(status_code=204, headers=dict(reply.headers))
    body = {**reply.body, "request_id": request.state.request_id}
    headers = {"vary": "accept", **reply.headers}
    if messagepack.wanted(request.headers.get("accept")):
        return Response(messagepack.pack(body), status, headers, messagepack.MEDIA_TYPE)
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, default=_listed)
    return Response(text.encode(), status, headers, messagepack.JSON)


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in an answer")


def validate(model: type[P], values: Mapping[str, Any]) -> P:
    """``values`` as the endpoint's parameters; InvalidRequest lists every bad one."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        errors = tuple(
            {"field": ".".join(map(str, part["loc"])), "detail": _say(model, part)}
            for part in error.errors(include_url=False, include_context=False)
        )
        said = "; ".join(
            f"{e['field']}: {e['detail']}" if e["field"] else e["detail"] for e in errors
        )
        raise InvalidRequest(said, errors) from None


def _say(model: type[Params], part: Any) -> str:
    if part["type"] == "extra_forbidden":
        return f"unknown parameter{nearest(str(part['loc'][0]), model.model_fields)}"
    said: str = part["msg"].removeprefix("Value error, ")
    return said


def pick_images(rule: ImageRule, parsed: Parsed) -> tuple[bytes, ...]:
    """The images ``rule`` allows, in order; InvalidRequest for missing or unexpected ones."""
    allowed = _ALLOWED[rule]
    if unexpected := parsed.images.keys() - set(allowed):
        expected = " and ".join(allowed) or "no image"
        raise InvalidRequest(f"unexpected {', '.join(sorted(unexpected))}; expected {expected}")
    if rule == "several":
        return tuple(parsed.images.get("image", []) + parsed.images.get("images", []))
    for name in allowed:
        count = len(parsed.images.get(name, []))
        if count > 1 or (count == 0 and rule != "optional"):
            raise InvalidRequest(f"expected one image {name!r}, got {count}")
    return tuple(parsed.images[name][0] for name in allowed if name in parsed.images)


def _path_ids(path_params: Mapping[str, str]) -> dict[str, str]:
    for value in path_params.values():
        if not is_id(value):
            raise InvalidRequest(
                f"{value!r} is no id: 1–128 letters, digits or ._-@:, a letter or digit first"
            )
    return dict(path_params)
