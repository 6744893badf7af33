"""The truth moves to another database: every store follows, nobody answers from the old one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from facegraph.errors import DatabaseError, SubjectNotFound
from facegraph.store import Store
from tests.store.making import CONTRACT, sample

pytestmark = pytest.mark.store

Make = Callable[[], str]


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two stores, as two replicas have them, on one new database."""
    async with Store.open(database_url) as one, Store.open(database_url) as two:
        await one.ensure_default(CONTRACT)
        yield one, two


def subjects_in(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT id FROM facegraph.subjects ORDER BY id").fetchall()
    return [name for (name,) in rows]


async def enrol(store: Store, name: str) -> None:
    await store.create_subject("default", name, samples=[sample(1)], contract=CONTRACT)


async def test_every_store_follows(
    stores: tuple[Store, Store], database_url: str, make_database: Make
) -> None:
    one, two = stores
    await enrol(one, "old")
    before = await two.head("default")
    target = make_database()
    await one.move_to(target)

    assert (await two.head("default")).incarnation != before.incarnation
    assert (await two.heads())["default"].version == 0
    with pytest.raises(SubjectNotFound):
        await two.get_subject("default", "old")
    assert (await two.get_collection("default")).contract_id == CONTRACT.id
    await enrol(two, "by-two")
    await enrol(one, "by-one")
    async with Store.open(database_url) as late:
        assert (await late.get_subject("default", "by-two")).id == "by-two"
        await enrol(late, "by-late")
    assert subjects_in(target) == ["by-late", "by-one", "by-two"]
    assert subjects_in(database_url) == ["old"]


READS: list[Callable[[Store], object]] = [
    lambda store: store.head("default"),
    lambda store: store.heads(),
    lambda store: store.load("default"),
    lambda store: store.list_subjects("default"),
    lambda store: store.get_collection("default"),
    lambda store: store.changes("default", since=0, incarnation="x", stamp="x"),
    lambda store: store.next_stranger("default"),
    lambda store: store.update_collection("default", {"name": "n"}),
    lambda store: store.ping(),
]


@pytest.mark.parametrize("number", range(len(READS)))
async def test_whatever_is_asked_first(
    stores: tuple[Store, Store], database_url: str, make_database: Make, number: int
) -> None:
    one, two = stores
    await enrol(one, "old")
    await one.move_to(make_database())
    await READS[number](two)  # type: ignore[misc]
    assert (await two.list_subjects("default")).items == ()
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT name, stranger_count FROM facegraph.collections")
        assert found.fetchall() == [(None, 0)]


async def test_a_lock_is_taken_where_the_truth_is(
    stores: tuple[Store, Store], make_database: Make
) -> None:
    one, two = stores
    await one.move_to(make_database())
    async with two.exclusive("default", "p"):
        with pytest.raises(Exception, match="waited"):
            async with one.exclusive("default", "p", timeout_s=0.2):
                pytest.fail("two inside")


async def test_moving_on_and_back_makes_no_circle(
    stores: tuple[Store, Store], database_url: str, make_database: Make
) -> None:
    one, two = stores
    second, third = make_database(), make_database()
    await enrol(one, "first")
    for url, name in ((second, "second"), (third, "third"), (second, "second-again")):
        await one.move_to(url)
        await enrol(one, name)
    await one.move_to(database_url)
    await enrol(two, "first-again")
    assert subjects_in(database_url) == ["first", "first-again"]
    assert subjects_in(second) == ["second", "second-again"]
    assert subjects_in(third) == ["third"]
    for start in (database_url, second, third):
        async with Store.open(start) as opened:
            names = [subject.id for subject in (await opened.list_subjects("default")).items]
        assert names == ["first", "first-again"]


async def test_a_mover_that_died_half_way_back_is_completed_by_the_next(
    stores: tuple[Store, Store], database_url: str, make_database: Make
) -> None:
    """The commit in the database left is the move; the other learns it from who arrives."""
    one, two = stores
    second = make_database()
    await one.move_to(second)
    await two.ping()
    with psycopg.connect(second) as connection:
        connection.execute(
            "UPDATE facegraph.database_state SET moved_to = %s, moved_epoch = epoch + 1",
            [database_url],
        )
    await enrol(two, "back")  # was on the second database
    async with Store.open(database_url) as late:
        assert (await late.get_subject("default", "back")).id == "back"
    async with Store.open(second) as late:
        assert (await late.get_subject("default", "back")).id == "back"


async def test_moving_to_where_it_is_changes_nothing(
    stores: tuple[Store, Store], database_url: str
) -> None:
    one, two = stores
    await enrol(one, "s")
    await one.move_to(database_url)
    assert (await two.get_subject("default", "s")).id == "s"


@pytest.mark.parametrize("url", ["nonsense", "postgresql://nobody@127.0.0.1:1/none"])
async def test_a_move_that_fails_changes_nothing(stores: tuple[Store, Store], url: str) -> None:
    one, two = stores
    await enrol(one, "s")
    with pytest.raises(DatabaseError):
        await one.move_to(url)
    assert (await one.get_subject("default", "s")).id == "s"
    assert (await two.get_subject("default", "s")).id == "s"


async def test_no_write_is_lost_between_two_databases(
    stores: tuple[Store, Store], database_url: str, make_database: Make
) -> None:
    """Writers and movers side by side: what was acknowledged before lies in the old database,
    what was acknowledged after in the new one, and each write in just one of them."""
    one, two = stores
    places = [database_url, make_database(), make_database()]

    async def write(store: Store, writer: str) -> list[str]:
        names = [f"{writer}{n}" for n in range(60)]
        for name in names:
            await enrol(store, name)
        return names

    async def move() -> None:
        for url in places[1:]:
            await asyncio.sleep(0.02)
            await two.move_to(url)

    written, more, _ = await asyncio.gather(write(one, "a"), write(two, "b"), move())
    found = [name for url in places for name in subjects_in(url)]
    assert sorted(found) == sorted(written + more)
    assert (await one.head("default")) == (await two.head("default"))
