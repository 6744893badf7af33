"""Where a collection's history stands, and what happened since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from psycopg.sql import SQL

from facegraph.store import moving, samples
from facegraph.store.connecting import BlockingConnection, Connection
from facegraph.store.records import Origin
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
# Whether the log goes back to that version, and it had that stamp in the history that led here.
_LEADS_HERE = SQL("""
c.incarnation::text = %(incarnation)s AND %(version)s BETWEEN c.log_floor AND c.version
AND CASE WHEN c.version = %(version)s THEN c.stamp::text = %(stamp)s ELSE EXISTS (
    SELECT FROM facegraph.past_versions p
    WHERE p.collection_id = c.id AND p.version = %(version)s AND p.stamp::text = %(stamp)s) END
""")
_HEAD_AND_PROOF = SQL("""
SELECT {}, {} FROM facegraph.collections c WHERE c.id = %(collection_id)s
""").format(_HEAD, _LEADS_HERE)
# A range of the primary key: the changes since that version, and the log keeps a bounded number of
# versions.
_REMOVED = SQL("""
SELECT s.moved_to, s.moved_epoch, c.id, ARRAY(
    SELECT DISTINCT subject_id FROM facegraph.changes
    WHERE collection_id = c.id AND version > %(version)s
        AND kind IN ('subject_removed', 'sample_removed') AND subject_id = ANY(%(subject_ids)s))
FROM facegraph.database_state s
LEFT JOIN facegraph.collections c ON c.id = %(collection_id)s AND {}
""").format(_LEADS_HERE)
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
    seen = Origin(collection_id, incarnation, since, stamp)
    row = await (await connection.execute(_HEAD_AND_PROOF, asdict(seen))).fetchone()
    if row is None:
        raise unknown_collection(collection_id)
    *told, leads_here = row
    if not leads_here:
        return None
    now = Head(*told)
    mine = in_shard(shard, SQL("c.subject_id"))
    found = await connection.execute(_LAST_OF_PAGE.format(mine), [collection_id, since, limit - 1])
    last = await found.fetchone()
    reached = now
    if last is not None and last[0] < now.version:
        reached = replace(now, version=last[0], stamp=last[1], more=True)
    rows = await connection.execute(_CHANGES.format(mine), [collection_id, since, reached.version])
    return reached, [change async for row in rows if (change := _change(row)) is not None]


async def untouched(connection: Connection, origin: Origin, subject_ids: Sequence[str]) -> set[str]:
    """Those of the subjects of whom nothing was removed since, as far as that can be proved.

    In one statement with the pointer; Moved. A sample that was replaced was removed. None where
    the log does not go back so far, or history took another course.
    """
    values = {**asdict(origin), "subject_ids": list(subject_ids)}
    row = await (await connection.execute(_REMOVED, values)).fetchone()
    assert row is not None
    moving.check_pointer(row[:2])
    return set() if row[2] is None else set(subject_ids).difference(row[3])


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
