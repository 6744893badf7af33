"""Ending tasks, surely."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_AFTER_S = 1.0


async def end(*tasks: asyncio.Task[Any], within_s: float | None = None) -> None:
    """Cancels until all have ended, for at most ``within_s``; their outcomes are dropped.

    Once is not enough: up to Python 3.11 ``asyncio.wait_for``, which the pool of connections
    waits with, drops a cancellation that comes as what it waits for happens.
    """
    deadline = None if within_s is None else asyncio.get_running_loop().time() + within_s
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=AGAIN_AFTER_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # looked at, so that nobody misses it
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return
