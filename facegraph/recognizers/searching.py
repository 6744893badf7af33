"""The search for a shape: an evolution, its evaluations wherever they run, and its course."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from facegraph.errors import FacegraphError
from facegraph.recognizers.evaluating import Evaluate, OpenEvaluate, Score, Task
from facegraph.recognizers.evolving import Evolution, fitness
from facegraph.recognizers.shapes import DEFAULT, LINEAR, Shape

FIRST = (DEFAULT, LINEAR)
"""What is evaluated before anything is drawn; the first generation begins with it, too."""

PATIENCE = 3
"""Generations without a better shape after which the search ends."""

Stop = Literal["generations", "no_improvement", "optimal", "time"]
"""Why a search ended: it had all its generations; `PATIENCE`; a linear network makes no error,
which nothing beats; its time was up."""

OnGeneration = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Is told the course so far, as JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """best: of all that was evaluated; never worse than ``default``, the score of the default
    evaluated: shapes
    course: ``generations`` (each ``generation``, ``evaluated`` for the first time, the ``best`` so
        far, the ``mean_accuracy`` of all its shapes, ``seconds``) and why it ``stopped``, as JSON
    """

    best: Score
    default: Score
    evaluated: int
    course: Mapping[str, Any]


async def search(
    task: Task,
    open_evaluate: OpenEvaluate,
    *,
    generations: int,
    population: int,
    seed: int,
    time_budget_s: float,
    on_generation: OnGeneration,
) -> SearchResult:
    """The best shape of up to ``generations`` of ``population`` shapes each.

    The same for the same task and seed, whoever evaluates and in whatever order, unless the time
    budget ends it. The default shape and the linear one are evaluated first, whatever time that
    takes; then the budget begins, and when it is used up what was found until then counts. Raises
    what evaluating does.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with open_evaluate(task) as evaluate:
        scores = _Scores(evaluate)
        await scores.learn(FIRST)
        course = _Course(scores, began)
        if _optimal(scores.best()):  # as with most people: they are easily told apart
            course.add(FIRST, loop.time())
            course.stopped = "optimal"
            await on_generation(course.told())
        deadline = loop.time() + time_budget_s
        evolution = await asyncio.to_thread(Evolution, population, seed)
        while course.stopped is None:
            shapes = await asyncio.to_thread(evolution.ask)
            in_time = await _learn_until(deadline, scores, shapes)
            if shapes and in_time:
                await asyncio.to_thread(evolution.tell, [scores.known[each] for each in shapes])
            course.add(shapes, loop.time())
            in_time = in_time and loop.time() < deadline
            course.stopped = _stop(course, generations, in_time, bool(shapes))
            await on_generation(course.told())
    return SearchResult(scores.best(), scores.known[DEFAULT], len(scores.known), course.told())


class _Scores:
    """Each shape is evaluated once in a search; ``met`` has them in the order they were wanted."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.known: dict[Shape, Score] = {}
        self.met: dict[Shape, int] = {}

    async def learn(self, shapes: Sequence[Shape]) -> None:
        """Evaluates those not known yet; what came before it is cancelled is known."""
        for shape in shapes:
            self.met.setdefault(shape, len(self.met))
        new = [shape for shape in dict.fromkeys(shapes) if shape not in self.known]
        if not new:
            return
        async with aclosing(self._evaluate(new)) as scores:
            async for score in scores:
                self.known[score.shape] = score
        if any(shape not in self.known for shape in new):
            raise FacegraphError("a shape was not evaluated, and nobody said why")

    def best(self) -> Score:
        """Of equally good ones the first that was wanted, whichever came first."""
        return min(self.known.values(), key=lambda score: (fitness(score), self.met[score.shape]))


async def _learn_until(deadline: float, scores: _Scores, shapes: Sequence[Shape]) -> bool:
    """Whether all were evaluated before ``deadline``, in the event loop's time."""
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            await scores.learn(shapes)
    except TimeoutError:
        if not limit.expired():
            raise
        return False
    return True


class _Course:
    """What a search tells of itself, generation by generation."""

    def __init__(self, scores: _Scores, began: float) -> None:
        self.scores = scores
        self.stopped: Stop | None = None
        self.generations: list[dict[str, Any]] = []
        self.improved_at = 1
        self._best = fitness(scores.best())
        self._evaluated = 0
        self._at = began

    def add(self, shapes: Sequence[Shape], now: float) -> None:
        """A generation of which some may not be known; one without any was none."""
        scores = [self.scores.known[shape] for shape in shapes if shape in self.scores.known]
        if not scores:
            return
        best, number = self.scores.best(), len(self.generations) + 1
        if fitness(best) < self._best:
            self._best, self.improved_at = fitness(best), number
        self.generations.append(
            {
                "generation": number,
                "evaluated": len(self.scores.known) - self._evaluated,
                "best": {
                    "accuracy": best.accuracy,
                    "layers": best.shape.layers,
                    "parameters": best.parameters,
                    "shape": best.shape.told(),
                },
                "mean_accuracy": sum(e.correct for e in scores) / sum(e.total for e in scores),
                "seconds": round(now - self._at, 3),
            }
        )
        self._evaluated, self._at = len(self.scores.known), now

    def told(self) -> dict[str, Any]:
        return {"generations": [*self.generations], "stopped": self.stopped}


def _stop(course: _Course, generations: int, in_time: bool, more: bool) -> Stop | None:
    """more: whether the evolution still finds shapes to ask for"""
    number = len(course.generations)
    if _optimal(course.scores.best()):
        return "optimal"
    if not in_time:
        return "time"
    if number >= generations:
        return "generations"
    if not more or number - course.improved_at >= PATIENCE:
        return "no_improvement"
    return None


def _optimal(best: Score) -> bool:
    return best.errors == 0 and not best.shape.hidden
