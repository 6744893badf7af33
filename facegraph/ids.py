"""What an id is, and ids of the old systems, which may be any text, as ids of ours.

An old id that is no id of ours is kept as ``b64.`` and its base64url form, so nothing collides; one
of more than 93 bytes is too long for that.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from facegraph.errors import InvalidRequest

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$"


def is_id(text: str) -> bool:
    """Whether ``text`` is an id; stricter than ``$``, which lets a line break pass."""
    return re.fullmatch(ID_PATTERN[1:-1], text) is not None


def as_old_id(value: Any) -> str:
    """An old id as text; numbers were common. InvalidRequest for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRequest("an id is a string or a whole number")
    return str(value)


def to_subject_id(old_id: str) -> str:
    """Our id for an old one; InvalidRequest for one that cannot be kept."""
    if is_id(old_id) and not old_id.startswith("b64."):
        return old_id
    try:
        ours = "b64." + base64.urlsafe_b64encode(old_id.encode()).decode().rstrip("=")
    except UnicodeEncodeError:
        raise InvalidRequest("the id is no text") from None
    if len(ours) > 128:
        raise InvalidRequest("the id is too long")
    return ours


def to_old_id(subject_id: str) -> str:
    """The inverse of :func:`to_subject_id`; an id that it did not make stays as it is."""
    if not subject_id.startswith("b64."):
        return subject_id
    text = subject_id.removeprefix("b64.")
    try:
        old_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return subject_id
    return old_id if to_subject_id(old_id) == subject_id else subject_id
