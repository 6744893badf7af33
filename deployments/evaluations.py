"""The evaluations of a search as Ray tasks, so that it is as fast as the cluster is large."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from deployments.calls import UNKNOWN, cause_of
from deployments.evaluation_worker import evaluated
from facegraph import tasks
from facegraph.errors import FacegraphError, Unavailable
from facegraph.recognizers.evaluating import Evaluate, OpenEvaluate, Score, Task
from facegraph.recognizers.shapes import Shape

log = logging.getLogger(__name__)

RETRIES = 3
"""Of an evaluation whose worker was lost. Few, because it may be the shape that kills it."""

Submit = Callable[[Shape], Any]
"""Begins one evaluation; a reference to its score."""


def ray_evaluations(num_cpus: float, at_once: Callable[[], int]) -> OpenEvaluate:
    """Tasks that take ``num_cpus`` each, ``at_once()`` of them at a time, asked each time.

    Evaluate raises Unavailable where workers are lost again and again.
    """
    task = ray.remote(num_cpus=num_cpus, max_retries=RETRIES)(evaluated)

    @asynccontextmanager
    async def opened(what: Task) -> AsyncIterator[Evaluate]:
        try:
            given = [await asyncio.to_thread(ray.put, what)]  # once, for all workers of a node
        except RayError as error:
            raise Unavailable(f"no room for the training set: {error}") from error
        try:
            yield lambda shapes: _scores(
                shapes, lambda shape: task.remote(given[0], shape), at_once
            )
        finally:
            given.clear()

    return opened


async def _scores(
    shapes: Sequence[Shape], submit: Submit, at_once: Callable[[], int]
) -> AsyncGenerator[Score]:
    waiting = deque(shapes)
    working: dict[asyncio.Task[Score], Any] = {}
    try:
        while waiting or working:
            while waiting and len(working) < at_once():
                reference = submit(waiting.popleft())
                working[asyncio.create_task(_score(reference))] = reference
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                del working[ended]
                yield ended.result()
    finally:
        for reference in working.values():
            ray.cancel(reference, force=True)  # else half an import may stay behind in a worker
        await tasks.end(*working)


async def _score(reference: Any) -> Score:
    try:
        score: Score = await reference
    except FacegraphError as error:
        raise cause_of(error) from None
    except RayTaskError as error:
        log.exception("an evaluation failed")
        raise FacegraphError(UNKNOWN) from error
    except RayError as error:
        raise Unavailable(f"workers of the search were lost: {type(error).__name__}") from error
    return score
