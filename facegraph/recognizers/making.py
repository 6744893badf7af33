"""What a build makes once it has embeddings and a shape: network, figures, file, report.

A share of each label's pictures is held out first. Shapes are chosen by cross-validation of the
rest; the held out ones then tell how the choice does on what it was not made by. The network that
is kept is trained on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegraph.recognizers.evaluating import (
    Score,
    Task,
    nearest_neighbour,
    predict_fold,
    seed_of,
)
from facegraph.recognizers.exporting import ModelCard, export
from facegraph.recognizers.options import BuildOptions
from facegraph.recognizers.predictor import Predictor
from facegraph.recognizers.reporting import confusions, report_png
from facegraph.recognizers.shapes import DEFAULT, Shape
from facegraph.recognizers.splitting import fold_count, held_out, stratified_folds
from facegraph.recognizers.training_set import TrainingSet
from facegraph.store.records import Recognizer

NEAR_REPEAT = 0.98
"""Cosine from which on two pictures are nearly one: the same photo saved twice, or its neighbour in
a film."""

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """whole: all embeddings; task: on those that are not held out
    held: the whole as a task whose fold 1 is held out; None where there are too few pictures
    """

    whole: TrainingSet
    task: Task
    held: Task | None


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """best: the shape that is trained; default: the default shape's score on the same folds
    course: of the search; None where there was none
    """

    best: Score
    default: Score
    course: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A recognizer as it is kept: the ONNX file, the PNG, shape and metrics as JSON, in words how
    embeddings were augmented."""

    model: bytes
    report: bytes
    shape: Mapping[str, Any]
    metrics: Mapping[str, Any]
    augmentation: str


def plan_of(whole: TrainingSet, seed: int) -> Plan:
    """How that training set is split."""
    out = held_out(whole.classes, seed)
    training = whole.take(np.flatnonzero(~out))
    folds = stratified_folds(training.classes, fold_count(training.classes), seed)
    held = Task(whole, out.astype(np.int32), seed) if out.any() else None
    return Plan(whole, Task(training, folds, seed), held)


def make(recognizer: Recognizer, options: BuildOptions, plan: Plan, chosen: Chosen) -> Made:
    """Trains what was chosen on everything; blocks for seconds."""
    from facegraph.recognizers.networks import AUGMENTATION, train  # brings torch

    whole, shape = plan.whole, chosen.best.shape
    told = {**shape.told(), "parameters": chosen.best.parameters}
    metrics = _metrics(plan, chosen)
    network = train(whole, shape, seed_of(options.seed, shape, None))
    card = ModelCard(
        recognizer.id,
        recognizer.name,
        recognizer.created_at,
        options.contract_id,
        whole.dimension,
        options.threshold,
        whole.labels,
        shape,
        metrics,
        AUGMENTATION,
    )
    model = export(
        network.weights,
        scale=network.scale,
        activation=shape.activation,
        training_set=whole,
        card=card,
    )
    Predictor(model)  # what could not be asked is no recognizer
    report = _report(recognizer, plan, chosen, metrics)
    return Made(model, report, told, metrics, AUGMENTATION)


def _metrics(plan: Plan, chosen: Chosen) -> dict[str, Any]:
    task, best = plan.task, chosen.best
    truth = task.training_set.classes
    return {
        "cross_validated": {
            "pictures": best.total,
            "folds": len(task.fold_numbers),
            "chosen": best.accuracy,
            "default": chosen.default.accuracy,
            "nearest_neighbour": nearest_neighbour(task).accuracy,
        },
        "held_out": None if plan.held is None else _held_out(plan.held, best.shape),
        "near_repeats": _near_repeats(task.training_set),
        "parameters": {"chosen": best.parameters, "default": chosen.default.parameters},
        "confusions": confusions(task.training_set.labels, truth, best.predicted),
    }


def _near_repeats(training_set: TrainingSet) -> int:
    """Pictures that are nearly another one of their label: they flatter the accuracies."""
    count = 0
    for each in range(len(training_set.labels)):
        rows = training_set.embeddings[training_set.classes == each]
        for at in range(0, len(rows), ROWS_AT_ONCE):
            near = rows[at : at + ROWS_AT_ONCE] @ rows.T >= NEAR_REPEAT
            count += int((near.sum(axis=1) > 1).sum())  # each is near itself
    return count


def _held_out(task: Task, shape: Shape) -> dict[str, Any]:
    rows = task.folds == 1
    truth = task.training_set.classes[rows]

    def accuracy(shape: Shape) -> float:
        return float((predict_fold(task, shape, 1) == truth).mean())

    chosen = accuracy(shape)
    nearest = nearest_neighbour(task).predicted[rows]
    return {
        "pictures": len(truth),
        "chosen": chosen,
        "default": chosen if shape == DEFAULT else accuracy(DEFAULT),
        "nearest_neighbour": float((nearest == truth).mean()),
    }


def _report(
    recognizer: Recognizer, plan: Plan, chosen: Chosen, metrics: Mapping[str, Any]
) -> bytes:
    best, default = chosen.best, chosen.default
    lines = [
        f"chosen shape {_shown(best)}; default {_shown(default)}",
        _accuracies("cross-validated", metrics["cross_validated"]),
    ]
    if (held := metrics["held_out"]) is not None:
        lines.append(_accuracies("held out", held))
    training_set = plan.task.training_set
    return report_png(
        training_set.labels,
        training_set.classes,
        best.predicted,
        chosen.course,
        title=recognizer.name or recognizer.id,
        lines=lines,
    )


def _shown(score: Score) -> str:
    hidden = " × ".join(map(str, score.shape.hidden))
    return f"{hidden or 'linear'} ({score.parameters:,} parameters)"


def _accuracies(name: str, told: Mapping[str, Any]) -> str:
    return (
        f"{name} ({told['pictures']} pictures): chosen {told['chosen']:.3f}, "
        f"default {told['default']:.3f}, nearest neighbour {told['nearest_neighbour']:.3f}"
    )
