"""Where a collection's history stands, and what happened since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg.sql import SQL

from facegraph.store import moving, samples
from facegraph.store.connecting import BlockingConnection, Connection
from facegraph.store.sharding import in_shard
from facegraph.store.writing import unknown_collection
from facegraph.types import Change, Head, Shard, SubjectRecord

_HEAD = SQL(
    "incarnation::text, version, log_floor, contract_id, dimension, threshold, false AS more,"
    " stamp::text, sample_count, search_mode"
)
_HEAD_AND_POINTER = SQL("""
SELECT s.moved_to, s.moved_epoch, c.id, {}
FROM facegraph.database_state s LEFT JOIN facegraph.collections c ON c.id = %s
""").format(_HEAD)
_HEADS_AND_POINTER = SQL("""
SELECT s.moved_to, s.moved_epoch, c.id, {}
FROM facegraph.database_state s LEFT JOIN facegraph.collections c ON true
""").format(_HEAD)
_HEAD_ONLY = SQL("SELECT {} FROM facegraph.collections WHERE id = %s").format(_HEAD)
_KNOWN = """
SELECT FROM facegraph.past_versions
WHERE collection_id = %s AND version = %s AND stamp::text = %s
"""
# A page ends with the last row of a version, so that an index is never left between two.
_LAST_OF_PAGE = SQL("""
SELECT c.version, coalesce(p.stamp::text, '')
FROM facegraph.changes c LEFT JOIN facegraph.past_versions p USING (collection_id, version)
WHERE collection_id = %s AND version > %s AND {}
ORDER BY version, ordinal OFFSET %s LIMIT 1
""")
_CHANGES = SQL("""
SELECT c.version, c.kind, c.subject_id, c.sample_id, s.id, s.name, s.metadata, x.embedding
FROM facegraph.changes c
LEFT JOIN facegraph.subjects s ON c.kind = 'subject_upserted'
    AND s.collection_id = c.collection_id AND s.id = c.subject_id
LEFT JOIN facegraph.samples x ON c.kind = 'sample_added'
    AND x.collection_id = c.collection_id AND x.id = c.sample_id AND x.subject_id = c.subject_id
WHERE c.collection_id = %s AND c.version > %s AND c.version <= %s AND {}
ORDER BY c.version, c.ordinal
""")


async def head_here(connection: Connection, collection_id: str) -> Head:
    """The head, in one statement with the pointer; CollectionNotFound, Moved."""
    row = await (await connection.execute(_HEAD_AND_POINTER, [collection_id])).fetchone()
    assert row is not None
    moving.check_pointer(row[:2])
    if row[2] is None:
        raise unknown_collection(collection_id)
    return Head(*row[3:])


async def heads_here(connection: Connection) -> dict[str, Head]:
    """Every collection's head, in one statement with the pointer; Moved."""
    rows = await (await connection.execute(_HEADS_AND_POINTER)).fetchall()
    moving.check_pointer(rows[0][:2])
    return {row[2]: Head(*row[3:]) for row in rows if row[2] is not None}


async def head(connection: Connection, collection_id: str) -> Head:
    """The head, within a snapshot; CollectionNotFound."""
    row = await (await connection.execute(_HEAD_ONLY, [collection_id])).fetchone()
    if row is None:
        raise unknown_collection(collection_id)
    return Head(*row)


def head_blocking(connection: BlockingConnection, collection_id: str) -> Head:
    """As :func:`head`, for a thread."""
    row = connection.execute(_HEAD_ONLY, [collection_id]).fetchone()
    if row is None:
        raise unknown_collection(collection_id)
    return Head(*row)


async def changes(
    connection: Connection,
    collection_id: str,
    *,
    since: int,
    incarnation: str,
    stamp: str,
    shard: Shard,
    limit: int,
) -> tuple[Head, Sequence[Change]] | None:
    """See :meth:`Store.changes`; within a snapshot."""
    now = await head(connection, collection_id)
    if now.incarnation != incarnation or not now.log_floor <= since <= now.version:
        return None
    if not await _was(connection, collection_id, now, since, stamp):
        return None
    mine = in_shard(shard, SQL("c.subject_id"))
    found = await connection.execute(_LAST_OF_PAGE.format(mine), [collection_id, since, limit - 1])
    last = await found.fetchone()
    reached = now
    if last is not None and last[0] < now.version:
        reached = replace(now, version=last[0], stamp=last[1], more=True)
    rows = await connection.execute(_CHANGES.format(mine), [collection_id, since, reached.version])
    return reached, [change async for row in rows if (change := _change(row)) is not None]


async def _was(
    connection: Connection, collection_id: str, now: Head, version: int, stamp: str
) -> bool:
    """Whether ``version`` had this stamp in the history that led to ``now``."""
    if version == now.version:
        return stamp == now.stamp
    found = await connection.execute(_KNOWN, [collection_id, version, stamp])
    return await found.fetchone() is not None


def _change(row: tuple[Any, ...]) -> Change | None:
    version, kind, subject_id, sample_id, known, name, metadata, embedding = row
    match kind:
        case "subject_upserted":
            if known is None:
                return None
            record = SubjectRecord(subject_id, name, metadata)
            return Change(version, kind, subject_id, subject=record)
        case "sample_added":
            if embedding is None:
                return None
            vector = samples.from_bytes(embedding)
            return Change(version, kind, subject_id, sample_id, embedding=vector)
        case _:
            return Change(version, kind, subject_id, sample_id)
