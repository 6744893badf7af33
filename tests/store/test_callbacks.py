"""Notifications that wait in PostgreSQL, told to a client's server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from facegraph.config import JobsTuning
from facegraph.recognizers.callbacks import Notifier
from facegraph.store import Store
from facegraph.store.records import Notification
from tests.store.test_recognizers import make_failed, make_ready
from tests.unit.test_callbacks import NOW, SECRET, Receiver, receiver

__all__ = ["receiver"]

pytestmark = pytest.mark.store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with Store.open(database_url) as opened:
        yield opened


async def test_each_is_told_and_how_that_went_is_kept(store: Store, receiver: Receiver) -> None:
    notifier = Notifier(store.recognizers, JobsTuning, private=True, clock=lambda: NOW)
    called = {"callback_url": receiver.url, "callback_secret": SECRET}
    ready = await make_ready(store, "ada", name="all of us", **called)
    failed = await make_failed(store, **called)
    refused = await make_ready(store, "ada", **called)
    gone = await make_ready(store, "ada", **called)
    receiver.statuses.extend([204, 200, 500, 410])
    assert [await notifier.step() for _ in range(5)] == [True] * 4 + [False]
    assert [request.headers["webhook-id"] for request in receiver.requests] == [
        f"msg_{one}" for one in (ready, failed, refused, gone)
    ]
    assert [body["data"] for body in receiver.accepted[:2]] == [
        {"id": ready, "state": "ready", "name": "all of us"},
        {"id": failed, "state": "failed", "name": None},
    ]
    kept = [(await store.recognizers.get(one)).notification for one in (ready, refused, gone)]
    assert kept == [
        Notification(receiver.url, "delivered", 1, None),
        Notification(receiver.url, "waiting", 1, "it answered 500"),
        Notification(receiver.url, "given_up", 1, "it answered 410"),
    ]
    assert (await store.recognizers.get(failed)).notification == kept[0]


async def test_one_that_was_deleted_meanwhile(store: Store, receiver: Receiver) -> None:
    called = {"callback_url": receiver.url, "callback_secret": SECRET}
    ready = await make_ready(store, "ada", **called)
    due = await store.recognizers.take_notification(60)
    assert due is not None
    await store.recognizers.delete(ready)
    await store.recognizers.notified(ready)
    await store.recognizers.not_notified(ready, "it answered 500", 5)
    notifier = Notifier(store.recognizers, JobsTuning, private=True)
    assert not await notifier.step()
    assert receiver.requests == []
