"""Opaque cursors: the list they belong to and the last id seen."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from facegraph.errors import InvalidRequest
from facegraph.store.records import Page
from facegraph.store.validation import check_id

T = TypeVar("T")


def after(cursor: str | None, scope: str) -> str:
    """The id after which the page starts; "" for the first page.

    InvalidRequest when ``cursor`` is not one that a list of this ``scope`` gave.
    """
    if cursor is None:
        return ""
    try:
        given, last = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if given == scope:
            return check_id("cursor", last)
    except (ValueError, TypeError, RecursionError, InvalidRequest):
        pass
    raise InvalidRequest("cursor: not one that this list gave")


def page(rows: Sequence[T], limit: int, scope: str, key: Callable[[T], str]) -> Page[T]:
    """``rows``, read with one more than ``limit`` to see whether the list goes on."""
    kept = tuple(rows[:limit])
    if len(rows) <= limit:
        return Page(kept, None)
    text = json.dumps([scope, key(kept[-1])], ensure_ascii=False, separators=(",", ":"))
    return Page(kept, base64.urlsafe_b64encode(text.encode()).decode())
