"""What a failure of the database means: try again, say no, or outcome unknown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from facegraph.errors import DatabaseError

FAILURES = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # the server became a standby
)
"""Errors that are the database's, not the request's."""

_GOING_AWAY = frozenset({"57P01", "57P02", "57P03"})  # shutting down, crashed, not yet up


class _Breakable(Protocol):
    @property
    def broken(self) -> bool: ...


@dataclass(slots=True)
class Progress:
    """How far a piece of work got: ``lost`` until it has a connection, and when that breaks."""

    lost: bool = True
    committing: bool = False

    @contextmanager
    def on(self, connection: _Breakable) -> Iterator[None]:
        """Watches ``connection`` while the work uses it: closing it later hides a break."""
        self.lost = False
        try:
            yield
        except BaseException:
            self.lost = connection.broken
            raise


def worth_a_retry(error: psycopg.Error, progress: Progress, *, pool_serves: bool) -> bool:
    """Whether a fresh connection may do better, rather than the server having said no.

    ``pool_serves``: others got their answers lately, so a wait in vain means "all busy".
    """
    if isinstance(error, TooManyRequests):
        return False
    if isinstance(error, PoolTimeout):
        return not pool_serves
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return True
    if error.sqlstate is None:
        return True  # libpq's or ours, not the server's: the connection is what failed
    return progress.lost or error.sqlstate in _GOING_AWAY


def say(error: Exception) -> str:
    """One sentence for the client."""
    if isinstance(error, DatabaseError):
        return str(error)
    if isinstance(error, PoolTimeout | TooManyRequests):
        return "every database connection is busy"
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return "the database took too long; nothing was changed"
    return f"the database does not answer: {one_line(error)}"


def one_line(error: Exception) -> str:
    """The error's text without line breaks, or its name when it has none."""
    return " ".join(str(error).split()) or type(error).__name__
