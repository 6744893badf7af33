"""The network of a shape: a multilayer perceptron over embeddings, trained on the CPU.

A training set and a seed give the same bits again on a machine, whatever else its process does:
all that is random comes from a generator of the training's own, and one thread computes, since
several would add in an order of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, gelu, linear, normalize, silu

from facegraph.recognizers.shapes import Activation, Shape
from facegraph.recognizers.training_set import ClassArray, TrainingSet
from facegraph.types import FloatArray

NOISE = 0.5
"""Mean length of what is added to an embedding, whose own is 1: as far as a cosine of 0.89."""

AUGMENTATION = (
    f"each time an embedding is shown, Gaussian noise of mean length {NOISE:g} is added to it and "
    "it is normalised again; labels are drawn equally often"
)
"""For the model's metadata."""

BATCH = 128
EPOCHS = 20
LEAST_STEPS, MOST_STEPS = 120, 1200
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.99)
"""Adam's; the second is lower than usual, for trainings are short."""

ROWS_AT_ONCE = 4096

Change = Callable[[torch.Tensor], torch.Tensor]
"""Of a layer's outputs; their shape stays."""

ACTIVATE: Mapping[Activation, Change] = {
    "relu": torch.relu,
    "gelu": gelu,
    "silu": silu,
    "tanh": torch.tanh,
}
"""GELU is the exact one, by the error function."""

Parameters = list[torch.Tensor]
"""Weight (out, in) and bias (out,) of each layer in turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained one.

    weights: (out, in) float32 and (out,) float32 of each layer
    scale: what embeddings are multiplied by first; the square root of their dimension, which
        makes a component's variance 1, as the initial weights expect
    """

    shape: Shape
    scale: float
    weights: tuple[tuple[FloatArray, FloatArray], ...]

    def probabilities(self, embeddings: FloatArray) -> FloatArray:
        """(n, c) float32, each row of sum 1, for (n, d) float32 embeddings, L2-normalised."""
        _compute_alone()
        parameters = [torch.tensor(array) for layer in self.weights for array in layer]
        parts = [np.empty((0, len(self.weights[-1][1])), np.float32)]
        with torch.inference_mode():
            for at in range(0, len(embeddings), ROWS_AT_ONCE):
                rows = torch.tensor(embeddings[at : at + ROWS_AT_ONCE]) * self.scale
                logits = _forward(rows, parameters, self.shape.activation)
                parts.append(logits.softmax(1).numpy())
        return np.concatenate(parts)


def train(training_set: TrainingSet, shape: Shape, seed: int) -> Network:
    """A network of ``shape`` for all the labels, also for those without a row.

    seed: 0..2**63 - 1
    """
    _compute_alone()
    generator = torch.Generator().manual_seed(seed)
    dimension, classes = training_set.dimension, len(training_set.labels)
    scale = math.sqrt(dimension)
    parameters = _initial((dimension, *shape.hidden, classes), generator)
    embeddings = torch.tensor(training_set.embeddings)  # copied, so aligned: sums depend on it
    expected = torch.tensor(training_set.classes, dtype=torch.int64)
    steps = _steps(len(training_set))
    shown = _shown(training_set.classes, steps, generator)
    drop = _dropping(shape.dropout, generator)
    groups: list[dict[str, Any]] = [
        {"params": parameters[::2]},
        {"params": parameters[1::2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(
        groups,
        lr=shape.learning_rate,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        rows = shown[step]
        noise = torch.randn((len(rows), dimension), generator=generator)
        noisy = embeddings[rows].add_(noise, alpha=NOISE / scale)
        inputs = normalize(noisy).mul_(scale)
        logits = _forward(inputs, parameters, shape.activation, drop)
        loss = cross_entropy(logits, expected[rows])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch tells it no types
        adam.step()
        decay.step()
    arrays = [parameter.detach().numpy() for parameter in parameters]
    return Network(shape, scale, tuple(zip(arrays[::2], arrays[1::2], strict=True)))


def _compute_alone() -> None:
    """PyTorch is to compute in the calling thread alone."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # it counts for the calling thread


def _steps(rows: int) -> int:
    return min(MOST_STEPS, max(LEAST_STEPS, math.ceil(EPOCHS * rows / BATCH)))


def _initial(widths: Sequence[int], generator: torch.Generator) -> Parameters:
    """Uniform within 1/sqrt(inputs), as torch's own layers; biases 0."""
    parameters = []
    for into, out in pairwise(widths):
        bound = 1 / math.sqrt(into)
        parameters.append(torch.empty((out, into)).uniform_(-bound, bound, generator=generator))
        parameters.append(torch.zeros(out))
    return [parameter.requires_grad_() for parameter in parameters]


def _shown(classes: ClassArray, steps: int, generator: torch.Generator) -> torch.Tensor:
    """(steps, batch) int64, the rows of each step: a label by chance, then a row of it."""
    present, sizes = np.unique(classes, return_counts=True)
    order = torch.tensor(np.argsort(classes, kind="stable"))
    first = torch.tensor(np.cumsum(sizes) - sizes)
    size = (steps, min(BATCH, len(classes)))
    label = torch.randint(len(present), size, generator=generator)
    part = torch.rand(size, generator=generator, dtype=torch.float64)
    return order[first[label] + (part * torch.tensor(sizes)[label]).long()]


def _kept(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _dropping(share: float, generator: torch.Generator) -> Change:
    """Dropout by the training's own generator; torch's draws from the process's."""
    if not share:
        return _kept
    kept = 1 - share

    def drop(hidden: torch.Tensor) -> torch.Tensor:
        mask = torch.rand(hidden.shape, generator=generator) < kept
        return hidden * (mask / kept)

    return drop


def _forward(
    rows: torch.Tensor,
    parameters: Parameters,
    activation: Activation,
    drop: Change = _kept,
) -> torch.Tensor:
    """(n, c) logits of (n, d) scaled embeddings."""
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        rows = drop(ACTIVATE[activation](linear(rows, weight, bias)))
    return linear(rows, parameters[-2], parameters[-1])
