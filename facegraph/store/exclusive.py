"""Locks that hold across processes, kept by the database and freed when their holder is gone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from facegraph.errors import StoreUnavailable, TimedOut
from facegraph.store.failures import FAILURES, say
from facegraph.store.link import Link

_WAIT = "SET lock_timeout = 0; SET statement_timeout = 0"  # the caller's timeout bounds both
_TAKE = "SELECT pg_advisory_lock(%s)"


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class ExclusiveLocks:
    """Each lock takes a connection outside the pool, so that waiting cannot starve the holder.

    Within a process one task at a time asks the database for a lock; the others queue here.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def hold(self, name: str, timeout_s: float) -> AsyncIterator[None]:
        """Holds the lock ``name``; TimedOut when others keep it for ``timeout_s``."""
        queue = self._queues.setdefault(name, _Queue())
        queue.users += 1
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._take(name, queue, stack)
                except TimeoutError:
                    raise TimedOut(f"waited {timeout_s:g} s for others to finish") from None
                except FAILURES as error:
                    raise StoreUnavailable(say(error)) from error
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[name]

    async def _take(self, name: str, queue: _Queue, stack: AsyncExitStack) -> None:
        await queue.lock.acquire()
        stack.callback(queue.lock.release)
        connection = await self._link.dedicated()
        stack.push_async_callback(connection.close)
        await connection.execute(_WAIT)
        await connection.execute(_TAKE, [_key(name)])


def _key(name: str) -> int:
    """A 64-bit number for an advisory lock."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
