"""What a build made, its model and its report, in parts of a few MiB."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from facegraph.errors import DatabaseError, RecognizerNotReady, Unavailable
from facegraph.store import changelog
from facegraph.store.connecting import Connection
from facegraph.store.link import Link
from facegraph.store.recognizer_rows import unknown
from facegraph.store.records import Origin

Kind = Literal["model", "report"]

PART_BYTES = 4 * 2**20

_READY = """
UPDATE facegraph.recognizers SET job_id = NULL, labels = %s, outcome = %s, model_bytes = %s,
    model_sha256 = %s, report_bytes = %s, report_sha256 = %s, finished_at = now()
WHERE id = %s AND job_id IS NOT NULL
"""
_PUT = """
INSERT INTO facegraph.recognizer_parts (recognizer_id, kind, part, data) VALUES (%s, %s, %s, %s)
"""
# Whoever writes to a collection updates its row, so that they wait for each other.
_HOLD = "SELECT FROM facegraph.collections WHERE id = %s FOR SHARE"
_PART = {
    kind: f"""
SELECT {kind}_bytes, {kind}_sha256, data
FROM facegraph.recognizers LEFT JOIN facegraph.recognizer_parts
    ON recognizer_id = id AND kind = '{kind}' AND part = %s
WHERE id = %s
"""
    for kind in ("model", "report")
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part, and the size and digest of the whole."""

    whole_bytes: int
    whole_sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Artefacts:
    """All that makes a recognizer ready; neither ``model`` nor ``report`` is empty."""

    recognizer_id: str
    labels: Sequence[str]
    outcome: Mapping[str, Any]
    model: bytes
    report: bytes
    origin: Origin | None

    async def put(self, connection: Connection) -> None:
        """Writes them, and takes the recognizer from its job; RecognizerNotFound, Unavailable."""
        collection = None if self.origin is None else self.origin.told()
        outcome = {**self.outcome, "collection": collection}
        described: list[Any] = [list(self.labels), json.dumps(outcome)]
        for whole in (self.model, self.report):
            sha256 = (await asyncio.to_thread(hashlib.sha256, whole)).hexdigest()
            described += [len(whole), sha256]
        ready = await connection.execute(_READY, [*described, self.recognizer_id])
        if not ready.rowcount:
            raise unknown(self.recognizer_id)
        for kind, whole in (("model", self.model), ("report", self.report)):
            for number, start in enumerate(range(0, len(whole), PART_BYTES)):
                data = whole[start : start + PART_BYTES]
                await connection.execute(_PUT, [self.recognizer_id, kind, number, data])
        if self.origin is not None:
            await self._require_untouched(connection, self.origin)

    async def _require_untouched(self, connection: Connection, origin: Origin) -> None:
        """Unavailable; else nothing of anybody is removed before this transaction has ended.

        So whoever erases somebody finds this recognizer afterwards, or it was not made. The
        collection is held last: briefly, and by who then waits for nobody.
        """
        await connection.execute(_HOLD, [origin.collection_id])
        known = await changelog.untouched(connection, origin, self.labels)
        if not known.issuperset(self.labels):
            raise Unavailable(
                f"collection {origin.collection_id!r} changed while the recognizer was built"
            )


async def pieces(link: Link, recognizer_id: str, kind: Kind) -> AsyncIterator[bytes]:
    """The parts, in order, each a read of its own; together the whole, or an error.

    RecognizerNotFound, also when it is deleted in the middle; RecognizerNotReady; DatabaseError
    instead of the last part where the parts are not those that were put.
    """
    digest, taken, number = hashlib.sha256(), 0, 0
    while True:
        part = await link.read(
            partial(_part, recognizer_id=recognizer_id, kind=kind, number=number)
        )
        await asyncio.to_thread(digest.update, part.data)
        taken += len(part.data)
        whole = taken == part.whole_bytes and digest.hexdigest() == part.whole_sha256
        if not whole and (not part.data or taken >= part.whole_bytes):
            raise DatabaseError(f"the {kind} of recognizer {recognizer_id!r} is damaged")
        yield part.data
        if whole:
            return
        number += 1


async def _part(connection: Connection, recognizer_id: str, kind: Kind, number: int) -> Part:
    """That part, empty where there is none; RecognizerNotFound, RecognizerNotReady."""
    found = await connection.execute(_PART[kind].encode(), [number, recognizer_id], binary=True)
    row = await found.fetchone()
    if row is None:
        raise unknown(recognizer_id)
    if row[0] is None:
        raise RecognizerNotReady(f"recognizer {recognizer_id!r} is not ready")
    return Part(row[0], row[1], row[2] or b"")
