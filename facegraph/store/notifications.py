"""Who is to be told that a build has ended: taken by one at a time, until it is settled."""

from __future__ import annotations

from psycopg.rows import dict_row

from facegraph.store.connecting import Connection
from facegraph.store.recognizer_rows import COLUMNS, recognizer
from facegraph.store.records import DueNotification

# In the CTE, which runs once, since a planner may run a subquery of FROM again and lock other rows.
_TAKE = f"""
WITH due AS (
    SELECT recognizers.id, recognizers.job_id
    FROM facegraph.recognizers LEFT JOIN facegraph.jobs ON jobs.id = recognizers.job_id
    WHERE callback_state = 'waiting' AND callback_not_before <= now()
        AND (recognizers.job_id IS NULL OR jobs.state = 'failed')
    ORDER BY callback_not_before FOR UPDATE OF recognizers SKIP LOCKED LIMIT 1
)
UPDATE facegraph.recognizers SET callback_attempts = callback_attempts + 1,
    callback_not_before = now() + %s * interval '1 second'
FROM due LEFT JOIN facegraph.jobs ON jobs.id = due.job_id
WHERE recognizers.id = due.id
RETURNING callback_url, callback_secret, callback_attempts,
    extract(epoch FROM now() - coalesce(recognizers.finished_at, jobs.finished_at))::float8
        AS waiting_s,
    {COLUMNS}
"""
# Also where another had given up meanwhile: it was delivered.
_DELIVERED = """
UPDATE facegraph.recognizers SET callback_state = 'delivered', callback_secret = NULL,
    callback_not_before = NULL, callback_problem = NULL
WHERE id = %s AND callback_state IS NOT NULL
"""
_AGAIN = """
UPDATE facegraph.recognizers
SET callback_problem = %s, callback_not_before = now() + %s * interval '1 second'
WHERE id = %s AND callback_state = 'waiting'
"""
_GIVE_UP = """
UPDATE facegraph.recognizers SET callback_problem = %s, callback_state = 'given_up',
    callback_secret = NULL, callback_not_before = NULL
WHERE id = %s AND callback_state = 'waiting'
"""


async def take(connection: Connection, lease_s: float) -> DueNotification | None:
    """The one that is due longest, not due again before ``lease_s`` are over."""
    async with connection.cursor(row_factory=dict_row) as rows:
        await rows.execute(_TAKE.encode(), [lease_s])
        row = await rows.fetchone()
    if row is None:
        return None
    return DueNotification(
        row["id"],
        row.pop("callback_url"),
        row.pop("callback_secret"),
        row.pop("callback_attempts"),
        row.pop("waiting_s"),
        recognizer(row),
    )


async def delivered(connection: Connection, recognizer_id: str) -> None:
    await connection.execute(_DELIVERED, [recognizer_id])


async def again(connection: Connection, recognizer_id: str, problem: str, after_s: float) -> None:
    await connection.execute(_AGAIN, [problem, after_s, recognizer_id])


async def give_up(connection: Connection, recognizer_id: str, problem: str) -> None:
    await connection.execute(_GIVE_UP, [problem, recognizer_id])
