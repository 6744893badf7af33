"""Turns: one thing is measured for a moment, then the next, then the first again."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facegraph.types import FloatArray

Way = Callable[[FloatArray], object]
"""Answers probes, (n, d) float32."""


def cores() -> int:
    """Threads that everything measured may use: ``taskset`` gives fewer."""
    return len(os.sched_getaffinity(0))


def torch_threads(count: int) -> None:
    """What torch may use when this thread calls it; everything that calls it says so first."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def seconds_a_call(call: Callable[[int], object], seconds: float) -> float:
    """The median of at least one call; ``call`` is told how many there were."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        began = time.perf_counter()
        call(len(took))
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def seconds_a_batch(way: Way, probes: FloatArray, batch: int, seconds: float) -> float:
    """The median for ``batch`` probes at once, other ones each time."""

    def call(number: int) -> object:
        start = number * batch % (len(probes) - batch + 1)
        return way(probes[start : start + batch])

    return seconds_a_call(call, seconds)


def ratio(value: float, of: float) -> float:
    """Not a number where nothing was counted."""
    return value / of if of else math.nan


@dataclass(frozen=True, slots=True)
class Traffic:
    """What clients saw who asked without pause.

    rate: answers a second
    p50_ms, p99_ms: how long one took
    """

    rate: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, took: Sequence[float], seconds: float) -> Traffic:
        p50, p99 = np.percentile(took, [50, 99]) * 1000 if took else (np.nan, np.nan)
        return cls(len(took) / seconds if took else 0.0, float(p50), float(p99))


async def traffic(
    ask: Callable[[FloatArray], Awaitable[object]],
    probes: FloatArray,
    clients: int,
    seconds: float,
) -> Traffic:
    """``clients`` on this event loop ask one probe each, without pause.

    Answers after the end do not count, nor does the time for them: the rate is that up to the
    last answer that counts.
    """
    took: list[float] = []
    start = last = time.perf_counter()
    end = start + seconds

    async def client(number: int) -> None:
        nonlocal last
        while (began := time.perf_counter()) < end:
            at = (number + len(took)) % len(probes)
            await ask(probes[at : at + 1])
            if (ended := time.perf_counter()) <= end:
                took.append(ended - began)
                last = ended

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    return Traffic.of(took, last - start)
