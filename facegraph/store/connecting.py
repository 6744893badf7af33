"""How every connection to PostgreSQL is made, and the advisory locks all processes agree on."""

from __future__ import annotations

from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from facegraph.errors import DatabaseError
from facegraph.store.silence import bounded, watched

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
BlockingConnection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

MIGRATION_LOCK = 0x4661_6365_0001
"""Held exclusively while a migration runs."""

MOVE_LOCK = 0x4661_6365_0002
"""Held shared by every write, exclusively while the truth moves to another database."""

RECOGNIZERS_LOCK = 0x4661_6365_0003
"""Held by a transaction that adds a recognizer from when it counts them."""

STATEMENT_TIMEOUT = "30s"
LOCK_TIMEOUT = "10s"

READ_PATIENCE_S = 45.0
"""Above what the server lets a statement take; only a connection that hangs takes longer."""

_DEFAULTS = {
    "application_name": "facegraph",
    "connect_timeout": "5",
    # A peer that vanishes without a word is noticed within about 15 s.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_SESSION = (
    f"SET statement_timeout = '{STATEMENT_TIMEOUT}'; SET lock_timeout = '{LOCK_TIMEOUT}'; "
    "SET idle_in_transaction_session_timeout = '60s'"
)


def connection_string(url: str) -> str:
    """``url`` (or keyword=value text) with our defaults; DatabaseError when it is neither."""
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        return make_conninfo("", **(_DEFAULTS | given))
    except psycopg.ProgrammingError:  # its text would quote a part that may be the password
        raise DatabaseError("the database URL is not one PostgreSQL understands") from None


async def connect(url: str) -> Connection:
    """A connection of its own, in autocommit; raises psycopg.OperationalError."""
    connection = await psycopg.AsyncConnection.connect(connection_string(url), autocommit=True)
    await configure(connection)
    return connection


async def configure(connection: Connection) -> None:
    """Bounds what a session may wait for."""
    with bounded(connection, READ_PATIENCE_S):
        await connection.execute(_SESSION)


def connect_blocking(url: str) -> BlockingConnection:
    """As :func:`connect`, for a thread."""
    connection = psycopg.Connection.connect(connection_string(url), autocommit=True)
    with watched(connection, READ_PATIENCE_S):
        connection.execute(_SESSION)
    return connection
