"""A request sent again with the same key gets the first answer and changes nothing."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from facegraph.errors import Conflict
from facegraph.store.connecting import Connection
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
    """A client's key, and a digest of the request that it stands for.

    ``note`` is kept with the answer: what else the client was told.
    """

    key: str
    fingerprint: str
    note: tuple[Mapping[str, Any], ...] = ()


class Replayed(Exception):
    """The write was done before; rolls this one back and never leaves the store."""

    def __init__(self, answer: Enrolled) -> None:
        super().__init__(answer)
        self.answer = answer


async def replay(write: Write, token: Idempotency | None) -> None:
    """Raises Replayed when this was done before, Conflict when the key meant something else."""
    if token is None:
        return
    before = await recall(write.connection, write.collection_id, token)
    if before is not None:
        raise Replayed(before)


async def recall(connection: Connection, collection_id: str, token: Idempotency) -> Enrolled | None:
    """What was answered under this key; None when nothing was; Conflict for another request."""
    found = await connection.execute(_FIND, [collection_id, token.key, KEPT])
    row = await found.fetchone()
    if row is None:
        return None
    if row[0] != token.fingerprint:
        raise Conflict("this idempotency key was used for another request")
    return _decode(row[1])


async def remember(write: Write, token: Idempotency | None, answer: Enrolled) -> Enrolled:
    """Keeps ``answer``, with the token's note, in the same transaction as what it tells of."""
    if token is None:
        return answer
    await write.connection.execute(_FORGET_OLD, [write.collection_id, KEPT])
    told = replace(answer, note=token.note)
    values = [write.collection_id, token.key, token.fingerprint, _encode(told)]
    await write.connection.execute(_REMEMBER, values)
    return told


def _encode(answer: Enrolled) -> str:
    return json.dumps(asdict(answer), default=dt.datetime.isoformat)


def _decode(stored: dict[str, Any]) -> Enrolled:
    subject = _dated(stored["subject"], "created_at", "updated_at")
    samples = [_dated(sample, "created_at") for sample in stored["samples"]]
    for sample in samples:
        sample["bbox"] = None if sample["bbox"] is None else tuple(sample["bbox"])
    return Enrolled(
        Subject(**subject),
        tuple(Sample(**sample) for sample in samples),
        stored["version"],
        tuple(stored["note"]),
    )


def _dated(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return values | {key: dt.datetime.fromisoformat(values[key]) for key in keys}
