"""Which failures of the database are tried again."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import PoolTimeout, TooManyRequests

from facegraph.store.failures import Progress, worth_a_retry

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("error", "lost", "pool_serves", "again"),
    [
        (psycopg.OperationalError("server closed the connection"), True, True, True),
        # A pipeline whose server went away between two messages; the socket still looks well.
        (psycopg.OperationalError("cannot exit pipeline mode while busy"), False, True, True),
        (psycopg.errors.AdminShutdown("terminating connection"), False, True, True),
        (psycopg.errors.ReadOnlySqlTransaction("a standby now"), False, True, True),
        (psycopg.errors.QueryCanceled("statement timeout"), False, True, False),
        (psycopg.errors.LockNotAvailable("lock timeout"), False, True, False),
        (psycopg.errors.QueryCanceled("statement timeout"), True, True, True),
        (PoolTimeout("no connection"), True, True, False),  # the pool is busy, the server well
        (PoolTimeout("no connection"), True, False, True),
        (TooManyRequests("queue full"), True, False, False),
    ],
)
def test_worth_a_retry(error: psycopg.Error, lost: bool, pool_serves: bool, again: bool) -> None:
    assert worth_a_retry(error, Progress(lost=lost), pool_serves=pool_serves) is again
