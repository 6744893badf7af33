"""What a search for a recognizer's shape is good for, and its wall time with one and two workers.

    FACEGRAPH_TEST_ASSETS=… python -m benchmarks recognizers [--parts people workers] [--ray]

*people*: cross-validated accuracy of the default shape, of the one a search finds, and of the
nearest neighbour, on the same folds. Of `faces/bbt` of the test assets (eight people, five
pictures each) by the default face pack; then of the same made harder; then of people drawn by
chance, whose further pictures no search saw. *workers*: the same search over two thousand drawn
embeddings (100 people, 20 pictures each) by one worker process and by two, in turns; with ``--ray``
by the service's own Ray tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import platform
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gallery.report import Table
from benchmarks.pictures import assets
from facegraph.config import settings_from
from facegraph.errors import FacegraphError
from facegraph.local_faces import LocalFaces
from facegraph.recognizers.evaluating import (
    Evaluate,
    OpenEvaluate,
    Score,
    Task,
    evaluate,
    in_process,
    nearest_neighbour,
    seed_of,
)
from facegraph.recognizers.networks import train
from facegraph.recognizers.searching import SearchResult, search
from facegraph.recognizers.shapes import DEFAULT, LINEAR, Shape
from facegraph.recognizers.splitting import fold_count, stratified_folds
from facegraph.recognizers.training_set import Sample, TrainingSet, training_set_of
from facegraph.service import sample
from facegraph.types import FloatArray

PEOPLE, WORKERS = "people", "workers"
HARD_NOISE = 1.5
"""Mean length of what is added to an embedding of length 1: genuine cosines fall to about 0.2."""
SPREAD = 2.0
"""Mean distance of a drawn picture from its person's centre, whose length is 1: genuine cosines
are 0.2 ± 0.09, those of strangers 0 ± 0.09."""
FRESH = 20
"""Pictures of each drawn person that no search saw."""

Open = Callable[[int], AbstractContextManager[OpenEvaluate]]
"""So many workers, warm."""


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Some people's embeddings; ``fresh``: others of the same people, where there are any."""

    name: str
    training_set: TrainingSet
    fresh: TrainingSet | None = None


async def bbt() -> TrainingSet | None:
    """The embeddings of the test assets' eight people, where this machine has them."""
    folder = assets()
    if folder is None:
        return None
    samples = []
    graph = LocalFaces(settings_from())
    try:
        for path in sorted((folder / "faces/bbt").glob("*/*")):
            made = await sample(graph, path.read_bytes(), "only", None)
            if isinstance(made, FacegraphError):
                raise made
            samples.append(Sample(path.parent.name, path.name, made.embedding))
    finally:
        await graph.close()
    training_set, _ = training_set_of(samples, min_pictures=2, max_classes=100)
    return training_set


def noisier(training_set: TrainingSet, seed: int) -> TrainingSet:
    """The same pictures, each disturbed once."""
    noise = np.random.default_rng(seed).normal(size=training_set.embeddings.shape)
    moved = training_set.embeddings + HARD_NOISE * noise / training_set.dimension**0.5
    return TrainingSet(_unit(moved), training_set.classes, training_set.labels)


def fewer(training_set: TrainingSet, each: int, seed: int) -> TrainingSet:
    """``each`` pictures of everybody, drawn."""
    draw = np.random.default_rng(seed)
    rows = [
        draw.permutation(np.flatnonzero(training_set.classes == one))[:each]
        for one in range(len(training_set.labels))
    ]
    return training_set.take(np.sort(np.concatenate(rows)))


def drawn(people: int, each: int, dimension: int = 128, seed: int = 0) -> People:
    """People whose pictures lie about a centre of their own, with ``FRESH`` more of each."""
    draw = np.random.default_rng(seed)
    centres = _unit(draw.normal(size=(people, dimension)))
    labels = tuple(f"person-{n:03}" for n in range(people))
    sets = []
    for pictures in (each, FRESH):
        classes = np.repeat(np.arange(people, dtype=np.int32), pictures)
        away = draw.normal(size=(len(classes), dimension)) * SPREAD / dimension**0.5
        sets.append(TrainingSet(_unit(centres[classes] + away), classes, labels))
    return People(f"drawn, {people} × {each}", *sets)


def _unit(rows: np.ndarray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def task_of(training_set: TrainingSet, seed: int) -> Task:
    folds = stratified_folds(training_set.classes, fold_count(training_set.classes), seed)
    return Task(training_set, folds, seed)


@asynccontextmanager
async def _pooled(pool: ProcessPoolExecutor, task: Task) -> AsyncIterator[Evaluate]:
    async def scores(shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
        loop = asyncio.get_running_loop()
        working = [loop.run_in_executor(pool, evaluate, task, shape) for shape in shapes]
        try:
            for done in asyncio.as_completed(working):
                yield await done
        finally:
            for future in working:
                future.cancel()

    yield scores


@contextmanager
def processes(count: int) -> Iterator[OpenEvaluate]:
    """Processes of this program's own."""
    spawn = multiprocessing.get_context("spawn")
    # All begin together, so each takes one of the first evaluations, which bring torch.
    begin = spawn.Barrier(count).wait
    with ProcessPoolExecutor(count, spawn, begin) as pool:
        warm = task_of(drawn(2, 2).training_set, 0)
        for done in [pool.submit(evaluate, warm, LINEAR) for _ in range(count)]:
            done.result()
        yield lambda task: _pooled(pool, task)


@contextmanager
def ray_tasks(count: int) -> Iterator[OpenEvaluate]:
    """The service's own way, on a Ray of so many cores."""
    import ray

    from deployments.evaluations import ray_evaluations

    ray.init(address="local", num_cpus=count, include_dashboard=False, log_to_driver=False)
    try:
        opened = ray_evaluations(1, lambda: count)
        warm = task_of(drawn(2, 2).training_set, 0)
        asyncio.run(_all(opened, warm, [LINEAR] * count * 2))
        yield opened
    finally:
        ray.shutdown()


async def _all(opened: OpenEvaluate, task: Task, shapes: Sequence[Shape]) -> list[Score]:
    async with opened(task) as run:
        return [score async for score in run(shapes)]


async def _silent(_course: Mapping[str, Any]) -> None:
    """Nobody watches a benchmark's search."""


async def searched(task: Task, opened: OpenEvaluate, options: argparse.Namespace) -> SearchResult:
    return await search(
        task,
        opened,
        generations=options.generations,
        population=options.population,
        seed=task.seed,
        time_budget_s=3600,
        on_generation=_silent,
    )


def agree(one: SearchResult, other: SearchResult) -> bool:
    """Whether two searches went the same way to the same shape, whatever time they took."""
    ways = [
        [{**generation, "seconds": None} for generation in each.course["generations"]]
        for each in (one, other)
    ]
    return ways[0] == ways[1] and one.best.predicted.tolist() == other.best.predicted.tolist()


def on_fresh(people: People, seed: int, shape: Shape | None) -> float | None:
    """Accuracy on the fresh pictures, by a network trained on all others; None: the nearest's."""
    known, fresh = people.training_set, people.fresh
    if fresh is None:
        return None
    if shape is None:
        nearest = (fresh.embeddings @ known.embeddings.T).argmax(axis=1)
        told = known.classes[nearest]
    else:
        network = train(known, shape, seed_of(seed, shape, None))
        told = network.probabilities(fresh.embeddings).argmax(axis=1)
    return float((told == fresh.classes).mean())


def described(shape: Shape) -> str:
    if not shape.hidden:
        return f"linear, {shape.learning_rate:g}"
    widths = "-".join(map(str, shape.hidden))
    return f"{widths} {shape.activation}, dropout {shape.dropout:g}, {shape.learning_rate:g}"


async def people_table(options: argparse.Namespace) -> Table:
    columns = ("people", "who", "shape", "layers", "parameters", "accuracy", "fresh", "again")
    table = Table(PEOPLE, "Cross-validated accuracy", columns)
    cases = [drawn(30, 5, seed=1)]
    if real := await bbt():
        few = [People("bbt, 2 pictures each", fewer(real, 2, 1))]
        noisy = [People(f"bbt, noise, draw {n}", noisier(real, n)) for n in (1, 2)]
        cases = [People("bbt", real), *few, *noisy, *cases]
    else:
        table.notes.append("FACEGRAPH_TEST_ASSETS names no folder: no bbt.")
    for case in cases:
        await _add_people(table, case, options)
    table.notes.append(
        "Fresh: of further pictures of the same people, by a network trained on all of the others. "
        "Again: whether a second search with the same seed went the same way."
    )
    return table


async def _add_people(table: Table, case: People, options: argparse.Namespace) -> None:
    task = task_of(case.training_set, options.seed)
    found = await searched(task, in_process, options)
    same = agree(found, await searched(task, in_process, options))
    near = nearest_neighbour(task)
    fresh = on_fresh(case, task.seed, None)
    table.add(case.name, "nearest neighbour", None, None, None, near.accuracy, fresh, None)
    for who, score, again in (
        ("default", found.default, None),
        ("evolved", found.best, "same" if same else "ANOTHER"),
    ):
        fresh = on_fresh(case, task.seed, score.shape)
        made = (described(score.shape), score.shape.layers, score.parameters)
        table.add("", who, *made, score.accuracy, fresh, again)


def workers_table(options: argparse.Namespace) -> Table:
    """Turns of one worker and of two; medians of them."""
    ways: dict[str, Open] = {"processes": processes}
    if options.ray:
        ways["Ray tasks"] = ray_tasks
    task = task_of(drawn(100, 20).training_set, options.seed)
    title = f"A search over {len(task.training_set)} embeddings"
    columns = ("workers", "of", "seconds", "of one's", "shapes", "generations", "result")
    table = Table(WORKERS, title, columns)
    for name, way in ways.items():
        took: dict[int, list[float]] = {1: [], 2: []}
        found: list[SearchResult] = []
        for count in [1, 2] * options.rounds:
            with way(count) as opened:
                began = time.perf_counter()
                found.append(asyncio.run(searched(task, opened, options)))
                took[count].append(time.perf_counter() - began)
        same = all(agree(found[0], other) for other in found[1:])
        one = statistics.median(took[1])
        for count, seconds in took.items():
            median = statistics.median(seconds)
            made = (found[0].evaluated, len(found[0].course["generations"]))
            table.add(count, name, median, median / one, *made, "same" if same else "ANOTHER")
        table.notes.append(
            f"{name}: default {found[0].default.accuracy:.3f}, evolved "
            f"{found[0].best.accuracy:.3f} ({described(found[0].best.shape)}), nearest neighbour "
            f"{nearest_neighbour(task).accuracy:.3f}; stopped by {found[0].course['stopped']}."
        )
    return table


def fit_table() -> Table:
    """Processor time of one training, the least of three."""
    table = Table("fits", "One training", ("embeddings", "people", "shape", "CPU s"))
    for people, each in ((8, 5), (100, 20)):
        training_set = drawn(people, each).training_set
        for shape in (LINEAR, DEFAULT, Shape((256, 256, 256), "gelu", 0.2, 0.003)):
            took = []
            for _ in range(3):
                began = time.process_time()
                train(training_set, shape, 1)
                took.append(time.process_time() - began)
            table.add(len(training_set), people, described(shape), min(took))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", default=[PEOPLE, WORKERS], choices=[PEOPLE, WORKERS])
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--population", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="turns of one worker and of two")
    parser.add_argument("--ray", action="store_true", help="by the service's Ray tasks, too")
    options = parser.parse_args()
    print(f"{platform.platform()}, torch {torch.__version__}, one thread a worker\n")
    print(fit_table().markdown())
    if PEOPLE in options.parts:
        print(asyncio.run(people_table(options)).markdown())
    if WORKERS in options.parts:
        print(workers_table(options).markdown())


if __name__ == "__main__":
    main()
