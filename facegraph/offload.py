"""Pixel work beside the event loop: a few threads of its own, and a bound on what waits.

A slot is taken until the thread is done, also where nobody waits for it any more: a client that
goes away makes no room for more work than there are threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from facegraph.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Offload:
    """``threads`` calls at a time; ``waiting`` more may wait, the next is Overloaded."""

    def __init__(self, *, threads: int = 2, waiting: int = 16) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pixels")
        self._most = threads + waiting
        self._taken = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns or raises; used on one event loop."""
        if self._taken >= self._most:
            raise Overloaded(f"{self._taken} pictures are drawn or wait for it")
        loop = asyncio.get_running_loop()
        self._taken += 1
        future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._free(loop, future))
        return await asyncio.wrap_future(future)

    def _free(self, loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._taken -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
