"""What the store answers, where :mod:`facegraph.types` has no type for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from facegraph.types import Sample, Subject

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list; ``next_cursor`` continues it and is None on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What one write enrolled, in the order given, and the version that shows it.

    ``note`` is what an :class:`~facegraph.store.Idempotency` kept with the first answer.
    """

    subject: Subject
    samples: tuple[Sample, ...]
    version: int
    note: tuple[Mapping[str, Any], ...] = ()
