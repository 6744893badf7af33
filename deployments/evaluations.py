"""The evaluations of a search as Ray tasks, so that it is as fast as the cluster is large.

A task is one fold of one shape: even one shape is evaluated by several workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from deployments.calls import UNKNOWN, cause_of
from deployments.evaluation_worker import evaluated
from facegraph import tasks
from facegraph.errors import FacegraphError, Unavailable
from facegraph.recognizers.evaluating import Evaluate, OpenEvaluate, Score, Task, score
from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import ClassArray

log = logging.getLogger(__name__)

RETRIES = 3
"""Of a task whose worker was lost. Few, because it may be the shape that kills it. What Ray's
memory monitor stops begins again, however often, until ``PATIENCE_S`` ends it. Without retries it
would not; but the monitor stops first what has some, and replicas are to be stopped last."""

PATIENCE_S = 1800.0
"""For the next of the tasks to end. A fold takes seconds, so it is room that is waited for."""

Submit = Callable[[Shape, int], Any]
"""Begins one shape on one fold; a reference to what it predicts."""


class _Part(NamedTuple):
    shape: Shape
    fold: int
    reference: Any


def ray_evaluations(
    num_cpus: float, at_once: Callable[[], int], patience_s: float = PATIENCE_S
) -> OpenEvaluate:
    """Tasks that take ``num_cpus`` each, ``at_once()`` of them at a time, asked each time.

    Evaluate raises Unavailable where workers are lost again and again, or where for
    ``patience_s`` no task ends.
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
                what,
                shapes,
                lambda shape, fold: task.remote(given[0], shape, fold),
                at_once,
                patience_s,
            )
        finally:
            given.clear()

    return opened


async def _scores(
    task: Task,
    shapes: Sequence[Shape],
    submit: Submit,
    at_once: Callable[[], int],
    patience_s: float,
) -> AsyncGenerator[Score]:
    """Shape by shape, so that those begun are the first to be known."""
    folds = task.fold_numbers
    told: dict[Shape, dict[int, ClassArray]] = {shape: {} for shape in shapes}
    waiting = deque((shape, fold) for shape in told for fold in folds)
    working: dict[asyncio.Task[ClassArray], _Part] = {}
    try:
        while waiting or working:
            while waiting and len(working) < at_once():
                part = _Part(*waiting[0], submit(*waiting.popleft()))
                working[asyncio.create_task(_predicted(part.reference))] = part
            for ended in await _ended(working, patience_s):
                part = working.pop(ended)
                told[part.shape][part.fold] = ended.result()
                if len(told[part.shape]) == len(folds):
                    known = told.pop(part.shape)
                    yield score(task, part.shape, [known[fold] for fold in folds])
    finally:
        for part in working.values():
            ray.cancel(part.reference, force=True)  # else half an import may stay in a worker
        await tasks.end(*working)


async def _ended(
    working: Collection[asyncio.Task[ClassArray]], patience_s: float
) -> set[asyncio.Task[ClassArray]]:
    """Those that have ended, as soon as one has; Unavailable."""
    done, _ = await asyncio.wait(working, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise Unavailable(
            f"no worker evaluated a shape within {patience_s:g} s: "
            "the cluster has no room for resources.evaluation"
        )
    return done


async def _predicted(reference: Any) -> ClassArray:
    try:
        classes: ClassArray = await reference
    except FacegraphError as error:
        raise cause_of(error) from None
    except RayTaskError as error:
        log.exception("an evaluation failed")
        raise FacegraphError(UNKNOWN) from error
    except RayError as error:
        raise Unavailable(f"workers of the search were lost: {type(error).__name__}") from error
    return classes
