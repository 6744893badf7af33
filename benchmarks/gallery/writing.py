"""A process that enrols strangers at an even pace, as other services of a graph do."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.people import stranger
from benchmarks.gallery.turns import Traffic
from facegraph.store import Store
from facegraph.types import Contract, NewSample

_AT_ONCE = 8
_TIMEOUT_S = 60


class Writer:
    """One sample of one new subject in each write; ``rate`` writes a second."""

    def __init__(self, url: str, contract: Contract, rate: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, url, contract, rate), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def start(self) -> None:
        self._pipe.send("start")

    def stop(self) -> Traffic:
        """Ends the writes; what was acknowledged since the start."""
        self._pipe.send("stop")
        traffic: Traffic = self._answer()
        return traffic

    def _answer(self) -> Any:
        if not self._pipe.poll(_TIMEOUT_S):
            raise SystemExit("the writer does not answer")
        return self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()


def _work(pipe: Connection, url: str, contract: Contract, rate: float) -> None:
    asyncio.run(_serve(pipe, url, contract, rate))


async def _serve(pipe: Connection, url: str, contract: Contract, rate: float) -> None:
    random = np.random.default_rng()
    async with Store.open(url, pool_size=_AT_ONCE) as store:

        async def enrol() -> None:
            samples = [NewSample(stranger(random, contract.dimension))]
            await store.create_subject(COLLECTION, contract=contract, samples=samples)

        await asyncio.gather(*(enrol() for _ in range(4 * _AT_ONCE)))  # opens all connections
        pipe.send("ready")
        while True:
            await asyncio.to_thread(pipe.recv)
            pipe.send(await _write(pipe, enrol, rate))
            pipe.recv()


async def _write(pipe: Connection, enrol: Callable[[], Awaitable[object]], rate: float) -> Traffic:
    """Writes until something is sent. Each counts from when it was due, be it late."""
    took: list[float] = []
    places = asyncio.Semaphore(_AT_ONCE)

    async def write(due: float) -> None:
        async with places:
            await enrol()
            took.append(time.perf_counter() - due)

    began = time.perf_counter()
    number = 0
    async with asyncio.TaskGroup() as group:
        while not pipe.poll():
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(write(due))
            number += 1
        done, seconds = len(took), time.perf_counter() - began
    return Traffic.of(took[:done], seconds)
