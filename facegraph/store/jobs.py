"""Jobs: queued, taken under a lease, finished. All times are the database's own.

Whoever takes a job gets a name for that time only. What is written under it counts while the
lease is the newest one: a worker that was thought lost and comes back changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from facegraph.errors import JobNotFound, Overloaded
from facegraph.store.connecting import Connection
from facegraph.store.ids import new_id
from facegraph.store.paging import after, page
from facegraph.store.records import Page
from facegraph.types import Job

Parts = Callable[[], AsyncIterator[bytes]]
"""Begins a job's input anew, as often as it is called."""

Also = Callable[[Connection], Awaitable[None]]
"""What is written in the transaction that finishes a job.

It may be called more than once: a transaction whose connection is lost is tried again.
"""

_COLUMNS = (
    "id, kind, state, params, progress, message, result, problem, attempts, worker, "
    "created_at, started_at, finished_at"
)
_OPEN = "SELECT count(*) FROM facegraph.jobs WHERE state IN ('queued', 'running')"
_INSERT = f"INSERT INTO facegraph.jobs (id, kind, params) VALUES (%s, %s, %s) RETURNING {_COLUMNS}"
_INPUT = "INSERT INTO facegraph.job_inputs (job_id, part, data) VALUES (%s, %s, %s)"
_GET = f"SELECT {_COLUMNS} FROM facegraph.jobs WHERE id = %s"
_WITHOUT_OUTCOME = _COLUMNS.replace("result, problem", "NULL, NULL")
_LIST = f"SELECT {_WITHOUT_OUTCOME} FROM facegraph.jobs WHERE id > %s ORDER BY id LIMIT %s"
_DELETE = "DELETE FROM facegraph.jobs WHERE id = %s"
_TAKE = f"""
UPDATE facegraph.jobs SET state = 'running', worker = %s, attempts = attempts + 1,
    leased_until = now() + %s * interval '1 second', started_at = coalesce(started_at, now())
WHERE id = (
    SELECT id FROM facegraph.jobs
    WHERE kind = ANY(%s) AND not_before <= now()
        AND (state = 'queued' OR (state = 'running' AND leased_until < now()))
    ORDER BY created_at FOR UPDATE SKIP LOCKED LIMIT 1
) RETURNING {_COLUMNS}
"""
_HELD = "WHERE id = %s AND worker = %s AND state = 'running'"
_RENEW = f"""
UPDATE facegraph.jobs SET progress = greatest(progress, %s), message = %s,
    leased_until = now() + %s * interval '1 second' {_HELD}
"""
_FINISH = f"""
UPDATE facegraph.jobs SET state = %s, result = %s, problem = %s, finished_at = now(),
    worker = NULL, leased_until = NULL, message = %s,
    progress = CASE WHEN %s = 'done' THEN 1 ELSE progress END {_HELD}
"""
_PUT_BACK = f"""
UPDATE facegraph.jobs SET state = 'queued', worker = NULL, leased_until = NULL, message = %s,
    not_before = now() + %s * interval '1 second', attempts = attempts - %s {_HELD}
"""
_DROP_INPUT = "DELETE FROM facegraph.job_inputs WHERE job_id = %s"
_PART = "SELECT data FROM facegraph.job_inputs WHERE job_id = %s AND part = %s"
# A recognizer that failed goes with its job, but not before its client was told, or given up.
_PRUNE = """
DELETE FROM facegraph.jobs
WHERE finished_at IS NOT NULL AND finished_at < now() - %s * interval '1 second'
    AND NOT EXISTS (
        SELECT FROM facegraph.recognizers WHERE job_id = jobs.id AND callback_state = 'waiting')
"""


async def insert(
    connection: Connection, kind: str, params: Mapping[str, Any], parts: Parts, max_open: int
) -> Job:
    """A queued job with its input; Overloaded when ``max_open`` jobs are not finished."""
    row = await (await connection.execute(_OPEN)).fetchone()
    assert row is not None
    if row[0] >= max_open:
        raise Overloaded(f"{row[0]} jobs are queued or running")
    cursor = await connection.execute(_INSERT, [new_id(), kind, json.dumps(dict(params))])
    job = _job(await cursor.fetchone())
    number = 0
    async for data in parts():
        await connection.execute(_INPUT, [job.id, number, data])
        number += 1
    return job


async def get(connection: Connection, job_id: str) -> Job:
    row = await (await connection.execute(_GET, [job_id])).fetchone()
    if row is None:
        raise JobNotFound(f"there is no job {job_id!r}; finished ones are kept for a time only")
    return _job(row)


async def listed(connection: Connection, limit: int, cursor: str | None) -> Page[Job]:
    """In the order in which they were made, without what came of them: that may be large."""
    rows = await connection.execute(_LIST, [after(cursor, "jobs"), limit + 1])
    return page([_job(row) for row in await rows.fetchall()], limit, "jobs", lambda job: job.id)


async def delete(connection: Connection, job_id: str) -> None:
    """Its worker notices with the next renewal; what it was to make goes too. JobNotFound."""
    if not (await connection.execute(_DELETE, [job_id])).rowcount:
        raise JobNotFound(f"there is no job {job_id!r}")


async def take(
    connection: Connection, kinds: Sequence[str], worker: str, lease_s: float
) -> Job | None:
    """The oldest job that nobody works on, now leased to ``worker``."""
    cursor = await connection.execute(_TAKE, [worker, lease_s, list(kinds)])
    row = await cursor.fetchone()
    return None if row is None else _job(row)


async def renew(
    connection: Connection, job: Job, progress: float, message: str, lease_s: float
) -> bool:
    """Whether the job is still this worker's."""
    values = [progress, message, lease_s, job.id, job.worker]
    return (await connection.execute(_RENEW, values)).rowcount == 1


async def finish(
    connection: Connection,
    job: Job,
    result: Mapping[str, Any] | None,
    problem: Mapping[str, Any] | None,
    also: Also | None = None,
) -> bool:
    """Keeps the outcome and drops the input, if the job is still this worker's; then ``also``."""
    state = "done" if problem is None else "failed"
    told = [None if value is None else json.dumps(dict(value)) for value in (result, problem)]
    cursor = await connection.execute(_FINISH, [state, *told, state, state, job.id, job.worker])
    if not cursor.rowcount:
        return False
    await connection.execute(_DROP_INPUT, [job.id])
    if also is not None:
        await also(connection)
    return True


async def put_back(
    connection: Connection, job: Job, message: str, delay_s: float, *, counts: bool
) -> None:
    """Queues it again, to be taken after ``delay_s``, if it is still this worker's."""
    values = [message, delay_s, 0 if counts else 1, job.id, job.worker]
    await connection.execute(_PUT_BACK, values)


async def part(connection: Connection, job_id: str, number: int) -> bytes | None:
    """The input's part ``number``; None after the last."""
    row = await (await connection.execute(_PART, [job_id, number])).fetchone()
    return None if row is None else bytes(row[0])


async def prune(connection: Connection, retention_s: float) -> int:
    """Forgets jobs finished so long ago, but those somebody is to be told of yet; how many."""
    return (await connection.execute(_PRUNE, [retention_s])).rowcount


def _job(row: Any) -> Job:
    return Job(*row)
