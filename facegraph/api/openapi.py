"""OpenAPI 3.1 from the declared endpoints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from facegraph import __version__
from facegraph.api import messagepack
from facegraph.api.archives import ArchiveEndpoint, archive_body
from facegraph.api.endpoint import Endpoint, ImageRule, Picture
from facegraph.api.problems import MEDIA_TYPE
from facegraph.api.streaming import Streamed
from facegraph.api.training import TrainingEndpoint, training_body
from facegraph.errors import (
    FacegraphError,
    InvalidRequest,
    Overloaded,
    StoreUnavailable,
    TimedOut,
    UnsupportedMediaType,
)
from facegraph.ids import ID_PATTERN

COMMON_ERRORS: tuple[type[FacegraphError], ...] = (InvalidRequest, Overloaded, TimedOut)
_REF = "#/components/schemas/{model}"

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; branch on this."},
        "request_id": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}

_ENCODINGS = """\
Where a body is `application/json` it may as well be `application/msgpack`, with the same members:
a request says so in `content-type`, and an answer is so where `accept` names it at least as dear
as JSON. There, an image is its bytes (bin) and an embedding, of an answer or a request, is bin:
its numbers as float32, little endian. Problems are JSON always.
"""

_IMAGE = {
    "description": "In MessagePack also the picture's bytes (bin).",
    "oneOf": [
        {"type": "string", "description": "A data URI: data:image/…;base64,…"},
        *(
            {
                "type": "object",
                "required": [kind],
                "properties": {kind: {"type": "string"}},
                "additionalProperties": False,
            }
            for kind in ("base64", "data_uri", "url")
        ),
    ],
}

_FIELDS: Mapping[ImageRule, Mapping[str, bool]] = {
    "none": {},
    "one": {"image": False},
    "pair": {"source": False, "target": False},
    "optional": {"image": False},
    "several": {"image": False, "images": True},
}
"""Image field → whether it is a list."""


def openapi(endpoints: Iterable[Endpoint[Any]]) -> dict[str, Any]:
    """The document for these endpoints."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM, "Image": _IMAGE}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Facegraph",
            "version": __version__,
            "license": {"name": "MIT"},
            "description": _ENCODINGS,
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    doc = inspect.getdoc(endpoint.handler) or ""
    module = endpoint.handler.__module__.rpartition(".")[2]
    operation: dict[str, Any] = {
        "operationId": f"{module}_{endpoint.handler.__name__}",
        "tags": [module],
        "summary": doc.partition("\n")[0],
        "description": doc,
        "parameters": _parameters(endpoint, schemas),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.method in ("POST", "PATCH"):
        operation["requestBody"] = _body(endpoint, schemas)
    return operation


def _params_schema(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = endpoint.params.model_json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    return schema


def _parameters(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": ID_PATTERN},
        }
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    schema = _params_schema(endpoint, schemas)
    query = [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": part,
        }
        | ({"style": "form", "explode": False} if _is_list_of_text(part) else {})
        for name, part in schema.get("properties", {}).items()
        if _is_scalar(part) or _is_list_of_text(part)
    ]
    return path + query


def _is_scalar(part: Mapping[str, Any]) -> bool:
    kinds = {part.get("type")} | {option.get("type") for option in part.get("anyOf", [])}
    return not kinds & {"object", "array"}


def _is_list_of_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "array" and part.get("items", {}).get("type") == "string"


def _body(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    params = _params_schema(endpoint, schemas)
    members = params.get("properties", {})
    if endpoint.video:
        return _video_body(params)
    if isinstance(endpoint, ArchiveEndpoint):
        return archive_body(params)
    if isinstance(endpoint, TrainingEndpoint):
        return training_body(params, {"$ref": _REF.format(model="Image")})
    images = _FIELDS[endpoint.images]
    required = [] if endpoint.images in ("optional", "several", "none") else list(images)
    image: dict[str, Any] = {"$ref": _REF.format(model="Image")}
    members_of_both = {
        "type": "object",
        "additionalProperties": False,
        "required": required + params.get("required", []),
        "properties": {
            name: {"type": "array", "items": image} if many else image
            for name, many in images.items()
        }
        | members,
    }
    content: dict[str, Any] = {
        messagepack.JSON: {"schema": members_of_both},
        messagepack.MEDIA_TYPE: {"schema": members_of_both},
    }
    if images:
        file = {"type": "string", "format": "binary"}
        content["multipart/form-data"] = {
            "schema": {
                "type": "object",
                "required": required,
                "properties": {
                    name: {"type": "array", "items": file} if many else file
                    for name, many in images.items()
                }
                | members,
            }
        }
    if "image" in images:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": bool(required), "content": content}


def _video_body(params: Mapping[str, Any]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["video", *params.get("required", [])],
        "properties": {"video": file, **params.get("properties", {})},
    }
    content = {"multipart/form-data": {"schema": form}, "video/*": {"schema": file}}
    return {"required": True, "content": content}


def _responses(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {str(endpoint.status): {"description": "Success"}}
    if endpoint.answer is Picture:
        binary = {"schema": {"type": "string", "format": "binary"}}
        responses[str(endpoint.status)]["content"] = {"image/*": binary}
    elif endpoint.answer is Streamed:
        content = {kind: {"schema": _streamed(kind)} for kind in endpoint.media_types}
        responses[str(endpoint.status)]["content"] = content
    elif endpoint.answer is not None:
        schema = TypeAdapter(endpoint.answer).json_schema(ref_template=_REF, mode="serialization")
        schemas.update(schema.pop("$defs", {}))
        schemas[endpoint.answer.__name__] = schema
        ref = {"$ref": _REF.format(model=endpoint.answer.__name__)}
        responses[str(endpoint.status)]["content"] = {
            messagepack.JSON: {"schema": ref},
            messagepack.MEDIA_TYPE: {"schema": ref},
        }
    problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status, codes in _codes(endpoint).items():
        responses[str(status)] = {"description": ", ".join(codes), "content": problem}
    return responses


def _streamed(media_type: str) -> dict[str, str]:
    if media_type.startswith("text/"):
        return {"type": "string"}
    return {"type": "string", "format": "binary"}


def _codes(endpoint: Endpoint[Any]) -> dict[int, list[str]]:
    errors = {*COMMON_ERRORS, *endpoint.errors}
    if endpoint.path.startswith(("/v1/collections", "/v1/recognizers")):
        errors.add(StoreUnavailable)
    bringing = endpoint.images != "none" or endpoint.video
    if bringing or isinstance(endpoint, ArchiveEndpoint | TrainingEndpoint):
        errors.add(UnsupportedMediaType)
    codes: dict[int, list[str]] = {}
    for error in sorted(errors, key=lambda kind: (kind.status, kind.code)):
        codes.setdefault(error.status, []).append(error.code)
    return codes
