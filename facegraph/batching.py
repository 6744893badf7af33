"""Batches that form when a worker is free, not on a timer (law 7).

What arrives in one turn of the event loop while a worker idles starts at the end of that turn, so
a lone item waits for nobody, and clients that were answered together come back together. What
arrives while all workers are busy waits, and is shared out among them. Pure asyncio, one event
loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from facegraph.errors import Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")


def _one(_: object) -> int:
    return 1


class Batcher(Generic[T, R]):
    """Runs ``run`` over what waits, at most ``depth`` batches at a time for each of ``workers``.

    ``run`` receives the items of one batch, oldest first, and answers as many results in the
    same order; one that is an exception is raised for its item. ``size`` weighs an item, at least
    1; a batch weighs at most ``max_batch``, except that one item always fits, and is no more than a
    worker's share of what waits. Items waiting weigh at most ``max_queue`` together: one more is
    Overloaded.

    ``workers`` may be a function that is asked each time. A batch that takes longer than
    ``patience_s`` no longer holds its worker once one that began later has ended: what it waits
    for hangs, and others do not. Where all are slow, each holds its own.

    A cancelled item that still waits is dropped; one already running loses only its answer.
    When a batch of several fails, its items run again one by one, so that only the item at fault
    gets the error; an Unavailable is nobody's fault and fails them all.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_batch: int,
        max_queue: int,
        workers: int | Callable[[], int] = 1,
        depth: int = 1,
        size: Callable[[T], int] = _one,
        patience_s: float = math.inf,
    ) -> None:
        self._run = run
        self._size = size
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._workers = workers
        self._depth = depth
        self._patience_s = patience_s
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._weight = 0
        self._running: dict[asyncio.Task[None], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = False

    async def submit(self, item: T) -> R:
        """The result for ``item``. Raises Overloaded, or what ``run`` raised for it."""
        size = self._weigh(item)
        if self._is_full(size):
            self._dispatch()  # what has only just come may not have to wait
            if self._is_full(size):
                raise Overloaded(f"{len(self._waiting)} items wait already; try again later")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._weight += size
        self._dispatch_soon()
        return await future

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._waiting and not self._tasks

    async def close(self) -> None:
        """Lets running batches end; what waits is Overloaded."""
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Overloaded("shutting down"))
        self._weight = 0
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _weigh(self, item: T) -> int:
        return max(1, self._size(item))

    def _is_full(self, size: int) -> bool:
        return bool(self._waiting) and self._weight + size > self.max_queue

    def _dispatch_soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._due = False
        workers = self._workers if isinstance(self._workers, int) else self._workers()
        share = self._weight / workers
        while len(self._running) < workers * self._depth and (batch := self._take(share)):
            self._start(batch)

    def _take(self, share: float) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        weight = 0
        while self._waiting and (not batch or weight < share):
            item, future = self._waiting[0]
            size = self._weigh(item)
            if batch and not future.cancelled() and weight + size > self.max_batch:
                break
            self._waiting.popleft()
            self._weight -= size
            if not future.cancelled():
                batch.append((item, future))
                weight += size
        return batch

    def _start(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._answer(batch))
        self._tasks.add(task)
        self._running[task] = loop.time()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        began = self._running.pop(task, math.inf)
        overdue = asyncio.get_running_loop().time() - self._patience_s
        for other, since in list(self._running.items()):
            if since < began and since < overdue:
                del self._running[other]
        self._dispatch()

    async def _answer(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items gave {len(results)} results")
        except asyncio.CancelledError:  # not by us: whoever was asked gave it up
            for _, future in batch:
                _settle(future, Unavailable("it was given up; try again"))
            raise
        except Exception as error:  # noqa: BLE001 - it becomes the item's answer
            if len(batch) == 1 or isinstance(error, Unavailable):
                for _, future in batch:
                    _settle(future, error)
                return
            for entry in batch:
                if not entry[1].cancelled():
                    await self._answer([entry])
            return
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result)


def _settle(future: asyncio.Future[R], result: R | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
