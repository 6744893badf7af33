"""Generations of shapes: pymoo's genetic algorithm, asked for shapes and told their scores.

pymoo, because its genes may be whole numbers and choices at once, because whoever asks may have
the shapes evaluated as and where it likes, and because a search has a random generator of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.soo.nonconvex.ga import FitnessSurvival
from pymoo.core.duplicate import ElementwiseDuplicateElimination
from pymoo.core.mixed import MixedVariableGA, MixedVariableMating, MixedVariableSampling
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.core.variable import Choice, Integer

from facegraph.recognizers.evaluating import Score
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

ERROR_BITS, LAYER_BITS, PARAMETER_BITS = 20, 2, 31
"""Of a fitness: 53 in all, the whole numbers that a float tells apart."""


def fitness(score: Score) -> float:
    """Errors, then layers, then parameters, in one number; the least is the best.

    Each has bits of its own, the more important the higher ones, so numbers compare as the three
    do one after the other; and all of them are whole numbers below 2**53, which a float holds
    exactly. Raises ValueError for what does not fit: a million errors, a billion parameters do.
    """
    parts = (score.errors, score.shape.layers - 1, score.parameters)
    number = 0
    for part, bits in zip(parts, (ERROR_BITS, LAYER_BITS, PARAMETER_BITS), strict=True):
        if not 0 <= part < 1 << bits:
            raise ValueError(f"{part} does not fit into {bits} bits")
        number = number << bits | part
    return float(number)


class Evolution:
    """The best of all so far are the parents of the next; not for two threads at a time.

    population: shapes of a generation, 4 or more
    """

    def __init__(self, population: int, seed: int) -> None:
        problem = Problem(vars=_genes(), n_obj=1)
        distinct = ElementwiseDuplicateElimination(
            cmp_func=lambda one, other: shape_of(one.X) == shape_of(other.X)
        )
        # Operators of its own: pymoo's defaults are shared by all searches of a process.
        self._algorithm = MixedVariableGA(
            pop_size=population,
            sampling=Population.new(X=_first(problem, population, seed)),
            mating=MixedVariableMating(eliminate_duplicates=distinct),
            eliminate_duplicates=distinct,
            survival=FitnessSurvival(),
            termination=NoTermination(),
            seed=seed,
        )
        self._algorithm.setup(problem)
        self._asked: Any = None

    def ask(self) -> list[Shape]:
        """The shapes of the next generation, each once; first the default and the linear one."""
        self._asked = self._algorithm.ask()
        return [] if self._asked is None else [shape_of(each.X) for each in self._asked]

    def tell(self, scores: Sequence[Score]) -> None:
        """Of what was asked for, in its order."""
        self._asked.set("F", np.array([[fitness(each)] for each in scores]))
        self._algorithm.tell(infills=self._asked)


def shape_of(genes: Mapping[str, Any]) -> Shape:
    """The shape that genes stand for; many genes mean the same where there are fewer layers."""
    widths = [WIDTHS[int(genes[f"width_{at}"])] for at in range(int(genes["depth"]))]
    activation = next(each for each in ACTIVATIONS if each == genes["activation"])
    dropout, rate = DROPOUTS[int(genes["dropout"])], LEARNING_RATES[int(genes["learning_rate"])]
    return Shape(tuple(widths), activation, dropout, rate).plain()


def genes_of(shape: Shape) -> dict[str, Any]:
    """Genes of a shape that a search can choose; layers it does not have are of middle width."""
    widths = [WIDTHS.index(width) for width in shape.hidden]
    widths += [len(WIDTHS) // 2] * (MOST_HIDDEN - len(widths))
    return {
        "depth": len(shape.hidden),
        **{f"width_{at}": width for at, width in enumerate(widths)},
        "activation": shape.activation,
        "dropout": DROPOUTS.index(shape.dropout),
        "learning_rate": LEARNING_RATES.index(shape.learning_rate),
    }


def _first(problem: Problem, population: int, seed: int) -> list[dict[str, Any]]:
    """Genes of the first generation, of which pymoo would drop those that mean the same."""
    draw = np.random.default_rng(seed)
    first = {shape: genes_of(shape) for shape in (DEFAULT, LINEAR)}
    while len(first) < population:
        for drawn in MixedVariableSampling()(problem, population - len(first), random_state=draw):
            first.setdefault(shape_of(drawn.X), drawn.X)
    return [*first.values()]


def _genes() -> dict[str, Any]:
    """What has an order is a whole number, so that children lie between their parents."""
    return {
        "depth": Integer(bounds=(0, MOST_HIDDEN)),
        **{f"width_{at}": Integer(bounds=(0, len(WIDTHS) - 1)) for at in range(MOST_HIDDEN)},
        "activation": Choice(options=list(ACTIVATIONS)),
        "dropout": Integer(bounds=(0, len(DROPOUTS) - 1)),
        "learning_rate": Integer(bounds=(0, len(LEARNING_RATES) - 1)),
    }
