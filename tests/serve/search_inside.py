"""Runs inside a process of its own: evaluations on a Ray of its own, whose workers are killed.

Prints what came of it as JSON. The end of this process ends its Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import psutil

from facegraph.errors import Unavailable
from facegraph.recognizers.evaluating import Score, Task, evaluate
from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import TrainingSet
from tests.serve.copies import wait_until

STORE_BYTES = 80 * 2**20
TITLE = "ray::evaluated"
LOWEST = 19

ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    os.environ |= ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=STORE_BYTES,
        _temp_dir=sys.argv[1],
    )
    print(json.dumps(asyncio.run(_scenes())), file=answers, flush=True)
    ray.shutdown()


def task(rows: int = 600, classes: int = 10, dimension: int = 128) -> Task:
    """People who are hard to tell apart, so that scores differ."""
    rng = np.random.default_rng(5)
    of = np.arange(rows, dtype=np.int32) % classes
    centres = rng.normal(size=(classes, dimension))
    embeddings = centres[of] + rng.normal(size=(rows, dimension)) * 3.5
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = tuple(f"person-{n}" for n in range(classes))
    folds = (np.arange(rows) // classes % 3).astype(np.int32)
    return Task(TrainingSet(embeddings.astype(np.float32), of, labels), folds, seed=7)


def shapes(count: int) -> list[Shape]:
    return [Shape((64 + 16 * n,), "relu", 0.1, 0.003) for n in range(count)]


async def _scenes() -> dict[str, Any]:
    """``lost``: scores although a worker was killed; ``here``: as they are in this process;
    ``stopped``: workers that were at work when their search was cancelled, and are gone;
    ``no_room``: what a search says for which no machine is large enough."""
    from deployments.evaluations import ray_evaluations

    async with ray_evaluations(0.05, lambda: 2)(task()) as ask:
        lost = await _with_a_killed_worker(ask(shapes(6)))
        stopped = await _cancelled(ask(shapes(1000)))
    async with ray_evaluations(64, lambda: 2, patience_s=0.5)(task()) as ask:
        no_room = await _refused(ask(shapes(1)))
    here = [_told(evaluate(task(), shape)) for shape in shapes(6)]
    return {"lost": lost, "here": here, "stopped": stopped, "no_room": no_room}


async def _with_a_killed_worker(scores: AsyncGenerator[Score]) -> list[Any]:
    collecting = asyncio.create_task(_collected(scores))
    (first, *_) = await _at_work(1)
    first.kill()
    return [_told(score) for score in await collecting]


async def _cancelled(scores: AsyncGenerator[Score]) -> int:
    """Returns when those who worked are gone: to end by themselves would leave them idle."""
    collecting = asyncio.create_task(_collected(scores))
    working = await _at_work(2)
    collecting.cancel()
    await asyncio.wait([collecting])

    def gone() -> bool:
        return not any(process.is_running() for process in working)

    await asyncio.to_thread(wait_until, gone, "the workers to stop")
    return len(working)


async def _refused(scores: AsyncGenerator[Score]) -> str:
    try:
        return str(await _collected(scores))
    except Unavailable as error:
        return error.detail


async def _at_work(count: int) -> list[psutil.Process]:
    working: list[psutil.Process] = []

    def enough() -> bool:
        working[:] = _workers()
        return len(working) >= count

    await asyncio.to_thread(wait_until, enough, f"{count} workers at work")
    return working


async def _collected(scores: AsyncGenerator[Score]) -> Sequence[Score]:
    async with aclosing(scores):
        return sorted([score async for score in scores], key=lambda score: score.shape)


def _workers() -> list[psutil.Process]:
    """Those that evaluate after all requests, as they are to."""
    return [
        process
        for process in evaluating(psutil.Process().children(recursive=True))
        if _niceness(process) == LOWEST
    ]


def _niceness(process: psutil.Process) -> int | None:
    try:
        return int(process.nice())
    except psutil.Error:
        return None


def evaluating(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of them that evaluate at this moment."""
    found = []
    for process in processes:
        try:
            if " ".join(process.cmdline()).startswith(TITLE):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _told(score: Score) -> list[Any]:
    return [score.shape.told(), score.correct, score.total, score.predicted.tolist()]


if __name__ == "__main__":
    main()
