"""Between messages and the members of JSON, by the names they share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.unknown_fields import UnknownFieldSet

from facegraph.api.grpc import facegraph_pb2 as pb
from facegraph.api.messagepack import as_float
from facegraph.errors import InvalidRequest

POINT = ("x", "y")

EXACT = 2**53
"""A Struct's numbers are float64; whole ones below this were whole when they were sent."""


def fill(message: Message, members: Mapping[str, Any]) -> None:
    """Sets the fields of ``message`` from the members of an answer; None leaves one unset."""
    for name, value in members.items():
        if value is None:
            continue
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.message_type is None:
            _set(message, name, value, repeated=field.is_repeated)
        elif field.is_repeated:
            for each in value:
                _put(getattr(message, name).add(), each)
        else:
            part = getattr(message, name)
            part.SetInParent()
            _put(part, value)


def _set(message: Message, name: str, value: Any, *, repeated: bool) -> None:
    if repeated:
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _put(message: Message, value: Mapping[str, Any] | Sequence[float]) -> None:
    if isinstance(message, Struct):
        message.update(_to_struct(value))
    elif isinstance(value, Mapping):
        fill(message, value)
    else:
        fill(message, dict(zip(POINT, value, strict=True)))


def _to_struct(value: Any) -> Any:
    """Integers as Struct's numbers have them: :func:`facegraph.api.messagepack.as_float`."""
    if isinstance(value, Mapping):
        return {name: _to_struct(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_to_struct(each) for each in value]
    return as_float(value) if type(value) is int else value  # a bool is an int, too


def members(message: Message, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields that are set, but those named. InvalidRequest for one that is not known here."""
    if len(UnknownFieldSet(message)):
        raise InvalidRequest(
            f"{message.DESCRIPTOR.name} has a field that this service does not know"
        )
    return {
        field.name: _plain(value)
        for field, value in message.ListFields()
        if field.name not in without
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: _from_struct(each) for name, each in value.fields.items()}
    if isinstance(value, pb.Embedding):
        return list(value.values)
    if isinstance(value, str | bytes | int | float):
        return value
    return [_plain(each) for each in value]


def _from_struct(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_from_struct(each) for each in value.list_value.values]
    if kind == "number_value":
        number: float = value.number_value
        return int(number) if number.is_integer() and abs(number) < EXACT else number
    return getattr(value, kind) if kind in {"string_value", "bool_value"} else None


def as_images(value: bytes | Iterable[bytes]) -> list[bytes]:
    """The pictures of one field."""
    return [value] if isinstance(value, bytes) else list(value)
