"""What the store answers, where :mod:`facegraph.types` has no type for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from facegraph.types import Head, Sample, Subject

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


@dataclass(frozen=True, slots=True)
class Origin:
    """A collection as it was when something was made of it: its version, and that one's stamp."""

    collection_id: str
    incarnation: str
    version: int
    stamp: str

    @classmethod
    def of(cls, collection_id: str, head: Head) -> Origin:
        return cls(collection_id, head.incarnation, head.version, head.stamp)

    def told(self) -> dict[str, Any]:
        """As JSON, from which :meth:`read` makes it again."""
        return {
            "id": self.collection_id,
            "incarnation": self.incarnation,
            "version": self.version,
            "stamp": self.stamp,
        }

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Origin:
        return cls(told["id"], told["incarnation"], told["version"], told["stamp"])


@dataclass(frozen=True, slots=True)
class Notification:
    """Whom to tell that a recognizer is built, or failed, and how that went; never the secret.

    state: `waiting` until it is taken, then `delivered`, or `given_up`
    problem: what went wrong last
    """

    url: str
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Recognizer:
    """A recognizer, or one in the making.

    state: while there is a job, what that job tells; `ready` once the model is there
    options: what was asked for, as JSON
    contract_id: of the embeddings it takes
    collection_id: what it is built from; None: pictures
    labels, label_count: known once it is `ready`; a list has only their number
    course: the search so far, generation by generation, as JSON
    outcome: shape, metrics, left out, as JSON, once it is `ready`
    problem: why it failed
    model_bytes, model_sha256: of the ONNX file
    """

    id: str
    name: str | None
    state: Literal["queued", "building", "ready", "failed"]
    progress: float
    message: str
    options: Mapping[str, Any]
    contract_id: str
    collection_id: str | None
    labels: tuple[str, ...]
    label_count: int
    course: Mapping[str, Any] | None
    outcome: Mapping[str, Any] | None
    problem: Mapping[str, Any] | None
    model_bytes: int | None
    model_sha256: str | None
    notification: Notification | None
    created_at: dt.datetime
    finished_at: dt.datetime | None

    @property
    def origin(self) -> Origin | None:
        """What it was built from, where its outcome tells a collection."""
        told = (self.outcome or {}).get("collection")
        return None if told is None else Origin.read(told)


@dataclass(frozen=True, slots=True)
class DueNotification:
    """A notification that its taker is to send now.

    secret: what it is signed with
    attempts: this one included
    waiting_s: since the build ended
    """

    recognizer_id: str
    url: str
    secret: str = field(repr=False)
    attempts: int
    waiting_s: float
    recognizer: Recognizer
