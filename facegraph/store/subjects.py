"""The rows of subjects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL

from facegraph.errors import SubjectExists, SubjectNotFound
from facegraph.store import collections
from facegraph.store.collections import assignments, require_revision
from facegraph.store.connecting import Connection
from facegraph.store.paging import after, page
from facegraph.store.records import Page
from facegraph.store.validation import check_changes, check_metadata, check_text
from facegraph.store.writing import Write
from facegraph.types import Subject

_COLUMNS = SQL(
    "id, collection_id, name, external_id, metadata, sample_count, revision, created_at, updated_at"
)
_INSERT = SQL("""
INSERT INTO facegraph.subjects (collection_id, id, name, external_id, metadata, sample_count)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING {}
""").format(_COLUMNS)
_GET = SQL("SELECT {} FROM facegraph.subjects WHERE collection_id = %s AND id = %s").format(
    _COLUMNS
)
_LIST = SQL("""
SELECT {} FROM facegraph.subjects
WHERE collection_id = %(collection)s AND id > %(after)s
    AND (%(like)s::text IS NULL OR id ILIKE %(like)s OR name ILIKE %(like)s
        OR external_id ILIKE %(like)s)
ORDER BY id LIMIT %(rows)s
""").format(_COLUMNS)
_COUNT = SQL("""
UPDATE facegraph.subjects SET sample_count = sample_count + %s, updated_at = now()
WHERE collection_id = %s AND id = %s RETURNING {}
""").format(_COLUMNS)
_UPSERT = SQL("""
INSERT INTO facegraph.subjects AS old (collection_id, id, name, metadata, sample_count)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (collection_id, id) DO UPDATE SET name = excluded.name, metadata = excluded.metadata,
    sample_count = old.sample_count + excluded.sample_count, revision = old.revision + 1,
    updated_at = now()
RETURNING {}
""").format(_COLUMNS)
_DELETE = """
DELETE FROM facegraph.subjects WHERE collection_id = %s AND id = %s RETURNING sample_count
"""
_DELETE_SAMPLES = "DELETE FROM facegraph.samples WHERE collection_id = %s AND subject_id = %s"
_DELETE_ALL = "DELETE FROM facegraph.subjects WHERE collection_id = %s"
_CHANGEABLE = frozenset({"name", "external_id", "metadata"})


def unknown(subject_id: str) -> SubjectNotFound:
    return SubjectNotFound(f"there is no subject {subject_id!r}")


async def _one(connection: Connection, query: Any, values: list[Any]) -> Subject | None:
    async with connection.cursor(row_factory=class_row(Subject)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchone()


async def insert(
    write: Write,
    subject_id: str,
    *,
    name: str | None,
    external_id: str | None,
    metadata: str,
    samples: int,
) -> Subject:
    """A new subject that will have ``samples`` samples; SubjectExists."""
    values = [write.collection_id, subject_id, name, external_id, metadata, samples]
    made = await _one(write.connection, _INSERT, values)
    if made is None:
        raise SubjectExists(f"there is a subject {subject_id!r} already")
    write.subjects += 1
    write.log("subject_upserted", subject_id)
    return made


async def upsert(
    write: Write, subject_id: str, *, name: str | None, metadata: str, samples: int
) -> Subject:
    """The subject, made or changed, with ``samples`` samples more."""
    held = await _one(write.connection, _GET, [write.collection_id, subject_id])
    subject = await _one(
        write.connection, _UPSERT, [write.collection_id, subject_id, name, metadata, samples]
    )
    assert subject is not None
    write.subjects += held is None
    write.log("subject_upserted", subject_id)
    return subject


async def replace(
    write: Write, subject_id: str, *, name: str | None, metadata: str, samples: int
) -> Subject:
    """The subject, made or made anew, with ``samples`` samples and none of those it had.

    The log has it removed and made in one version, so an index swaps the whole subject, and a
    search under way keeps the old name with the old samples.
    """
    gone = await write.connection.execute(_DELETE_SAMPLES, [write.collection_id, subject_id])
    if gone.rowcount:
        write.samples -= gone.rowcount
        await count_samples(write, subject_id, -gone.rowcount)
        write.log("subject_removed", subject_id)
    return await upsert(write, subject_id, name=name, metadata=metadata, samples=samples)


async def count_samples(write: Write, subject_id: str, samples: int) -> Subject:
    """The subject with ``samples`` more (or fewer) samples; SubjectNotFound."""
    subject = await _one(write.connection, _COUNT, [samples, write.collection_id, subject_id])
    if subject is None:
        raise unknown(subject_id)
    return subject


async def update(
    write: Write, subject_id: str, changes: Mapping[str, Any], if_revision: int | None
) -> Subject:
    """The subject with ``changes``; SubjectNotFound, PreconditionFailed."""
    held = await _one(write.connection, _GET, [write.collection_id, subject_id])
    if held is None:
        raise unknown(subject_id)
    require_revision(held.revision, if_revision)
    query = SQL(
        "UPDATE facegraph.subjects SET {}, revision = revision + 1, updated_at = now()"
        " WHERE collection_id = %s AND id = %s RETURNING {}"
    ).format(assignments(changes), _COLUMNS)
    changed = await _one(
        write.connection, query, [*changes.values(), write.collection_id, subject_id]
    )
    assert changed is not None
    write.log("subject_upserted", subject_id)
    return changed


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` as column values; InvalidRequest."""
    check_changes(changes, _CHANGEABLE)
    return {
        column: check_metadata(value) if column == "metadata" else check_text(column, value)
        for column, value in changes.items()
    }


async def delete(write: Write, subject_id: str) -> None:
    """Erases the subject and its samples; SubjectNotFound."""
    found = await write.connection.execute(_DELETE, [write.collection_id, subject_id])
    row = await found.fetchone()
    if row is None:
        raise unknown(subject_id)
    write.subjects -= 1
    write.samples -= row[0]
    write.log("subject_removed", subject_id)


async def clear(write: Write) -> None:
    """Erases every subject; the log starts anew instead of naming each."""
    await collections.allow_time_to_delete(write.connection)
    gone = await write.connection.execute(_DELETE_ALL, [write.collection_id])
    write.subjects -= gone.rowcount
    write.samples -= write.sample_count
    await write.forget_log()


async def get(connection: Connection, collection_id: str, subject_id: str) -> Subject:
    """The subject; CollectionNotFound, SubjectNotFound."""
    subject = await _one(connection, _GET, [collection_id, subject_id])
    if subject is None:
        await collections.require(connection, collection_id)
        raise unknown(subject_id)
    return subject


async def listed(
    connection: Connection, collection_id: str, limit: int, cursor: str | None, q: str | None
) -> Page[Subject]:
    """Subjects in the order of their ids; ``q``: id, name or external id contains it."""
    scope = f"subjects/{collection_id}"
    last = after(cursor, scope)
    await collections.require(connection, collection_id)
    values = {"collection": collection_id, "after": last, "like": _like(q), "rows": limit + 1}
    async with connection.cursor(row_factory=class_row(Subject)) as rows:
        await rows.execute(_LIST, values)
        return page(await rows.fetchall(), limit, scope, lambda item: item.id)


def _like(text: str | None) -> str | None:
    """A pattern that finds ``text`` itself, whatever signs are in it."""
    if not text:
        return None
    for sign in ("\\", "%", "_"):
        text = text.replace(sign, "\\" + sign)
    return f"%{text}%"
