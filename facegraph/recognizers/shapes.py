"""A network's shape: what the search looks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

Activation = Literal["relu", "gelu", "silu", "tanh"]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
WIDTHS = (16, 32, 64, 128, 256)
MOST_HIDDEN = 3
DROPOUTS = (0.0, 0.1, 0.2, 0.4)
LEARNING_RATES = (0.0003, 0.0006, 0.001, 0.002, 0.003, 0.006, 0.01, 0.02)
"""What a search chooses from. The rates are about evenly apart in their logarithms."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """A multilayer perceptron from an embedding to one logit per label.

    hidden: width of each hidden layer; none: a linear classifier
    activation, dropout: after each hidden layer; without one they mean nothing, see :meth:`plain`
    learning_rate: of Adam
    """

    hidden: tuple[int, ...]
    activation: Activation
    dropout: float
    learning_rate: float

    @property
    def layers(self) -> int:
        """Layers with weights, the last included."""
        return len(self.hidden) + 1

    def parameters(self, dimension: int, classes: int) -> int:
        """Weights and biases for embeddings of ``dimension`` and so many labels."""
        widths = (dimension, *self.hidden, classes)
        return sum((into + 1) * out for into, out in pairwise(widths))

    def plain(self) -> Shape:
        """The one shape for all that mean the same: of linear ones only the rate counts."""
        return self if self.hidden else Shape((), "relu", 0.0, self.learning_rate)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "hidden": list(self.hidden), "layers": self.layers}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Shape:
        """What :meth:`told` told."""
        return cls(
            tuple(told["hidden"]), told["activation"], told["dropout"], told["learning_rate"]
        )


DEFAULT = Shape((128,), "relu", 0.2, 0.003)
"""What is trained without a search, and what a search begins with."""

LINEAR = Shape((), "relu", 0.0, 0.003)
"""The least there can be; a search tries it early."""
