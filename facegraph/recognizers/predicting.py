"""Asking recognizers, behind asyncio: which are in memory, and what is done by whom.

A model is loaded when it is first asked for; the least recently used leave memory first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from facegraph.batching import Batcher
from facegraph.errors import (
    DatabaseError,
    ModelUnavailable,
    Overloaded,
    Unavailable,
)
from facegraph.health import Health
from facegraph.load import Load
from facegraph.recognizers.predictor import Predictor
from facegraph.tasks import end
from facegraph.types import FloatArray, Recognized

DAMAGED_S = 30.0
"""So long a damaged file is not read again: whoever comes again finds it as it was."""

LOADING = 2
"""Files that are read at a time; one of 20,000 embeddings of 512 values is 40 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    predictor: Predictor
    probes: FloatArray
    threshold: float
    margin: float


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """expiry: what will drop it"""

    predictor: Predictor
    expiry: asyncio.TimerHandle


@dataclass(frozen=True, slots=True, eq=False)
class _Damaged:
    """expiry: what will have it read again"""

    problem: str
    expiry: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class _Loading:
    task: asyncio.Task[Predictor]
    waiting: int = 0


class RecognizerWorker:
    """Keeps ``max_models`` recognizers, and beyond them those that are being asked.

    load: the file of that id, or RecognizerNotFound, RecognizerNotReady; DatabaseError: it is
        damaged, which whoever asks is told as ModelUnavailable
    threads: requests in work at a time, one thread each
    max_queue: requests that wait for a thread; so many more may wait for files
    max_age_s: then it is dropped, used or not, so that nobody is known long after a deletion that
        this worker was not told of
    damaged_s: from reading a file that is damaged until it is read again
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[bytes]],
        *,
        max_models: int,
        threads: int = 1,
        max_queue: int = 64,
        max_age_s: float = 900.0,
        damaged_s: float = DAMAGED_S,
    ) -> None:
        self._read = load
        self._max_models = max_models
        self._max_queue = max_queue
        self._max_age_s = max_age_s
        self._damaged_s = damaged_s
        self._kept: dict[str, _Kept] = {}  # the last used last
        self._loading: dict[str, _Loading] = {}
        self._damaged: dict[str, _Damaged] = {}
        self._tasks: set[asyncio.Task[Predictor]] = set()
        self._waiting = 0
        self._turns = asyncio.Semaphore(LOADING)
        self._health = Health()
        self.check = self._health.check
        self._meter = Load(threads)
        self.read_load = self._meter.read
        self._opening = ThreadPoolExecutor(1, thread_name_prefix="open-recognizer")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="recognize")
        self._batcher = Batcher(self._run, max_batch=1, max_queue=max_queue, workers=threads)

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> tuple[Recognized, ...]:
        """See :meth:`facegraph.graph.Graph.recognize`.

        Raises ContractMismatch, ModelUnavailable, Overloaded, or what loading raised.
        """
        predictor = await self._predictor(recognizer_id)
        with self._meter.item():
            return await self._batcher.submit(_Job(predictor, probes, threshold, margin))

    def forget(self, recognizer_id: str) -> None:
        """Drops it, and does not keep it where it is being loaded; who waits for it gets it."""
        if (kept := self._kept.pop(recognizer_id, None)) is not None:
            kept.expiry.cancel()
        if (damaged := self._damaged.pop(recognizer_id, None)) is not None:
            damaged.expiry.cancel()
        self._loading.pop(recognizer_id, None)

    def describe(self) -> dict[str, Any]:
        return {
            "loaded": [
                {
                    "id": recognizer_id,
                    "bytes": kept.predictor.size_bytes,
                    "labels": len(kept.predictor.card.labels),
                }
                for recognizer_id, kept in list(self._kept.items())
            ],
            "loading": list(self._loading),
            "max_models": self._max_models,
        }

    async def close(self) -> None:
        """Who waits for a file gets Unavailable."""
        await end(*self._tasks)
        await self._batcher.close()
        for recognizer_id in [*self._kept, *self._damaged]:
            self.forget(recognizer_id)
        self._opening.shutdown(wait=False)
        self._pool.shutdown()

    async def _run(self, batch: Sequence[_Job]) -> list[tuple[Recognized, ...]]:
        (job,) = batch
        loop = asyncio.get_running_loop()
        work = partial(job.predictor.recognize, job.probes, job.threshold, job.margin)
        with self._meter.run(1), self._health.watch():
            return [await loop.run_in_executor(self._pool, work)]

    async def _predictor(self, recognizer_id: str) -> Predictor:
        if (kept := self._kept.pop(recognizer_id, None)) is not None:
            self._kept[recognizer_id] = kept
            return kept.predictor
        if (damaged := self._damaged.get(recognizer_id)) is not None:
            raise ModelUnavailable(damaged.problem)
        if self._waiting >= self._max_queue:
            raise Overloaded(f"{self._waiting} requests wait for recognizers to be loaded")
        loading = self._loading.get(recognizer_id) or self._begin(recognizer_id)
        return await self._loaded(recognizer_id, loading)

    async def _loaded(self, recognizer_id: str, loading: _Loading) -> Predictor:
        """Waits for it; where the last who waits gives up, so does the loading."""
        loading.waiting += 1
        self._waiting += 1
        try:
            await asyncio.wait([loading.task])
        finally:
            loading.waiting -= 1
            self._waiting -= 1
            if not loading.waiting and not loading.task.done():
                loading.task.cancel()
                self._leave(recognizer_id, loading)
        if loading.task.cancelled():
            raise Unavailable("shutting down")
        return loading.task.result()

    def _begin(self, recognizer_id: str) -> _Loading:
        task = asyncio.get_running_loop().create_task(self._open(recognizer_id))
        loading = self._loading[recognizer_id] = _Loading(task)
        self._tasks.add(task)
        # Before anybody who waits goes on: it was added first.
        task.add_done_callback(lambda _: self._ended(recognizer_id, loading))
        return loading

    def _ended(self, recognizer_id: str, loading: _Loading) -> None:
        """Keeps what came of it, unless it was forgotten or given up meanwhile."""
        self._tasks.discard(loading.task)
        wanted = self._leave(recognizer_id, loading)
        if loading.task.cancelled():
            return
        failed = loading.task.exception()  # looked at, so that nobody misses it
        if wanted and failed is None:
            self._keep(recognizer_id, loading.task.result())
        if wanted and isinstance(failed, ModelUnavailable):
            self._refuse(recognizer_id, failed.detail)

    def _leave(self, recognizer_id: str, loading: _Loading) -> bool:
        """Takes it from what is being loaded; whether it was there."""
        if self._loading.get(recognizer_id) is not loading:
            return False
        del self._loading[recognizer_id]
        return True

    def _keep(self, recognizer_id: str, predictor: Predictor) -> None:
        expiry = asyncio.get_running_loop().call_later(self._max_age_s, self.forget, recognizer_id)
        self._kept[recognizer_id] = _Kept(predictor, expiry)
        while len(self._kept) > self._max_models:
            self.forget(next(iter(self._kept)))

    def _refuse(self, recognizer_id: str, problem: str) -> None:
        expiry = asyncio.get_running_loop().call_later(
            self._damaged_s, self._damaged.pop, recognizer_id, None
        )
        self._damaged[recognizer_id] = _Damaged(problem, expiry)

    async def _open(self, recognizer_id: str) -> Predictor:
        async with self._turns:
            try:
                model = await self._read(recognizer_id)
            except DatabaseError as error:
                raise ModelUnavailable(str(error)) from error
            return await asyncio.get_running_loop().run_in_executor(self._opening, Predictor, model)
