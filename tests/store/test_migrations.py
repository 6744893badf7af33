"""Migrations: once, in order, whoever starts them; a database that does not fit is refused."""

from __future__ import annotations

import dataclasses

import psycopg
import pytest

from facegraph.errors import DatabaseError
from facegraph.store.migrations import Migration, known_migrations, migrate
from tests.store.workers import migrate_now, side_by_side

pytestmark = pytest.mark.store

FIRST = Migration(1, "0001_a.sql", "CREATE TABLE facegraph.a (n int); SELECT '%s %(x)s'")
SECOND = Migration(2, "0002_b.sql", "ALTER TABLE facegraph.a ADD COLUMN m int")
BROKEN = Migration(2, "0002_b.sql", "CREATE TABLE facegraph.b (n int); SELECT 1 / 0")


def applied(url: str) -> list[tuple[int, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT number, name FROM facegraph.migrations ORDER BY number"
        ).fetchall()


def test_the_numbers_of_this_code_have_no_holes() -> None:
    assert [m.number for m in known_migrations()] == list(range(1, len(known_migrations()) + 1))


def test_many_processes_at_once(database_url: str) -> None:
    side_by_side(migrate_now, [(database_url,)] * 6)
    assert applied(database_url) == [(m.number, m.name) for m in known_migrations()]
    with psycopg.connect(database_url) as connection:
        state = connection.execute("SELECT epoch, moved_to FROM facegraph.database_state")
        assert state.fetchall() == [(0, None)]


async def test_later_ones_follow(database_url: str) -> None:
    await migrate(database_url, [FIRST])
    await migrate(database_url, [FIRST, SECOND])
    await migrate(database_url, [FIRST, SECOND])
    assert applied(database_url) == [(1, FIRST.name), (2, SECOND.name)]


async def test_one_that_fails_leaves_nothing_behind(database_url: str) -> None:
    with pytest.raises(DatabaseError, match="division by zero"):
        await migrate(database_url, [FIRST, BROKEN])
    assert applied(database_url) == [(1, FIRST.name)]
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT to_regclass('facegraph.b')").fetchone()
    assert found == (None,)
    await migrate(database_url, [FIRST, SECOND])


async def test_a_newer_database_is_refused(database_url: str) -> None:
    await migrate(database_url, [FIRST, SECOND])
    with pytest.raises(DatabaseError, match=r"at migration 2 .* knows only 1"):
        await migrate(database_url, [FIRST])


async def test_a_changed_migration_is_refused(database_url: str) -> None:
    await migrate(database_url, [FIRST])
    changed = dataclasses.replace(FIRST, sql=FIRST.sql + "--")
    with pytest.raises(DatabaseError, match=r"0001_a\.sql differs"):
        await migrate(database_url, [changed, SECOND])
    assert applied(database_url) == [(1, FIRST.name)]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://u:se%zzcret@127.0.0.1:1/x", "not one PostgreSQL understands"),
        ("no url", "not one PostgreSQL understands"),
        ("postgresql://u:secret@127.0.0.1:1/x", "refused"),
    ],
)
async def test_a_database_that_cannot_be_reached(url: str, why: str) -> None:
    with pytest.raises(DatabaseError, match=why) as raised:
        await migrate(url)
    assert "secret" not in str(raised.value)
    assert "zzcret" not in str(raised.value)
