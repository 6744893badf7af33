"""Tasks end, also those that miss a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from facegraph import tasks

pytestmark = pytest.mark.unit


async def deaf(times: int) -> None:
    """Misses so many cancellations."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not times:
                raise
            times -= 1


async def failing() -> None:
    raise ZeroDivisionError


async def test_each_task_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_AFTER_S", 0.01)
    started = [asyncio.create_task(deaf(times)) for times in (0, 1, 3)]
    started.append(asyncio.create_task(failing()))
    await asyncio.sleep(0)
    await tasks.end(*started)
    assert [task.cancelled() for task in started] == [True, True, True, False]


async def test_nobody_is_waited_for_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_AFTER_S", 0.01)
    task = asyncio.create_task(deaf(1000))
    await asyncio.sleep(0)
    await tasks.end(task, within_s=0.05)
    assert not task.done()
    monkeypatch.setattr(tasks, "AGAIN_AFTER_S", 0.0)
    await tasks.end(task)


async def test_nothing_to_end() -> None:
    await tasks.end()
