"""One at a time, across tasks and processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from facegraph.errors import TimedOut
from facegraph.store import Store
from tests.store.workers import read_and_write_exclusively, side_by_side

pytestmark = pytest.mark.store


async def test_one_task_at_a_time_however_many_wait(store: Store) -> None:
    inside, most = 0, 0

    async def visit() -> None:
        nonlocal inside, most
        async with store.exclusive("default", "p", timeout_s=60):
            inside += 1
            most = max(most, inside)
            await store.next_stranger("default")  # the pool serves although all the others wait
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(30)))
    assert most == 1
    assert await store.next_stranger("default") == 31


async def test_other_purposes_and_collections_do_not_wait(store: Store) -> None:
    async with (
        store.exclusive("default", "p"),
        store.exclusive("default", "q", timeout_s=5),
        store.exclusive("other", "p", timeout_s=5),
    ):
        pass


async def test_waiting_ends(store: Store, store_url: str) -> None:
    async with Store.open(store_url) as other, store.exclusive("default", "p"):
        for waiting in (other, store):  # from elsewhere, and from the same process
            with pytest.raises(TimedOut):
                async with waiting.exclusive("default", "p", timeout_s=0.2):
                    pytest.fail("two inside")
    async with store.exclusive("default", "p", timeout_s=5):
        pass


async def test_an_error_inside_frees_the_lock(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.exclusive("default", "p"):
            _ = 1 // 0
    async with store.exclusive("default", "p", timeout_s=5):
        pass


def test_one_process_at_a_time(store: Store, store_url: str, tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    side_by_side(read_and_write_exclusively, [(store_url, str(tmp_path), 10)] * 4)
    assert (tmp_path / "counter").read_text() == "40"
