"""The rows of recognizers. Who locks a recognizer and its job locks the job first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from facegraph.errors import RecognizerNotFound, TooManyRecognizers
from facegraph.store import jobs, moving
from facegraph.store.connecting import RECOGNIZERS_LOCK, Connection
from facegraph.store.jobs import Parts
from facegraph.store.paging import after, page
from facegraph.store.records import Notification, Page, Recognizer
from facegraph.types import Job

KIND = "recognizer"
"""Of the jobs that build recognizers."""

# A job that is done and yet has no model is one whose handler kept nothing: it failed.
_STATE = """
CASE WHEN recognizers.job_id IS NULL THEN 'ready' WHEN jobs.state = 'queued' THEN 'queued'
    WHEN jobs.state = 'running' THEN 'building' ELSE 'failed' END AS state
"""
_NOTIFICATION = """
CASE WHEN callback_url IS NOT NULL THEN jsonb_build_object('url', callback_url,
    'state', callback_state, 'attempts', callback_attempts, 'problem', callback_problem)
END AS notification
"""
_BRIEF = f"""
recognizers.id, recognizers.name, {_STATE}, coalesce(jobs.progress, 1) AS progress,
coalesce(jobs.message, '') AS message, recognizers.options, recognizers.contract_id,
recognizers.collection_id, coalesce(cardinality(recognizers.labels), 0) AS label_count,
recognizers.model_bytes, recognizers.model_sha256, {_NOTIFICATION}, recognizers.created_at,
coalesce(recognizers.finished_at, jobs.finished_at) AS finished_at
"""
COLUMNS = f"""
{_BRIEF}, coalesce(recognizers.labels, '{{}}') AS labels, recognizers.course, recognizers.outcome,
jobs.problem
"""
"""What :func:`recognizer` reads, of ``recognizers`` and the ``jobs`` that build them."""

_SHORT = f"""
{_BRIEF}, '{{}}'::text[] AS labels, NULL AS course, NULL AS outcome,
jsonb_set(jobs.problem, '{{errors}}', '[]') AS problem
"""
_FROM = "FROM facegraph.recognizers LEFT JOIN facegraph.jobs ON jobs.id = recognizers.job_id"
_GET = f"SELECT {COLUMNS} {_FROM} WHERE recognizers.id = %s"
_GET_AND_POINTER = f"""
SELECT moved_to, moved_epoch, {COLUMNS}
FROM facegraph.database_state LEFT JOIN (
    facegraph.recognizers LEFT JOIN facegraph.jobs ON jobs.id = recognizers.job_id
) ON recognizers.id = %s
"""
_NEWEST = f"SELECT {COLUMNS} {_FROM} ORDER BY recognizers.id DESC LIMIT 1"
_PAGE = "ORDER BY recognizers.id LIMIT %s"
_LIST = f"SELECT {_SHORT} {_FROM} WHERE recognizers.id > %s {_PAGE}"
_LIST_KNOWING = f"SELECT {_SHORT} {_FROM} WHERE recognizers.id > %s AND labels @> ARRAY[%s] {_PAGE}"
_COUNT = "SELECT count(*) FROM facegraph.recognizers"
_INSERT = """
INSERT INTO facegraph.recognizers (id, job_id, name, contract_id, collection_id, options,
    callback_url, callback_secret, callback_state, callback_not_before)
VALUES (%(id)s, %(id)s, %(name)s, %(contract_id)s, %(collection_id)s, %(options)s,
    %(callback_url)s, %(callback_secret)s,
    CASE WHEN %(called)s THEN 'waiting' END, CASE WHEN %(called)s THEN now() END)
"""
_LOCK_JOB = "SELECT FROM facegraph.jobs WHERE id = %s FOR UPDATE"
_DELETE = "DELETE FROM facegraph.recognizers WHERE id = %s"
_DELETE_JOB = "DELETE FROM facegraph.jobs WHERE id = %s"
# The lock keeps the lease where it is until the course is written.
_PUBLISH = """
WITH held AS (
    SELECT id FROM facegraph.jobs WHERE id = %s AND worker = %s AND state = 'running' FOR SHARE
)
UPDATE facegraph.recognizers SET course = %s FROM held WHERE recognizers.job_id = held.id
"""


@dataclass(frozen=True, slots=True)
class New:
    """A recognizer to be built; ``callback_secret`` is there when ``callback_url`` is."""

    name: str | None
    options: Mapping[str, Any]
    contract_id: str
    collection_id: str | None
    callback_url: str | None
    callback_secret: str | None


async def insert(
    connection: Connection,
    new: New,
    params: Mapping[str, Any],
    parts: Parts,
    max_open: int,
    max_recognizers: int,
) -> Recognizer:
    """The recognizer with its job, queued; Overloaded, TooManyRecognizers.

    It is counted before the input is taken, to refuse early, and once more after it: nobody
    waits for the lock while another's input comes in.
    """
    await _require_room(connection, max_recognizers)
    job = await jobs.insert(connection, KIND, params, parts, max_open)
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [RECOGNIZERS_LOCK])
    await _require_room(connection, max_recognizers)
    values = {
        "id": job.id,
        "name": new.name,
        "contract_id": new.contract_id,
        "collection_id": new.collection_id,
        "options": json.dumps(dict(new.options)),
        "callback_url": new.callback_url,
        "callback_secret": new.callback_secret,
        "called": new.callback_url is not None,
    }
    await connection.execute(_INSERT, values)
    return await get(connection, job.id)


async def get(connection: Connection, recognizer_id: str) -> Recognizer:
    """RecognizerNotFound."""
    found = await _many(connection, _GET, [recognizer_id])
    if not found:
        raise unknown(recognizer_id)
    return found[0]


async def get_here(connection: Connection, recognizer_id: str) -> Recognizer:
    """As :func:`get`, in one statement with the pointer; Moved."""
    async with connection.cursor(row_factory=dict_row) as rows:
        await rows.execute(_GET_AND_POINTER.encode(), [recognizer_id])
        row = await rows.fetchone()
    assert row is not None
    moving.check_pointer((row.pop("moved_to"), row.pop("moved_epoch")))
    if row["id"] is None:
        raise unknown(recognizer_id)
    return recognizer(row)


async def newest(connection: Connection) -> Recognizer | None:
    found = await _many(connection, _NEWEST, [])
    return found[0] if found else None


async def listed(
    connection: Connection, limit: int, cursor: str | None, label: str | None
) -> Page[Recognizer]:
    """See :meth:`~facegraph.store.recognizers.Recognizers.list`."""
    last = after(cursor, "recognizers")
    if label is None:
        found = await _many(connection, _LIST, [last, limit + 1])
    else:
        found = await _many(connection, _LIST_KNOWING, [last, label, limit + 1])
    return page(found, limit, "recognizers", lambda item: item.id)


async def delete(connection: Connection, recognizer_id: str) -> None:
    """Deletes it with its job, whatever became of that; RecognizerNotFound."""
    await connection.execute(_LOCK_JOB, [recognizer_id])
    if not (await connection.execute(_DELETE, [recognizer_id])).rowcount:
        raise unknown(recognizer_id)
    await connection.execute(_DELETE_JOB, [recognizer_id])


async def publish(connection: Connection, job: Job, course: Mapping[str, Any]) -> bool:
    """Whether the job is still this worker's; if so, ``course`` takes the place of the last."""
    values = [job.id, job.worker, json.dumps(dict(course))]
    return (await connection.execute(_PUBLISH, values)).rowcount == 1


def recognizer(row: Mapping[str, Any]) -> Recognizer:
    """Of a row with :data:`COLUMNS`."""
    told = row["notification"]
    notification = None if told is None else Notification(**told)
    return Recognizer(**{**row, "labels": tuple(row["labels"]), "notification": notification})


def unknown(recognizer_id: str) -> RecognizerNotFound:
    return RecognizerNotFound(f"there is no recognizer {recognizer_id!r}")


async def _require_room(connection: Connection, max_recognizers: int) -> None:
    row = await (await connection.execute(_COUNT)).fetchone()
    assert row is not None
    if row[0] >= max_recognizers:
        raise TooManyRecognizers(f"there are {row[0]} recognizers; delete some to build others")


async def _many(connection: Connection, query: str, values: Sequence[Any]) -> list[Recognizer]:
    async with connection.cursor(row_factory=dict_row) as rows:
        await rows.execute(query.encode(), values)
        return [recognizer(row) for row in await rows.fetchall()]
