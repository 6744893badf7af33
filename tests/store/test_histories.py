"""Two histories of one collection are told apart, however their versions compare."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from facegraph.store import Store
from facegraph.store.migrations import known_migrations, migrate
from facegraph.store.server import _programs
from tests.store.making import CONTRACT, sample
from tests.store.mirror import Mirror, stamp_at

pytestmark = pytest.mark.store


async def enrol(store: Store, *subjects: str) -> None:
    for name in subjects:
        await store.create_subject("default", name, samples=[sample(1)], contract=CONTRACT)


def postgres(program: str, *arguments: str | Path) -> None:
    subprocess.run([_programs() / program, *arguments], check=True)


@pytest.mark.parametrize(
    ("written", "version"),
    [
        ((), 2),  # history went back
        (("x",), 3),  # and forth again, not yet as far
        (("x", "y"), 4),  # exactly to the index's version
        (("x", "y", "z"), 5),  # and beyond
    ],
)
async def test_a_backup_restored_under_a_running_service(
    database_url: str, tmp_path: Path, written: tuple[str, ...], version: int
) -> None:
    async with Store.open(database_url) as store:
        await store.ensure_default(CONTRACT)
        await enrol(store, "a", "b")
        before = Mirror(await store.load("default"))
        postgres("pg_dump", "--format=custom", "--file", tmp_path / "dump", database_url)
        await enrol(store, "c", "d")
        after = Mirror(await store.load("default"))
        options = ["--clean", "--if-exists", "--single-transaction", "--dbname", database_url]
        postgres("pg_restore", *options, tmp_path / "dump")
        await enrol(store, *written)
        head = await store.head("default")
        assert (head.version, after.head.version) == (version, 4)
        assert head.incarnation == after.head.incarnation
        told = await store.changes(
            "default",
            since=after.head.version,
            incarnation=after.head.incarnation,
            stamp=after.head.stamp,
        )
        assert told is None
        for mirror, loads in ((before, 1), (after, 2)):
            await mirror.catch_up(store, "default")
            assert mirror.loads == loads
            assert sorted(mirror.subjects) == ["a", "b", *written]


async def test_no_two_versions_share_a_stamp(store: Store, store_url: str) -> None:
    """Whatever takes the version: a write, one that logs nothing, one by hand, a new contract."""
    mirror = Mirror(await store.load("default"))
    stamps = [mirror.head.stamp]
    await enrol(store, "a")
    stamps.append((await store.head("default")).stamp)
    await store.add_samples("default", "a", [], contract=CONTRACT)
    stamps.append((await store.head("default")).stamp)
    with psycopg.connect(store_url) as connection:
        connection.execute("UPDATE facegraph.collections SET version = version + 1")
    stamps.append((await store.head("default")).stamp)
    assert len(set(stamps)) == 4
    assert [await stamp_at(store, version) for version in range(4)] == stamps
    await mirror.catch_up(store, "default")
    assert (mirror.loads, mirror.head.version) == (1, 3)


@pytest.mark.parametrize("since", [1, 2])
async def test_from_a_version_that_logged_nothing(store: Store, since: int) -> None:
    await enrol(store, "a")
    await store.add_samples("default", "a", [], contract=CONTRACT)
    stamp = await stamp_at(store, since)
    await enrol(store, "b")
    head = await store.head("default")
    told = await store.changes(
        "default", since=since, incarnation=head.incarnation, stamp=stamp, limit=1
    )
    assert told is not None
    assert (told[0], [change.subject_id for change in told[1]]) == (head, ["b", "b"])


@pytest.mark.parametrize("change", ["name", "threshold", "stranger"])
async def test_what_takes_no_version_keeps_the_stamp(store: Store, change: str) -> None:
    before = await store.head("default")
    if change == "stranger":
        await store.next_stranger("default")
    else:
        await store.update_collection("default", {change: None})
    assert (await store.head("default")).stamp == before.stamp


async def test_a_database_from_before_there_were_stamps(database_url: str) -> None:
    await migrate(database_url, known_migrations()[:3])
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO facegraph.collections (id, contract_id, dimension, contract, version)"
            " SELECT n, 'c', 4, '{}', 7 FROM unnest(ARRAY['default', 'other']) AS n"
        )
        connection.execute(
            "INSERT INTO facegraph.changes"
            " SELECT 'default', n, 0, 'subject_removed', 's' FROM generate_series(1, 7) AS n"
        )
    async with Store.open(database_url) as store:
        heads = await store.heads()
        assert heads["default"].stamp != heads["other"].stamp
        assert {head.search_mode for head in heads.values()} == {"auto"}
        mirror = Mirror(await store.load("default"))
        assert await stamp_at(store, 6) == "gone"  # nobody knows what led here
        await store.create_subject("default", "a", contract=CONTRACT)
        await mirror.catch_up(store, "default")
        assert (mirror.loads, mirror.head.version) == (1, 8)


async def test_who_reads_while_stamps_come_misses_no_collection(database_url: str) -> None:
    """A snapshot taken before: a search there must not answer that its collection is gone."""
    await migrate(database_url, known_migrations()[:3])
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO facegraph.collections (id, contract_id, dimension, contract)"
            " VALUES ('default', 'c', 4, '{}')"
        )
        connection.commit()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT FROM facegraph.database_state")
        await migrate(database_url)
        found = connection.execute("SELECT id, version FROM facegraph.collections").fetchall()
        assert found == [("default", 0)]
