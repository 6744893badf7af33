"""How good a shape is: cross-validated accuracy, then fewer layers, then fewer parameters."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import ClassArray, TrainingSet

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What every shape of a search is evaluated on; it pickles.

    folds: (n,) int32, in which fold row i is the one to be told
    seed: all that is random in an evaluation follows from it, the shape and the fold
    """

    training_set: TrainingSet
    folds: ClassArray
    seed: int

    @property
    def fold_numbers(self) -> list[int]:
        return [int(fold) for fold in np.unique(self.folds)]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """predicted: (n,) int32, the class of each row as told by the network that did not see it."""

    shape: Shape
    correct: int
    total: int
    parameters: int
    predicted: ClassArray

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def errors(self) -> int:
        return self.total - self.correct


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What the nearest neighbour makes of a task; ``predicted`` as in :class:`Score`."""

    correct: int
    total: int
    predicted: ClassArray

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


Evaluate = Callable[[Sequence[Shape]], AsyncGenerator[Score]]
"""The scores of shapes, in any order, each as soon as it is known. Closing it stops the rest."""

OpenEvaluate = Callable[[Task], AbstractAsyncContextManager[Evaluate]]
"""The seam of a search: who evaluates. ``in_process`` does so in a thread;
``deployments/evaluations.py`` in Ray tasks, so that a cluster makes it faster. Raises
FacegraphError."""


def evaluate(task: Task, shape: Shape) -> Score:
    """One network for each fold, trained on the others; the same on every machine of a kind."""
    told = [predict_fold(task, shape, fold) for fold in task.fold_numbers]
    return score(task, shape, told)


def predict_fold(task: Task, shape: Shape, fold: int) -> ClassArray:
    """(m,) int32, what a network that was trained on the others says of the fold's rows."""
    from facegraph.recognizers.networks import train  # brings torch

    training_set, within = task.training_set, task.folds == fold
    others = training_set.take(np.flatnonzero(~within))
    network = train(others, shape, seed_of(task.seed, shape, fold))
    probabilities = network.probabilities(training_set.embeddings[within])
    return np.asarray(probabilities.argmax(axis=1), np.int32)


def score(task: Task, shape: Shape, told: Sequence[ClassArray]) -> Score:
    """The score of what was told of each fold, in the order of their numbers."""
    training_set = task.training_set
    predicted = np.empty(len(training_set), np.int32)
    for fold, classes in zip(task.fold_numbers, told, strict=True):
        predicted[task.folds == fold] = classes
    return Score(
        shape,
        correct=int((predicted == training_set.classes).sum()),
        total=len(training_set),
        parameters=shape.parameters(training_set.dimension, len(training_set.labels)),
        predicted=predicted,
    )


def seed_of(seed: int, shape: Shape, fold: int | None) -> int:
    """The seed of one training, 0..2**63 - 1; None: the one on all rows.

    A digest, for Python's own hash of a string is another in every process.
    """
    told = json.dumps([seed, shape.told(), fold], sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> 1


def nearest_neighbour(task: Task) -> Baseline:
    """What needs no training: the label of the nearest embedding of the other folds.

    Of equally near ones the first row's.
    """
    training_set = task.training_set
    predicted = np.empty(len(training_set), np.int32)
    for fold in task.fold_numbers:
        probes, known = np.flatnonzero(task.folds == fold), np.flatnonzero(task.folds != fold)
        others = training_set.embeddings[known].T
        for at in range(0, len(probes), ROWS_AT_ONCE):
            rows = probes[at : at + ROWS_AT_ONCE]
            nearest = (training_set.embeddings[rows] @ others).argmax(axis=1)
            predicted[rows] = training_set.classes[known[nearest]]
    correct = int((predicted == training_set.classes).sum())
    return Baseline(correct, len(training_set), predicted)


@asynccontextmanager
async def in_process(task: Task) -> AsyncIterator[Evaluate]:
    """One shape after the other in a thread of this process; an OpenEvaluate."""
    yield partial(_one_by_one, task)


async def _one_by_one(task: Task, shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
    """Whoever closes or cancels it waits for the training in work: a thread cannot be stopped."""
    for shape in shapes:
        told = [await _in_thread(task, shape, fold) for fold in task.fold_numbers]
        yield score(task, shape, told)


async def _in_thread(task: Task, shape: Shape, fold: int) -> ClassArray:
    training = asyncio.create_task(asyncio.to_thread(predict_fold, task, shape, fold))
    try:
        return await asyncio.shield(training)
    except asyncio.CancelledError:
        await asyncio.wait([training])
        if not training.cancelled():
            training.exception()  # looked at, so that nobody misses it
        raise
