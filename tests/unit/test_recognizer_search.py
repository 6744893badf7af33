"""The search for a shape: its evolution, its ends, and that nothing depends on who evaluates."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegraph.errors import FacegraphError, ModelUnavailable
from facegraph.recognizers.evaluating import (
    Evaluate,
    OpenEvaluate,
    Score,
    Task,
    evaluate,
    in_process,
)
from facegraph.recognizers.evolving import (
    ERROR_BITS,
    LAYER_BITS,
    PARAMETER_BITS,
    Evolution,
    fitness,
    genes_of,
    shape_of,
)
from facegraph.recognizers.searching import PATIENCE, SearchResult, search
from facegraph.recognizers.shapes import (
    ACTIVATIONS,
    DEFAULT,
    DROPOUTS,
    LEARNING_RATES,
    LINEAR,
    MOST_HIDDEN,
    WIDTHS,
    Shape,
)
from facegraph.recognizers.splitting import stratified_folds
from facegraph.recognizers.training_set import TrainingSet

pytestmark = pytest.mark.unit

Errors = Callable[[Shape], int]

SHAPES = st.builds(
    Shape,
    st.lists(st.sampled_from(WIDTHS), max_size=MOST_HIDDEN).map(tuple),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(DROPOUTS),
    st.sampled_from(LEARNING_RATES),
)
MEASURES = st.tuples(
    st.integers(0, 2**ERROR_BITS - 1), st.integers(1, 4), st.integers(0, 2**PARAMETER_BITS - 1)
)

CLASSES = np.repeat(np.arange(20, dtype=np.int32), 5)
TASK = Task(
    TrainingSet(np.eye(100, 128, dtype=np.float32), CLASSES, tuple(f"p{n:02}" for n in range(20))),
    stratified_folds(CLASSES, 5, 1),
    seed=1,
)


def by_chance(shape: Shape) -> int:
    """1..50 errors: an opinion on each shape that has nothing to do with its size."""
    return 1 + hashlib.sha256(repr(shape).encode()).digest()[0] % 50


def scored(shape: Shape, errors: int) -> Score:
    return Score(shape, 100 - errors, 100, shape.parameters(128, 20), CLASSES)


class FakeEvaluations:
    """An OpenEvaluate that knows how many errors each shape makes.

    shuffle: scores come in an order drawn by it
    blocks_after: so many scores; the next never comes
    """

    def __init__(
        self, errors: Errors, *, shuffle: int | None = None, blocks_after: int | None = None
    ) -> None:
        self.asked: list[list[Shape]] = []
        self.open = 0
        self.closed: list[str] = []
        self.blocked = asyncio.Event()
        self._errors = errors
        self._shuffle = None if shuffle is None else random.Random(shuffle)
        self._left = blocks_after

    @asynccontextmanager
    async def __call__(self, _task: Task) -> AsyncIterator[Evaluate]:
        self.open += 1
        try:
            yield self._scores
        finally:
            self.open -= 1

    async def _scores(self, shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
        self.asked.append([*shapes])
        coming = [*shapes]
        if self._shuffle:
            self._shuffle.shuffle(coming)
        try:
            for shape in coming:
                if self._left == 0:
                    self.blocked.set()
                    await asyncio.Event().wait()
                if self._left is not None:
                    self._left -= 1
                yield scored(shape, self._errors(shape))
            self.closed.append("done")
        except (asyncio.CancelledError, GeneratorExit) as end:
            self.closed.append(type(end).__name__)
            raise


Course = Mapping[str, Any]


async def searched(
    evaluations: OpenEvaluate,
    *,
    task: Task = TASK,
    generations: int = 6,
    population: int = 10,
    seed: int = 3,
    time_budget_s: float = 1000,
) -> tuple[SearchResult, list[Course]]:
    """What a search found, and all that it told meanwhile."""
    told: list[Course] = []

    async def on_generation(course: Course) -> None:
        told.append(course)

    found = await search(
        task,
        evaluations,
        generations=generations,
        population=population,
        seed=seed,
        time_budget_s=time_budget_s,
        on_generation=on_generation,
    )
    return found, told


def timeless(course: Course) -> list[dict[str, Any]]:
    """The generations of a course, but for the seconds they took."""
    return [
        {key: value for key, value in generation.items() if key != "seconds"}
        for generation in course["generations"]
    ]


@given(MEASURES, MEASURES)
def test_fitness_compares_errors_then_layers_then_parameters(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    assert ERROR_BITS + LAYER_BITS + PARAMETER_BITS == 53
    numbers = [_fitness(*measures) for measures in (one, other)]
    assert (numbers[0] < numbers[1]) == (one < other)
    assert (numbers[0] == numbers[1]) == (one == other)
    errors, layers, parameters = one
    assert int(numbers[0]) == (errors * 4 + layers - 1) * 2**31 + parameters


def _fitness(errors: int, layers: int, parameters: int) -> float:
    shape = Shape((16,) * (layers - 1), "relu", 0.1, 0.003)
    return fitness(Score(shape, 2**30 - errors, 2**30, parameters, CLASSES))


@pytest.mark.parametrize(
    "measures", [(2**ERROR_BITS, 1, 0), (0, 5, 0), (0, 1, 2**PARAMETER_BITS), (-1, 1, 0)]
)
def test_what_does_not_fit_into_a_fitness(measures: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _fitness(*measures)


@given(SHAPES)
def test_genes_stand_for_every_shape_there_is(shape: Shape) -> None:
    assert shape_of(genes_of(shape)) == shape.plain()


def test_linear_shapes_mean_the_same_whatever_their_other_genes() -> None:
    genes = genes_of(LINEAR)
    other = {**genes, "width_0": 0, "width_2": 4, "activation": "tanh", "dropout": 3}
    assert shape_of(other) == shape_of(genes) == LINEAR


@pytest.mark.parametrize("population", [4, 12, 60])
def test_an_evolution_asks_for_different_shapes(population: int) -> None:
    state = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    evolutions = [Evolution(population, seed) for seed in (1, 1, 2)]
    generations: list[list[list[Shape]]] = [[], [], []]
    for _ in range(3):
        for evolution, asked in zip(evolutions, generations, strict=True):
            asked.append(evolution.ask())
            evolution.tell([scored(shape, by_chance(shape)) for shape in asked[-1]])
    assert generations[0] == generations[1]
    assert generations[0] != generations[2]
    assert (random.getstate(), repr(np.random.get_state())) == state  # noqa: NPY002
    assert generations[0][0][:2] == [DEFAULT, LINEAR]
    for shapes in generations[0]:
        assert len(set(shapes)) == len(shapes)
        assert all(shape == shape_of(genes_of(shape)) for shape in shapes)
        assert len(shapes) == population


async def test_each_shape_is_evaluated_once_and_the_default_first() -> None:
    evaluations = FakeEvaluations(by_chance)
    found, told = await searched(evaluations, generations=12, population=12)
    asked = [shape for shapes in evaluations.asked for shape in shapes]
    assert evaluations.asked[0] == [DEFAULT, LINEAR]
    assert len(asked) == len(set(asked)) == found.evaluated
    assert all(shape == shape.plain() for shape in asked)
    entries = found.course["generations"]
    assert sum(entry["evaluated"] for entry in entries) == found.evaluated
    assert entries[0]["evaluated"] == 2 + len(evaluations.asked[1])
    assert [len(course["generations"]) for course in told] == [*range(1, len(entries) + 1)]
    assert (evaluations.open, set(evaluations.closed)) == (0, {"done"})


async def test_a_generation_of_known_shapes_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evolution, "ask", lambda _: [LINEAR, DEFAULT, LINEAR])
    monkeypatch.setattr(Evolution, "tell", lambda _, scores: told.append([s.shape for s in scores]))
    told: list[list[Shape]] = []
    evaluations = FakeEvaluations(by_chance)
    found, _ = await searched(evaluations, generations=2)
    assert evaluations.asked == [[DEFAULT, LINEAR]]
    assert told == [[LINEAR, DEFAULT, LINEAR]] * 2
    assert [entry["evaluated"] for entry in found.course["generations"]] == [2, 0]


async def test_the_course_tells_each_generation() -> None:
    found, told = await searched(FakeEvaluations(by_chance), generations=2)
    assert told[-1] == found.course
    assert found.course["stopped"] == "generations"
    assert told[0]["stopped"] is None
    first = found.course["generations"][0]
    shapes = Evolution(10, 3).ask()
    scores = [scored(shape, by_chance(shape)) for shape in shapes]
    best = min(scores, key=lambda score: (score.errors, score.shape.layers, score.parameters))
    assert {key: first[key] for key in first if key != "seconds"} == {
        "generation": 1,
        "evaluated": 10,
        "best": {
            "accuracy": best.accuracy,
            "layers": best.shape.layers,
            "parameters": best.parameters,
            "shape": best.shape.told(),
        },
        "mean_accuracy": pytest.approx(sum(score.accuracy for score in scores) / len(scores)),
    }
    assert Shape.read(first["best"]["shape"]) == best.shape
    assert first["seconds"] >= 0


async def test_it_does_not_matter_in_which_order_scores_come() -> None:
    expected, _ = await searched(FakeEvaluations(by_chance))
    for shuffle in range(5):
        found, _ = await searched(FakeEvaluations(by_chance, shuffle=shuffle))
        assert found.best.shape == expected.best.shape
        assert found.evaluated == expected.evaluated
        assert timeless(found.course) == timeless(expected.course)


async def test_of_equally_good_shapes_the_first_wanted_is_taken() -> None:
    """All linear ones are equally large; that of the first generation stays, and comes last."""

    def errors(shape: Shape) -> int:
        return 1 if not shape.hidden else 5

    for shuffle in range(5):
        found, _ = await searched(FakeEvaluations(errors, shuffle=shuffle), population=20)
        assert found.best.shape == LINEAR


async def test_another_seed_searches_elsewhere() -> None:
    one, _ = await searched(FakeEvaluations(by_chance))
    other, _ = await searched(FakeEvaluations(by_chance), seed=4)
    assert timeless(one.course) != timeless(other.course)


def some_workers(count: int) -> OpenEvaluate:
    """Real evaluations by threads; scores come as they are done."""

    @asynccontextmanager
    async def opened(task: Task) -> AsyncIterator[Evaluate]:
        with ThreadPoolExecutor(count) as pool:

            async def scores(shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
                loop = asyncio.get_running_loop()
                working = [loop.run_in_executor(pool, evaluate, task, shape) for shape in shapes]
                for done in asyncio.as_completed(working):
                    yield await done

            yield scores

    return opened


async def test_one_worker_and_three_find_the_same() -> None:
    draw = np.random.default_rng(5)
    classes = np.repeat(np.arange(3, dtype=np.int32), 4)
    made = (np.eye(3, 8)[classes] + 0.35 * draw.normal(size=(12, 8))).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    task = Task(TrainingSet(made, classes, ("a", "b", "c")), stratified_folds(classes, 2, 1), 1)
    results = [
        (await searched(evaluations, task=task, generations=2, population=4))[0]
        for evaluations in (in_process, some_workers(1), some_workers(3))
    ]
    assert results[0].default.errors > 0  # else there is little to find
    for result in results[1:]:
        assert timeless(result.course) == timeless(results[0].course)
        assert result.best.shape == results[0].best.shape
        assert result.best.predicted.tolist() == results[0].best.predicted.tolist()


async def test_nothing_better_for_some_generations_ends_it() -> None:
    """Whatever it tries makes as many errors; the linear one is the smallest."""
    found, _ = await searched(FakeEvaluations(lambda _: 7), generations=50)
    assert found.course["stopped"] == "no_improvement"
    assert len(found.course["generations"]) == 1 + PATIENCE
    assert found.best.shape == LINEAR


async def test_nothing_to_ask_for_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evolution, "ask", lambda _: [])
    found, told = await searched(FakeEvaluations(by_chance))
    assert found.course == {"generations": [], "stopped": "no_improvement"}
    assert told == [found.course]
    assert found.best.shape == DEFAULT


async def test_a_linear_one_without_an_error_ends_it() -> None:
    evaluations = FakeEvaluations(lambda _: 0)
    found, _ = await searched(evaluations, generations=50)
    assert found.course["stopped"] == "optimal"
    assert len(found.course["generations"]) == 1
    assert (found.best.shape, found.best.accuracy) == (LINEAR, 1.0)
    assert evaluations.asked == [[DEFAULT, LINEAR]]


async def test_a_deeper_one_without_an_error_does_not_end_it() -> None:
    found, _ = await searched(FakeEvaluations(lambda shape: not shape.hidden), generations=3)
    assert found.course["stopped"] == "generations"
    assert found.best.shape.layers == 2
    assert found.best.parameters <= found.default.parameters


async def test_getting_better_goes_on_to_the_last_generation() -> None:
    left = iter(range(1000, 0, -1))
    found, _ = await searched(FakeEvaluations(lambda _: next(left)), generations=8)
    assert found.course["stopped"] == "generations"
    assert len(found.course["generations"]) == 8


async def test_the_time_budget_holds_within_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's time goes by as the sixth evaluation begins, which never ends."""
    loop = asyncio.get_running_loop()
    now = loop.time
    evaluations = FakeEvaluations(by_chance, blocks_after=5)
    monkeypatch.setattr(loop, "time", lambda: now() + 5000 * evaluations.blocked.is_set())
    found, told = await searched(evaluations, time_budget_s=1000)
    assert found.course["stopped"] == "time"
    came = [DEFAULT, LINEAR, *evaluations.asked[1][:3]]
    assert found.evaluated == len(came)
    best = min(came, key=lambda each: (by_chance(each), each.layers, each.parameters(128, 20)))
    assert found.best.shape == best
    assert [entry["evaluated"] for entry in found.course["generations"]] == [5]
    assert told == [found.course]
    assert (evaluations.closed, evaluations.open) == (["done", "CancelledError"], 0)


async def test_without_any_time_there_are_the_first_two() -> None:
    evaluations = FakeEvaluations(by_chance, blocks_after=2)
    found, _ = await searched(evaluations, time_budget_s=0)
    assert found.course["stopped"] == "time"
    assert found.best.shape == min(DEFAULT, LINEAR, key=lambda each: (by_chance(each), each.layers))
    assert (found.default.shape, found.evaluated) == (DEFAULT, 2)


async def test_time_that_is_up_between_generations_begins_none() -> None:
    evaluations = FakeEvaluations(by_chance)
    found, _ = await searched(evaluations, time_budget_s=0)
    assert found.course["stopped"] == "time"
    assert len(evaluations.asked) == 2
    assert len(found.course["generations"]) == 1


@pytest.mark.parametrize("error", [TimeoutError("a worker's own"), ModelUnavailable("no worker")])
async def test_what_evaluating_raises_is_raised(error: Exception) -> None:
    def fails(shape: Shape) -> int:
        if shape == LINEAR:
            raise error
        return 1

    evaluations = FakeEvaluations(fails)
    with pytest.raises(type(error), match=str(error)):
        await searched(evaluations)
    assert evaluations.open == 0


async def test_a_shape_that_nobody_evaluates_is_an_error() -> None:
    async def nothing(shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
        for shape in shapes[:-1]:
            yield scored(shape, 1)

    @asynccontextmanager
    async def opened(_task: Task) -> AsyncIterator[Evaluate]:
        yield nothing

    with pytest.raises(FacegraphError, match="was not evaluated"):
        await searched(opened)


@pytest.mark.parametrize("blocks_after", [0, 1, 4])
async def test_cancelling_a_search_closes_everything(blocks_after: int) -> None:
    evaluations = FakeEvaluations(by_chance, blocks_after=blocks_after)
    under_way = asyncio.create_task(searched(evaluations))
    await evaluations.blocked.wait()
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    assert evaluations.closed[-1] == "CancelledError"
    assert evaluations.open == 0


async def test_a_course_that_nobody_takes_ends_the_search() -> None:
    async def refuses(_course: Course) -> None:
        raise FacegraphError("the job is another worker's")

    evaluations = FakeEvaluations(by_chance)
    with pytest.raises(FacegraphError, match="another worker's"):
        await search(
            TASK,
            evaluations,
            generations=5,
            population=4,
            seed=1,
            time_budget_s=1000,
            on_generation=refuses,
        )
    assert (evaluations.open, len(evaluations.asked)) == (0, 2)
