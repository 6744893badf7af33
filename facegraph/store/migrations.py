"""Numbered migrations, each in one transaction, safe from any number of processes at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import psycopg

from facegraph.errors import DatabaseError
from facegraph.store import connecting
from facegraph.store.connecting import MIGRATION_LOCK, Connection, connect
from facegraph.store.silence import bounded

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_PATIENCE = "SET LOCAL lock_timeout = '120s'; SET LOCAL statement_timeout = 0"
_APPLIED = "SELECT number, checksum FROM facegraph.migrations ORDER BY number"
_CREATE_LEDGER = """
CREATE SCHEMA IF NOT EXISTS facegraph;
CREATE TABLE IF NOT EXISTS facegraph.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> tuple[Migration, ...]:
    """The migrations of this code, in order."""
    folder = files("facegraph.store").joinpath("migrations")
    return tuple(
        Migration(int(match[1]), entry.name, entry.read_text("utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if (match := _NAME.fullmatch(entry.name))
    )


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> None:
    """Brings the database at ``url`` to this code's schema; cheap when it is there already.

    Raises DatabaseError when the database is newer than this code, when a migration that was
    applied has changed since, when one fails, or when the database cannot be reached.
    """
    wanted = known_migrations() if migrations is None else migrations
    try:
        async with await connect(url) as connection:
            with bounded(connection, connecting.READ_PATIENCE_S):
                missing = _missing(await _applied(connection), wanted)
            if missing:
                await _apply_all(connection, wanted)
    except psycopg.Error as error:
        raise DatabaseError(f"cannot migrate the database: {' '.join(str(error).split())}") from (
            error
        )


async def _apply_all(connection: Connection, wanted: Sequence[Migration]) -> None:
    async with connection.transaction():
        await _lock(connection)
        await connection.execute(_CREATE_LEDGER)
    while True:
        async with connection.transaction():
            await _lock(connection)
            missing = _missing(await _applied(connection), wanted)
            if not missing:
                return
            await connection.execute(missing[0].sql.encode())
            await connection.execute(
                "INSERT INTO facegraph.migrations (number, name, checksum) VALUES (%s, %s, %s)",
                [missing[0].number, missing[0].name, missing[0].checksum],
            )


async def _lock(connection: Connection) -> None:
    await connection.execute(_PATIENCE)
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])


async def _applied(connection: Connection) -> list[tuple[int, str]]:
    found = await connection.execute("SELECT to_regclass('facegraph.migrations') IS NOT NULL")
    row = await found.fetchone()
    if row is None or not row[0]:
        return []
    return await (await connection.execute(_APPLIED)).fetchall()


def _missing(
    applied: Sequence[tuple[int, str]], wanted: Sequence[Migration]
) -> Sequence[Migration]:
    for (number, checksum), migration in zip(applied, wanted, strict=False):
        if (number, checksum) != (migration.number, migration.checksum):
            raise DatabaseError(
                f"migration {migration.name} differs from what this database was made with"
            )
    if len(applied) > len(wanted):
        raise DatabaseError(
            f"the database is at migration {applied[-1][0]} and this version of facegraph knows "
            f"only {len(wanted)}: run the newer version"
        )
    return wanted[len(applied) :]
