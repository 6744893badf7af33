"""Parameter types that several endpoints share."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from facegraph.api import messagepack
from facegraph.api.endpoint import Call
from facegraph.api.parsing import load_json
from facegraph.errors import InvalidRequest
from facegraph.ids import ID_PATTERN
from facegraph.store import Enrolled, Idempotency


def _numbers(value: Any) -> Any:
    """Forms and queries bring numbers as JSON text, MessagePack brings them as bytes."""
    return messagepack.numbers(_json_text(value))


def _json_text(value: Any) -> Any:
    """Forms and queries bring JSON members as text."""
    if isinstance(value, str):
        try:
            return load_json(value.encode())
        except (InvalidRequest, ValueError):
            raise ValueError("must be JSON") from None
    return value


def _clean(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must not contain NUL or lone surrogates")
    return text


def no_control_characters(text: str) -> str:
    """``text``; ValueError for line breaks and the like."""
    if not _clean(text).isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _listed(value: Any) -> Any:
    """Queries and forms bring a list as text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value.strip() else []
    return value


Listed = BeforeValidator(_listed)
"""Turns ``a,b`` into ``["a", "b"]``; JSON brings a list itself."""

Id = Annotated[
    str,
    StringConstraints(pattern=ID_PATTERN),
    Field(description="1–128 letters, digits or ._-@:, starting with a letter or digit."),
]
Text = Annotated[str, StringConstraints(max_length=256), AfterValidator(_clean)]
LongText = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_clean)]
Metadata = Annotated[dict[str, Any], BeforeValidator(_json_text)]
NO_METADATA: dict[str, Any] = Field(default_factory=dict)
Embedding = Annotated[list[float], BeforeValidator(_numbers), Field(min_length=1, max_length=4096)]
Embeddings = Annotated[
    list[
        Annotated[
            list[float],
            BeforeValidator(messagepack.numbers),
            Field(min_length=1, max_length=4096),
        ]
    ],
    BeforeValidator(_json_text),
    Field(min_length=1, max_length=1000),
]
ContractId = Annotated[
    Text, Field(description="What made the embeddings: `contract.id` as `/v1/embeddings` says it.")
]
Threshold = Annotated[float, Field(ge=-1, le=1, description="Raw cosine; matches at or above it.")]
MaxFaces = Annotated[
    int, Field(ge=1, le=1000, description="Answer only the largest; default: the service's limit.")
]
PageLimit = Annotated[int, Field(ge=1, le=100)]
Cursor = Annotated[str, StringConstraints(max_length=1024)]


def if_match(header: str | None) -> int | None:
    """The revision an ``If-Match`` header asks for; None for no header or ``*``."""
    if header is None or header.strip() == "*":
        return None
    text = header.strip().removeprefix("W/").strip('"')
    if not text.isdigit():
        raise InvalidRequest("If-Match must be an ETag that this service gave")
    return int(text)


async def before(call: Call[Any], token: Idempotency | None) -> Enrolled | None:
    """What this request was answered when it came the first time; looked up before any work."""
    if token is None:
        return None
    return await call.service.store.recall(call.path["c"], token)


def idempotency(call: Call[Any]) -> Idempotency | None:
    """The ``Idempotency-Key`` with a digest of the request it stands for; None without one."""
    key = call.headers.get("idempotency-key")
    if key is None:
        return None
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise InvalidRequest("Idempotency-Key must be 1–255 printable ASCII characters")
    digest = hashlib.sha256(json.dumps(dict(call.path), sort_keys=True).encode())
    digest.update(json.dumps(call.params.model_dump(), sort_keys=True).encode())
    for image in call.images:
        digest.update(hashlib.sha256(image).digest())
    return Idempotency(key, digest.hexdigest())


def etag(revision: int) -> dict[str, str]:
    return {"etag": f'"{revision}"'}
