"""MessagePack beside JSON: what the client asks for, answers packed, bodies unpacked.

The members are those of JSON. An image is its bytes (bin); an embedding in an answer is bin, its
numbers as float32, little endian, without base64 in between, and may be that in a request.
Integers that 64 bits do not hold, which JSON's metadata may bring, are answered by
:func:`as_float`. Problems stay ``application/problem+json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from facegraph.errors import InvalidRequest

MEDIA_TYPE = "application/msgpack"
JSON = "application/json"

MAX_VALUES = 2_000_000
"""Of one body: more take seconds and gigabytes."""
MAX_LENGTH = 16_384
"""Members of one list or object. Memory is set aside as the length is read, on every level."""
MAX_DEPTH = 64
"""Of parameters; metadata are written as JSON, by recursion."""

BINARY = frozenset({"embedding", "embeddings"})
"""Parameters that may be bytes."""


def wanted(accept: str | None) -> bool:
    """Whether an ``Accept`` header prefers MessagePack by name; a wildcard means JSON."""
    if accept is None or MEDIA_TYPE not in accept.lower():
        return False
    weights = dict(_weights(accept.lower()))
    ours = weights.get(MEDIA_TYPE, 0.0)
    json = weights.get(JSON, weights.get("application/*", weights.get("*/*", 0.0)))
    return ours > 0 and ours >= json


def _weights(accept: str) -> list[tuple[str, float]]:
    return [
        (kind.strip(), _weight(parameters))
        for kind, _, parameters in (part.partition(";") for part in accept.split(","))
    ]


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def pack(body: Mapping[str, Any]) -> bytes:
    """The answer; arrays become bin."""
    packed: bytes = msgpack.packb(body, default=_packable)
    return packed


def _packable(value: Any) -> bytes | float | str:
    if isinstance(value, np.ndarray):
        return value.astype("<f4", copy=False).tobytes()
    if isinstance(value, int):
        return as_float(value)
    raise TypeError(f"{type(value).__name__} in an answer")


def as_float(value: int) -> float | str:
    """The nearest float64; decimal text where that ends, near 1.8e308."""
    try:
        return float(value)
    except OverflowError:
        return str(value)


def unpack(body: bytes) -> Any:
    """The value of a body; InvalidRequest for none, for bytes after it, and past the limits."""
    values = 0

    def count(container: Any) -> Any:
        nonlocal values
        values += len(container)
        if values > MAX_VALUES:
            raise InvalidRequest(f"the MessagePack has more than {MAX_VALUES} values")
        return container

    try:
        return msgpack.unpackb(
            body,
            strict_map_key=True,
            object_hook=count,
            list_hook=count,
            ext_hook=_refuse,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
            max_ext_len=0,
        )
    except InvalidRequest:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        said = str(error) or type(error).__name__
        raise InvalidRequest(f"this is not MessagePack: {said}") from None


def _refuse(kind: int, data: bytes) -> Any:
    raise InvalidRequest(f"MessagePack's extension types, such as {kind}, are not taken")


def require_plain(params: Mapping[str, Any]) -> None:
    """InvalidRequest unless the parameters are what JSON could say too, but for embeddings."""
    for name, value in params.items():
        if not isinstance(name, str):
            raise InvalidRequest("the name of a member must be text")
        if name not in BINARY:
            _require_json(name, value, MAX_DEPTH)


def _require_json(name: str, value: Any, depth: int) -> None:
    if depth == 0:
        raise InvalidRequest(f"{name!r} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidRequest(f"{name!r} has a key that is no text")
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _require_json(name, each, depth - 1)
    elif not (value is None or isinstance(value, str | int | float)):
        raise InvalidRequest(f"{name!r} cannot be {type(value).__name__}")


def numbers(value: Any) -> Any:
    """A bin of little-endian float32 as a list; everything else as it is. ValueError."""
    if not isinstance(value, bytes):
        return value
    if len(value) % 4:
        raise ValueError("bytes must be float32 numbers, little endian, 4 bytes each")
    return np.frombuffer(value, "<f4").tolist()
