"""The rows of collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier

from facegraph.errors import (
    CollectionExists,
    CollectionNotEmpty,
    PreconditionFailed,
)
from facegraph.store.connecting import Connection
from facegraph.store.paging import after, page
from facegraph.store.records import Page
from facegraph.store.validation import (
    check_changes,
    check_metadata,
    check_search_mode,
    check_text,
    check_threshold,
)
from facegraph.store.writing import contract_json, unknown_collection
from facegraph.types import Collection, Contract, SearchMode

DEFAULT = "default"
"""The collection that always exists."""

_COLUMNS = SQL(
    "id, name, description, metadata, threshold, keep_crops, search_mode, contract_id, dimension,"
    " incarnation::text, version, log_floor, subject_count, sample_count, revision,"
    " created_at, updated_at"
)
_INSERT = SQL("""
INSERT INTO facegraph.collections
    (id, name, description, metadata, threshold, keep_crops, search_mode, contract_id, dimension,
    contract)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING {}
""").format(_COLUMNS)
_GET = SQL("SELECT {} FROM facegraph.collections WHERE id = %s").format(_COLUMNS)
_LOCK = _GET + SQL(" FOR UPDATE")
_LIST = SQL("SELECT {} FROM facegraph.collections WHERE id > %s ORDER BY id LIMIT %s").format(
    _COLUMNS
)
_REBIND_EMPTY = """
UPDATE facegraph.collections SET contract_id = %s, dimension = %s, contract = %s,
    version = version + 1, log_floor = version + 1
WHERE id = %s AND sample_count = 0 AND contract_id <> %s
"""
_DELETE = "DELETE FROM facegraph.collections WHERE id = %s"
_STRANGER = """
UPDATE facegraph.collections SET stranger_count = stranger_count + 1
WHERE id = %s RETURNING stranger_count
"""
_CHANGEABLE = frozenset(
    {"name", "description", "metadata", "threshold", "keep_crops", "search_mode"}
)
# Deleting a large collection takes longer than a statement is given otherwise.
_TIME_TO_DELETE = "SET LOCAL statement_timeout = '10min'"


async def _one(connection: Connection, query: Any, values: list[Any]) -> Collection | None:
    async with connection.cursor(row_factory=class_row(Collection)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchone()


async def insert(
    connection: Connection,
    collection_id: str,
    contract: Contract,
    *,
    name: str | None = None,
    description: str | None = None,
    metadata: str = "{}",
    threshold: float | None = None,
    keep_crops: bool = False,
    search_mode: SearchMode = "auto",
) -> Collection:
    """A new collection; CollectionExists."""
    bound = [contract.id, contract.dimension, contract_json(contract)]
    described = [name, description, metadata, threshold, keep_crops, search_mode]
    made = await _one(connection, _INSERT, [collection_id, *described, *bound])
    if made is None:
        raise CollectionExists(f"there is a collection {collection_id!r} already")
    return made


async def ensure(connection: Connection, collection_id: str, contract: Contract) -> Collection:
    """The collection, made if absent, bound to ``contract`` if it holds no samples."""
    bound = [contract.id, contract.dimension, contract_json(contract)]
    plain = [None, None, "{}", None, False, "auto"]
    made = await _one(connection, _INSERT, [collection_id, *plain, *bound])
    if made is not None:
        return made
    await connection.execute(_REBIND_EMPTY, [*bound, collection_id, contract.id])
    return await get(connection, collection_id)


async def get(connection: Connection, collection_id: str) -> Collection:
    """The collection; CollectionNotFound."""
    found = await _one(connection, _GET, [collection_id])
    if found is None:
        raise unknown_collection(collection_id)
    return found


async def require(connection: Connection, collection_id: str) -> None:
    """CollectionNotFound when it is not there."""
    query = "SELECT 1 FROM facegraph.collections WHERE id = %s"
    if await (await connection.execute(query, [collection_id])).fetchone() is None:
        raise unknown_collection(collection_id)


async def listed(connection: Connection, limit: int, cursor: str | None) -> Page[Collection]:
    """Collections in the order of their ids, bytewise."""
    async with connection.cursor(row_factory=class_row(Collection)) as rows:
        await rows.execute(_LIST, [after(cursor, "collections"), limit + 1])
        return page(await rows.fetchall(), limit, "collections", lambda item: item.id)


async def update(
    connection: Connection,
    collection_id: str,
    values: Mapping[str, Any],
    if_revision: int | None,
) -> Collection:
    """The collection with checked ``values``; CollectionNotFound, PreconditionFailed."""
    held = await _one(connection, _LOCK, [collection_id])
    if held is None:
        raise unknown_collection(collection_id)
    require_revision(held.revision, if_revision)
    if not values:
        return held
    query = SQL(
        "UPDATE facegraph.collections SET {}, revision = revision + 1, updated_at = now()"
        " WHERE id = %s RETURNING {}"
    ).format(assignments(values), _COLUMNS)
    changed = await _one(connection, query, [*values.values(), collection_id])
    assert changed is not None
    return changed


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` as column values; InvalidRequest."""
    check_changes(changes, _CHANGEABLE)
    return {column: _checked(column, value) for column, value in changes.items()}


def _checked(column: str, value: Any) -> Any:
    match column:
        case "metadata":
            return check_metadata(value)
        case "threshold":
            return check_threshold(value)
        case "keep_crops":
            return bool(value)
        case "search_mode":
            return check_search_mode(value)
        case _:
            return check_text(column, value)


def assignments(columns: Mapping[str, Any]) -> Any:
    """``a = %s, b = %s`` for an UPDATE."""
    return SQL(", ").join(SQL("{} = %s").format(Identifier(column)) for column in columns)


def require_revision(revision: int, if_revision: int | None) -> None:
    """PreconditionFailed when somebody changed it since."""
    if if_revision is not None and revision != if_revision:
        raise PreconditionFailed(f"revision is {revision}, not {if_revision}")


async def delete(connection: Connection, collection_id: str, *, force: bool) -> None:
    """Deletes it with all it holds; CollectionNotFound, CollectionNotEmpty.

    ``default`` always exists: deleting it leaves a new, empty one in its place.
    """
    await connection.execute(_TIME_TO_DELETE)
    held = await _one(connection, _LOCK, [collection_id])
    if held is None:
        raise unknown_collection(collection_id)
    if held.subject_count and not force:
        raise CollectionNotEmpty(
            f"the collection holds {held.subject_count} subjects; use force=true to delete them"
        )
    contract = await contract_of(connection, collection_id)
    await connection.execute(_DELETE, [collection_id])
    if collection_id == DEFAULT:
        await insert(connection, collection_id, contract)


async def contract_of(connection: Connection, collection_id: str) -> Contract:
    """The contract its embeddings are made under; CollectionNotFound."""
    query = "SELECT contract FROM facegraph.collections WHERE id = %s"
    row = await (await connection.execute(query, [collection_id])).fetchone()
    if row is None:
        raise unknown_collection(collection_id)
    return Contract(**row[0])


async def next_stranger(connection: Connection, collection_id: str) -> int:
    """1, 2, 3 …: never the same number twice; CollectionNotFound."""
    row = await (await connection.execute(_STRANGER, [collection_id])).fetchone()
    if row is None:
        raise unknown_collection(collection_id)
    number: int = row[0]
    return number


async def allow_time_to_delete(connection: Connection) -> None:
    """Gives the rest of this transaction the time that erasing a whole collection takes."""
    await connection.execute(_TIME_TO_DELETE)
