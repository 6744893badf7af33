"""Pixel work is bounded, and stays bounded when clients go away."""

from __future__ import annotations

import asyncio
import threading

import pytest

from facegraph.errors import Overloaded
from facegraph.offload import Offload

pytestmark = pytest.mark.unit


async def test_it_answers_and_raises() -> None:
    offload = Offload()
    assert await offload.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await offload.run(divmod, 7, 0)


async def test_one_more_than_may_wait_is_refused() -> None:
    offload = Offload(threads=1, waiting=1)
    go_on = threading.Event()
    tasks = [asyncio.create_task(offload.run(go_on.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await offload.run(go_on.wait)
    go_on.set()
    assert await asyncio.gather(*tasks) == [True, True]
    await asyncio.sleep(0.01)
    assert await offload.run(go_on.wait)


async def test_a_client_that_goes_away_makes_no_room_for_more_threads() -> None:
    offload = Offload(threads=1, waiting=0)
    go_on = threading.Event()
    task = asyncio.create_task(offload.run(go_on.wait))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Overloaded):
        await offload.run(go_on.wait)
    go_on.set()
    await asyncio.sleep(0.05)
    assert await offload.run(go_on.wait)


async def test_what_waits_and_is_given_up_is_never_done() -> None:
    offload = Offload(threads=1, waiting=1)
    go_on = threading.Event()
    done: list[int] = []
    first = asyncio.create_task(offload.run(go_on.wait))
    second = asyncio.create_task(offload.run(done.append, 1))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    assert await first
    await offload.run(done.append, 2)
    assert done == [2]
