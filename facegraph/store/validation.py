"""What may be stored: checked before a connection is taken, so that bad input costs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from facegraph.errors import InvalidRequest
from facegraph.types import Contract, NewSample, SearchMode

MAX_ID_LENGTH = 128
MAX_TEXT_LENGTH = 4096
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
MAX_SAMPLES_PER_WRITE = 1000
MAX_PAGE = 1000
MAX_VERSION = 2**62
SEARCH_MODES: tuple[SearchMode, ...] = get_args(SearchMode)


def check_id(kind: str, value: str) -> str:
    """``value`` if it can be an id: 1–128 printable characters; else InvalidRequest."""
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidRequest(f"{kind}: expected 1 to {MAX_ID_LENGTH} characters")
    _check_characters(kind, value)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise InvalidRequest(f"{kind}: must not contain control characters")
    return value


def check_text(field: str, value: Any) -> str | None:
    """``value`` if PostgreSQL can store it and it is not too long; else InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH:
        raise InvalidRequest(f"{field}: expected text of at most {MAX_TEXT_LENGTH} characters")
    _check_characters(field, value)
    return value


def check_metadata(value: Mapping[str, Any] | None) -> str:
    """``value`` as JSON text; InvalidRequest when it is no object, too deep or over 16 KiB."""
    if value is None:
        return "{}"
    if not isinstance(value, Mapping):
        raise InvalidRequest("metadata: expected an object")
    _check_depth(value, MAX_METADATA_DEPTH)
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"metadata: not JSON ({error})") from None
    if "\\u0000" in text.replace("\\\\", ""):  # how json.dumps writes a NUL
        raise InvalidRequest("metadata: must not contain NUL")
    _check_characters("metadata", text)
    if (size := len(text.encode())) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata: {size} bytes, at most {MAX_METADATA_BYTES} are kept")
    return text


def check_threshold(value: Any) -> float | None:
    """``value`` if it is a cosine; else InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not -1 <= value <= 1:
        raise InvalidRequest("threshold: expected a number from -1 to 1")
    return float(value)


def check_search_mode(value: Any) -> SearchMode:
    """``value`` if a collection can be searched so; else InvalidRequest."""
    for mode in SEARCH_MODES:
        if value == mode:
            return mode
    raise InvalidRequest(f"search_mode: expected one of {', '.join(SEARCH_MODES)}")


def check_samples(samples: Sequence[NewSample], contract: Contract) -> Sequence[NewSample]:
    """``samples`` if each can be stored under ``contract``; else InvalidRequest."""
    if len(samples) > MAX_SAMPLES_PER_WRITE:
        raise InvalidRequest(
            f"{len(samples)} samples in one write, at most {MAX_SAMPLES_PER_WRITE} are taken"
        )
    ids = [check_id("sample id", sample.id) for sample in samples if sample.id is not None]
    if len(set(ids)) < len(ids):
        raise InvalidRequest("a sample id occurs twice")
    for sample in samples:
        _check_embedding(sample.embedding, contract.dimension)
    return samples


def check_limit(limit: int) -> int:
    """``limit`` if a page may be that long; else InvalidRequest."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit: expected 1 to {MAX_PAGE}, got {limit}")
    return limit


def check_changes(changes: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """InvalidRequest when a field is named that cannot be changed."""
    if unknown := sorted(changes.keys() - allowed):
        raise InvalidRequest(f"cannot be changed: {', '.join(unknown)}")


def check_revision(if_revision: int | None) -> int | None:
    """``if_revision`` if the database can compare it; else InvalidRequest."""
    if if_revision is not None and not 0 <= if_revision <= MAX_VERSION:
        raise InvalidRequest("revision: out of range")
    return if_revision


def _check_characters(field: str, value: str) -> None:
    if "\0" in value:
        raise InvalidRequest(f"{field}: must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{field}: must not contain lone surrogates") from None


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise InvalidRequest(f"metadata: nested deeper than {MAX_METADATA_DEPTH}")
    if isinstance(value, Mapping):
        for part in value.values():
            _check_depth(part, left - 1)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_depth(part, left - 1)


def _check_embedding(embedding: Any, dimension: int) -> None:
    if not isinstance(embedding, np.ndarray) or embedding.dtype != np.float32:
        raise InvalidRequest("embedding: expected an array of float32")
    if embedding.shape != (dimension,):
        raise InvalidRequest(f"embedding: expected shape ({dimension},), got {embedding.shape}")
    if not np.isfinite(embedding).all():
        raise InvalidRequest("embedding: must be finite")
