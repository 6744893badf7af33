"""Batches that form when a worker is free, not on a timer (law 7).

An item that arrives while a worker idles starts at once and alone; items that arrive while all
workers are busy wait together and leave together. Pure asyncio, one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from facegraph.errors import Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")


def _one(_: object) -> int:
    return 1


class Batcher(Generic[T, R]):
    """Runs ``run`` over what waits, in at most ``workers`` batches at a time.

    ``run`` receives the items of one batch, oldest first, and answers as many results in the
    same order. ``size`` weighs an item; a batch weighs at most ``max_batch``, except that one
    item always fits. Items waiting weigh at most ``max_queue`` together: one more is Overloaded.

    A cancelled item that still waits is dropped; one already running loses only its answer.
    When a batch of several fails, its items run again one by one, so that only the item at fault
    gets the error; an Unavailable is nobody's fault and fails them all.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        max_queue: int,
        workers: int = 1,
        size: Callable[[T], int] = _one,
    ) -> None:
        self._run = run
        self._size = size
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._idle = workers
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._weight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> R:
        """The result for ``item``. Raises Overloaded, or what ``run`` raised for it."""
        if self._waiting and self._weight + self._size(item) > self.max_queue:
            raise Overloaded(f"{self._weight} items wait already; try again later")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._weight += self._size(item)
        self._dispatch()
        return await future

    async def close(self) -> None:
        """Lets running batches end; what waits is Overloaded."""
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Overloaded("shutting down"))
        self._weight = 0
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _dispatch(self) -> None:
        while self._idle and (batch := self._take()):
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._work(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            size = self._size(item)
            if batch and not future.cancelled() and weight + size > self.max_batch:
                break
            self._waiting.popleft()
            self._weight -= size
            if not future.cancelled():
                batch.append((item, future))
                weight += size
        return batch

    async def _work(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._idle += 1
            self._dispatch()

    async def _answer(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items gave {len(results)} results")
        except Exception as error:  # noqa: BLE001 - it becomes the item's answer
            if len(batch) == 1 or isinstance(error, Unavailable):
                for _, future in batch:
                    _fail(future, error)
                return
            for entry in batch:
                if not entry[1].cancelled():
                    await self._answer([entry])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def _fail(future: asyncio.Future[R], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
