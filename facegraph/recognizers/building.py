"""The job that builds a recognizer: pictures, search, training, model, report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from facegraph.bulk.items import Fetch
from facegraph.errors import ContractMismatch, InvalidTrainingSet, Unavailable
from facegraph.jobs import Done, Handler, Work
from facegraph.recognizers.evaluating import OpenEvaluate, Task
from facegraph.recognizers.gathering import Gathered, gather_samples
from facegraph.recognizers.making import Chosen, make, plan_of
from facegraph.recognizers.options import RECOGNIZER, BuildOptions
from facegraph.recognizers.searching import search
from facegraph.recognizers.shapes import DEFAULT
from facegraph.recognizers.training_set import Omitted, TrainingSet, training_set_of
from facegraph.service import Service
from facegraph.store import Store

log = logging.getLogger(__name__)

GATHERED, SEARCHED = 0.4, 0.95
"""How far a build is when it has its embeddings, and when it knows its shape."""


def handlers(
    service: Service, fetch: Fetch, at_once: Callable[[], int], open_evaluate: OpenEvaluate
) -> dict[str, Handler]:
    """The job's kind with what does it.

    at_once: pictures the graph has at a time
    open_evaluate: who evaluates the shapes of a search
    """

    async def build(work: Work) -> Done:
        options = BuildOptions(**work.job.params)
        if options.contract_id != service.contract.id:
            raise ContractMismatch(
                f"asked for with the contract {options.contract_id!r}, "
                f"and {service.contract.id!r} is active by now"
            )
        if options.optimize:  # else the course of an attempt that was lost would be told
            await _publish(service.store, work, {"generations": [], "stopped": None})
        gathered = await _gathered(service, fetch, at_once, options, work)
        whole, omitted = await asyncio.to_thread(_training_set, gathered, options)
        return await _built(service.store, open_evaluate, options, work, gathered, whole, omitted)

    return {RECOGNIZER: build}


async def _gathered(
    service: Service,
    fetch: Fetch,
    at_once: Callable[[], int],
    options: BuildOptions,
    work: Work,
) -> Gathered:
    async def progress(fraction: float, message: str) -> None:
        await work.progress(GATHERED * fraction, message)

    return await gather_samples(service, fetch, at_once, options, work, progress)


def _training_set(gathered: Gathered, options: BuildOptions) -> tuple[TrainingSet, Omitted]:
    """InvalidTrainingSet tells what was rejected, too."""
    try:
        return training_set_of(
            gathered.samples,
            min_pictures=options.min_pictures,
            max_classes=options.max_classes,
            rejected=gathered.rejected_labels,
        )
    except InvalidTrainingSet as error:
        if not gathered.rejected:
            raise
        codes = ", ".join(f"{code} {n}" for code, n in gathered.rejected.most_common())
        told = gathered.answer()["items"]
        raise InvalidTrainingSet(
            f"{error.detail}; pictures were rejected: {codes}", (*error.errors, *told)
        ) from None


async def _built(
    store: Store,
    open_evaluate: OpenEvaluate,
    options: BuildOptions,
    work: Work,
    gathered: Gathered,
    whole: TrainingSet,
    omitted: Omitted,
) -> Done:
    recognizer = await store.recognizers.get(work.job.id)
    plan = await asyncio.to_thread(plan_of, whole, options.seed)
    chosen = await _chosen(store, open_evaluate, options, work, plan.task)
    await work.progress(SEARCHED, "training the chosen shape")
    made = await asyncio.to_thread(make, recognizer, options, plan, chosen)
    outcome = {
        "shape": made.shape,
        "metrics": made.metrics,
        "pictures": len(whole),
        **omitted.told(),
        "rejected": gathered.answer(),
        "augmentation": made.augmentation,
    }
    keep = store.recognizers.keep(
        recognizer.id,
        labels=whole.labels,
        outcome=outcome,
        model=made.model,
        report=made.report,
        origin=gathered.origin,
    )
    return Done({"recognizer_id": recognizer.id}, keep)


async def _chosen(
    store: Store, open_evaluate: OpenEvaluate, options: BuildOptions, work: Work, task: Task
) -> Chosen:
    """By a search, whose course is published; without one the default shape."""

    async def publish(course: Mapping[str, Any]) -> None:
        number = len(course["generations"])
        told = f"generation {number} of {options.generations}"
        share = min(1.0, number / options.generations)
        await work.progress(GATHERED + (SEARCHED - GATHERED) * share, told)
        await _publish(store, work, course)

    await work.progress(GATHERED, "evaluating the default shape")
    if not options.optimize:
        async with open_evaluate(task) as evaluate:
            (default,) = [score async for score in evaluate([DEFAULT])]
        return Chosen(default, default, None)
    found = await search(
        task,
        open_evaluate,
        generations=options.generations,
        population=options.population,
        seed=options.seed,
        time_budget_s=options.time_budget_s,
        on_generation=publish,
    )
    return Chosen(found.best, found.default, found.course)


async def _publish(store: Store, work: Work, course: Mapping[str, Any]) -> None:
    """It is told, or not: the search goes on."""
    try:
        await store.recognizers.publish(work.job, course)
    except Unavailable as error:
        log.warning("the course of search %s is not told: %s", work.job.id, error)
