"""Telling who asked for a recognizer: once the build has ended, by one at a time, until settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from facegraph.store import Store, notifications
from facegraph.store.connecting import Connection, connect
from facegraph.store.records import DueNotification, Notification
from tests.store.test_recognizers import (
    CALLED,
    PROBLEM,
    execute,
    finish,
    make,
    make_failed,
    make_ready,
    rows,
    take,
)

pytestmark = pytest.mark.store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with Store.open(database_url) as opened:
        yield opened


async def due(store: Store, lease_s: float = 60) -> DueNotification:
    taken = await store.recognizers.take_notification(lease_s)
    assert taken is not None
    return taken


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_failed_one_stays_until_its_client_was_told(store: Store, delivered: bool) -> None:
    failed = await make_failed(store, **CALLED)
    assert await store.jobs.prune(0) == 0
    assert (await due(store)).recognizer_id == failed
    assert await store.jobs.prune(0) == 0
    if delivered:
        await store.recognizers.notified(failed)
    else:
        await store.recognizers.not_notified(failed, "nobody there", None)
    assert await store.jobs.prune(0) == 1
    assert await rows(store) == {}
    await store.recognizers.notified(failed)  # by a second taker: there is nothing to be written


async def test_nobody_is_told_before_the_build_has_ended(store: Store) -> None:
    await make_ready(store, "ada")  # nobody asked to be told of this one
    made = await make(store, **CALLED)
    assert made.notification == Notification(CALLED["callback_url"], "waiting", 0, None)
    assert await store.recognizers.take_notification(60) is None
    job = await take(store)
    assert await store.recognizers.take_notification(60) is None
    await finish(store, job, "ada")
    taken = await due(store)
    assert (taken.recognizer_id, taken.url, taken.secret, taken.attempts) == (
        made.id,
        CALLED["callback_url"],
        CALLED["callback_secret"],
        1,
    )
    assert 0 <= taken.waiting_s < 300
    assert CALLED["callback_secret"] not in repr(taken)
    assert taken.recognizer == await store.recognizers.get(made.id)
    assert (taken.recognizer.state, taken.recognizer.labels) == ("ready", ("ada",))


async def test_a_failure_is_told_too(store: Store) -> None:
    failed = await make_failed(store, **CALLED)
    taken = await due(store)
    assert (taken.recognizer_id, taken.recognizer.state) == (failed, "failed")
    assert taken.recognizer.problem == PROBLEM


async def test_how_long_a_notification_waits(store: Store, database_url: str) -> None:
    ready, failed = await make_ready(store, **CALLED), await make_failed(store, **CALLED)
    for table in ("recognizers", "jobs"):
        await execute(
            database_url,
            f"UPDATE facegraph.{table} SET finished_at = finished_at - interval '1 hour' "
            "WHERE finished_at IS NOT NULL",
        )
    taken = [await due(store), await due(store)]
    assert {one.recognizer_id for one in taken} == {ready, failed}
    assert [round(one.waiting_s / 3600, 1) for one in taken] == [1.0, 1.0]


async def test_two_takers_take_two(store: Store, database_url: str) -> None:
    made = [await make_ready(store, **CALLED) for _ in range(2)]
    async with await connect(database_url) as connection, connection.transaction():
        first = await notifications.take(connection, 60)
        second = await due(store)  # does not wait for the other's transaction
        assert await store.recognizers.take_notification(60) is None
    assert first is not None
    assert [first.recognizer_id, second.recognizer_id] == made


async def test_many_takers_take_each_once(store: Store) -> None:
    made = [await make_ready(store, **CALLED) for _ in range(6)]
    taken = await asyncio.gather(*(store.recognizers.take_notification(60) for _ in range(9)))
    ids = [one.recognizer_id for one in taken if one is not None]
    assert sorted(ids) == sorted(made)


async def test_who_took_it_and_vanished_delays_it(store: Store) -> None:
    made = await make_ready(store, **CALLED)
    assert (await due(store, lease_s=0)).attempts == 1
    assert (await due(store, lease_s=60)).attempts == 2
    assert await store.recognizers.take_notification(60) is None
    seen = (await store.recognizers.get(made)).notification
    assert seen == Notification(CALLED["callback_url"], "waiting", 2, None)


async def secret(store: Store, recognizer_id: str) -> str | None:
    async def work(connection: Connection) -> str | None:
        query = "SELECT callback_secret FROM facegraph.recognizers WHERE id = %s"
        row = await (await connection.execute(query, [recognizer_id])).fetchone()
        assert row is not None
        told: str | None = row[0]
        return told

    return await store.read(work)


async def test_it_is_tried_again_until_it_is_delivered(store: Store) -> None:
    made = await make_ready(store, **CALLED)
    await due(store)
    await store.recognizers.not_notified(made, "refused", 3600)
    assert await store.recognizers.take_notification(60) is None
    await store.recognizers.not_notified(made, "answered 500", 0)
    waiting = (await store.recognizers.get(made)).notification
    assert waiting == Notification(CALLED["callback_url"], "waiting", 1, "answered 500")
    again = await due(store, lease_s=0)
    assert (again.attempts, again.secret) == (2, CALLED["callback_secret"])
    await store.recognizers.notified(made)
    told = (await store.recognizers.get(made)).notification
    assert told == Notification(CALLED["callback_url"], "delivered", 2, None)
    assert await secret(store, made) is None
    assert await store.recognizers.take_notification(60) is None


async def test_a_late_failure_does_not_undo_a_delivery(store: Store) -> None:
    made = await make_ready(store, **CALLED)
    await due(store)
    await store.recognizers.notified(made)
    for again_after_s in (0, None):
        await store.recognizers.not_notified(made, "timed out", again_after_s)
    told = (await store.recognizers.get(made)).notification
    assert told == Notification(CALLED["callback_url"], "delivered", 1, None)


async def test_what_is_given_up_forgets_the_secret(store: Store) -> None:
    made = await make_ready(store, **CALLED)
    await due(store, lease_s=0)
    await store.recognizers.not_notified(made, "nobody there", None)
    told = (await store.recognizers.get(made)).notification
    assert told == Notification(CALLED["callback_url"], "given_up", 1, "nobody there")
    assert await secret(store, made) is None
    assert await store.recognizers.take_notification(60) is None
    await store.recognizers.notified(made)  # another's attempt came through after all
    told = (await store.recognizers.get(made)).notification
    assert told == Notification(CALLED["callback_url"], "delivered", 1, None)


async def test_one_without_a_callback_is_never_notified(store: Store) -> None:
    made = await make_ready(store)
    await store.recognizers.notified(made)
    await store.recognizers.not_notified(made, "wrong", None)
    assert (await store.recognizers.get(made)).notification is None
