"""A request sent again with the same key gets the first answer and changes nothing."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import Any

from facegraph.errors import Conflict
from facegraph.store.records import Enrolled
from facegraph.store.writing import Write
from facegraph.types import Sample, Subject

KEPT = "24 hours"
"""How long an answer is remembered."""

_FIND = """
SELECT fingerprint, answer FROM facegraph.idempotency
WHERE collection_id = %s AND key = %s AND created_at > now() - %s::interval
"""
_REMEMBER = """
INSERT INTO facegraph.idempotency (collection_id, key, fingerprint, answer)
VALUES (%s, %s, %s, %s)
"""
_FORGET_OLD = """
DELETE FROM facegraph.idempotency
WHERE collection_id = %s AND created_at <= now() - %s::interval
"""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key, and a digest of the request that it stands for."""

    key: str
    fingerprint: str


class Replayed(Exception):
    """The write was done before; rolls this one back and never leaves the store."""

    def __init__(self, answer: Enrolled) -> None:
        super().__init__(answer)
        self.answer = answer


async def replay(write: Write, token: Idempotency | None) -> None:
    """Raises Replayed when this was done before, Conflict when the key meant something else."""
    if token is None:
        return
    found = await write.connection.execute(_FIND, [write.collection_id, token.key, KEPT])
    row = await found.fetchone()
    if row is None:
        return
    if row[0] != token.fingerprint:
        raise Conflict("this idempotency key was used for another request")
    raise Replayed(_decode(row[1]))


async def remember(write: Write, token: Idempotency | None, answer: Enrolled) -> None:
    """Keeps ``answer`` in the same transaction as what it tells of."""
    if token is None:
        return
    await write.connection.execute(_FORGET_OLD, [write.collection_id, KEPT])
    values = [write.collection_id, token.key, token.fingerprint, _encode(answer)]
    await write.connection.execute(_REMEMBER, values)


def _encode(answer: Enrolled) -> str:
    return json.dumps(asdict(answer), default=dt.datetime.isoformat)


def _decode(stored: dict[str, Any]) -> Enrolled:
    subject = _dated(stored["subject"], "created_at", "updated_at")
    samples = [_dated(sample, "created_at") for sample in stored["samples"]]
    for sample in samples:
        sample["bbox"] = None if sample["bbox"] is None else tuple(sample["bbox"])
    return Enrolled(
        Subject(**subject), tuple(Sample(**sample) for sample in samples), stored["version"]
    )


def _dated(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return values | {key: dt.datetime.fromisoformat(values[key]) for key in keys}
