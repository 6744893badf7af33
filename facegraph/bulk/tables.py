"""Rows of a table, whatever file they come from: columns, values, places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from facegraph.bulk.items import File, Found, Item, Link
from facegraph.config import nearest
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.ids import is_id
from facegraph.importing.enrolling import Person
from facegraph.importing.report import Rejected, Rejection

CONTENT = ("path", "url", "image")
COLUMNS = ("subject_id", "name", "external_id", "metadata", *CONTENT)
MAX_WHERE = 300

Resolve = Callable[[str], bytes | File]
"""What a row's ``path`` stands for; Rejected."""


def check_columns(place: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """ConfigError for unknown, doubled or missing columns of the table ``place``."""
    names, allowed = list(names), list(allowed)
    for name in names:
        if name not in allowed:
            hint = nearest(name, allowed)
            raise ConfigError(
                f"{place}: unknown column {name!r}{hint}; known: {', '.join(allowed)}"
            )
        if names.count(name) > 1:
            raise ConfigError(f"{place}: the column {name!r} comes twice")
    if "subject_id" not in names:
        raise ConfigError(f"{place}: there is no column subject_id")
    if not set(names) & set(CONTENT):
        content = " or ".join(name for name in CONTENT if name in allowed)
        raise ConfigError(f"{place}: there is no column {content}")


def item_of(where: str, row: Mapping[str, Any], resolve: Resolve) -> Found:
    """A row as an item, or why it is none; empty values are as if absent."""
    values = {name: value for name, value in row.items() if value is not None and value != ""}
    subject_id = values.get("subject_id")
    told = subject_id if isinstance(subject_id, str) and is_id(subject_id) else None
    try:
        person = _person(values)
        content, named = _content(values, resolve)
    except (Rejected, InvalidRequest) as why:
        code = why.code if isinstance(why, Rejected) else "invalid_row"
        return Rejection(told, where, code, getattr(why, "detail", str(why)))
    return Item(f"{where}: {named}"[:MAX_WHERE] if named else where, person, content)


def _person(values: Mapping[str, Any]) -> Person:
    subject_id = values.get("subject_id")
    if not isinstance(subject_id, str) or not is_id(subject_id):
        raise Rejected(
            "invalid_id",
            f"subject_id {subject_id!r} is no id: 1-128 letters, digits or ._-@:"
            if subject_id is not None
            else "there is no subject_id",
        )
    return Person(
        subject_id,
        values.get("name"),
        _metadata(values.get("metadata", {})),
        values.get("external_id"),
    )


def _metadata(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Rejected("invalid_row", "metadata is no JSON") from None
    if not isinstance(value, Mapping):
        raise Rejected("invalid_row", "metadata is no JSON object")
    return value


def _content(values: Mapping[str, Any], resolve: Resolve) -> tuple[bytes | File | Link, str | None]:
    """The picture of a row and what it is called."""
    given = [name for name in CONTENT if name in values]
    if len(given) != 1:
        raise Rejected("invalid_row", f"needs one of {', '.join(CONTENT)}, has {len(given)}")
    (name,) = given
    value = values[name]
    if name == "image":
        data = value.get("bytes") if isinstance(value, Mapping) else value  # as datasets keep them
        if not isinstance(data, bytes):
            raise Rejected("invalid_row", "image holds no bytes")
        return data, None
    if not isinstance(value, str) or "\0" in value:
        raise Rejected("invalid_row", f"{name} holds no {name}")
    return (Link(value) if name == "url" else resolve(value)), value
