"""Pixel work is bounded, and stays bounded when clients go away."""

from __future__ import annotations

import asyncio
import threading

import pytest

from facegraph.errors import Overloaded
from facegraph.offload import Offload

pytestmark = pytest.mark.unit


class Stuck:
    """Work that tells when it began and ends when it may."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> bool:
        self.began.set()
        return self.go_on.wait(60)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def test_it_answers_and_raises() -> None:
    offload = Offload()
    assert await offload.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await offload.run(divmod, 7, 0)


async def test_one_more_than_may_wait_is_refused() -> None:
    offload, stuck = Offload(threads=1, waiting=1), Stuck()
    tasks = [asyncio.create_task(offload.run(stuck)) for _ in range(2)]
    await until(stuck.began)
    with pytest.raises(Overloaded):
        await offload.run(stuck)
    stuck.go_on.set()
    assert await asyncio.gather(*tasks) == [True, True]
    assert await offload.run(stuck)


async def test_a_client_that_goes_away_makes_no_room_for_more_threads() -> None:
    offload, stuck = Offload(threads=1, waiting=0), Stuck()
    task = asyncio.create_task(offload.run(stuck))
    await until(stuck.began)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Overloaded):
        await offload.run(stuck)
    stuck.go_on.set()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await offload.run(stuck)
                return
            except Overloaded:
                await asyncio.sleep(0.01)


async def test_what_waits_and_is_given_up_is_never_done() -> None:
    offload, stuck = Offload(threads=1, waiting=1), Stuck()
    done: list[int] = []
    first = asyncio.create_task(offload.run(stuck))
    await until(stuck.began)
    second = asyncio.create_task(offload.run(done.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    stuck.go_on.set()
    assert await first
    await offload.run(done.append, 2)
    assert done == [2]
