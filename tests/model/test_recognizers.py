"""Recognizers of real faces: eight people of a series, five pictures each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facegraph.config import settings_from
from facegraph.local_faces import LocalFaces
from facegraph.recognizers.evaluating import Task, in_process, nearest_neighbour
from facegraph.recognizers.searching import SearchResult, search
from facegraph.recognizers.splitting import fold_count, stratified_folds
from facegraph.recognizers.training_set import Sample, TrainingSet, training_set_of
from facegraph.service import sample
from facegraph.types import NewSample
from tests.photos import assets

pytestmark = pytest.mark.model

SEED = 1


@pytest.fixture(scope="module")
def bbt() -> TrainingSet:
    folder = assets("faces", "bbt")
    samples = asyncio.run(_samples(sorted(folder.glob("*/*"))))
    training_set, _ = training_set_of(samples, min_pictures=5, max_classes=8)
    return training_set


async def _samples(paths: Sequence[Path]) -> list[Sample]:
    graph = LocalFaces(settings_from())
    samples = []
    for path in paths:
        made = await sample(graph, path.read_bytes(), "only", None)
        assert isinstance(made, NewSample), path
        samples.append(Sample(path.parent.name, path.name, made.embedding))
    await graph.close()
    return samples


async def evolved(training_set: TrainingSet) -> tuple[Task, SearchResult]:
    async def untold(course: object) -> None:
        """Nobody follows."""

    classes = training_set.classes
    task = Task(training_set, stratified_folds(classes, fold_count(classes), SEED), SEED)
    found = await search(
        task,
        in_process,
        generations=4,
        population=6,
        seed=SEED,
        time_budget_s=600,
        on_generation=untold,
    )
    return task, found


@pytest.mark.parametrize("noise", [0.0, 1.5])
async def test_the_evolved_shape_is_as_good_no_larger_and_the_same_again(
    bbt: TrainingSet, noise: float
) -> None:
    """With noise it is no longer easy for anybody."""
    draw = np.random.default_rng(0).normal(size=bbt.embeddings.shape)
    rows = bbt.embeddings + noise * draw.astype(np.float32) / np.float32(bbt.dimension**0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    task, one = await evolved(TrainingSet(rows.astype(np.float32), bbt.classes, bbt.labels))
    assert (len(bbt.labels), one.best.total) == (8, 40)
    assert one.best.accuracy >= one.default.accuracy
    assert one.best.accuracy >= nearest_neighbour(task).accuracy
    assert one.best.parameters <= one.default.parameters
    if not noise:
        assert one.best.accuracy == 1.0
    _, again = await evolved(task.training_set)
    assert again.best.shape == one.best.shape
    assert again.best.predicted.tolist() == one.best.predicted.tolist()
