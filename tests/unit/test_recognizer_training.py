"""From labelled embeddings to folds, networks and scores."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facegraph.errors import InvalidTrainingSet
from facegraph.recognizers import evaluating, networks
from facegraph.recognizers.evaluating import (
    Score,
    Task,
    evaluate,
    in_process,
    nearest_neighbour,
    seed_of,
)
from facegraph.recognizers.networks import Network, train
from facegraph.recognizers.shapes import ACTIVATIONS, DEFAULT, LINEAR, Shape
from facegraph.recognizers.splitting import fold_count, held_out, stratified_folds
from facegraph.recognizers.training_set import (
    MAX_LISTED,
    Conflict,
    LeftOut,
    Repeated,
    Sample,
    TrainingSet,
    training_set_of,
)
from facegraph.types import FloatArray

pytestmark = pytest.mark.unit

SMALL = Shape((16,), "gelu", 0.4, 0.01)


def rows(*sizes: int) -> np.ndarray:
    """Classes of so many rows each, in turn."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def clustered(
    people: int = 3, each: int = 5, dimension: int = 8, noise: float = 0.3
) -> TrainingSet:
    draw = np.random.default_rng(7)
    centres = np.repeat(np.eye(dimension, dtype=np.float32)[:people], each, axis=0)
    made = centres + noise * draw.normal(size=centres.shape) / dimension**0.5
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    labels = tuple(f"person-{n}" for n in range(people))
    return TrainingSet(made.astype(np.float32), rows(*[each] * people), labels)


def task_of(training_set: TrainingSet, seed: int = 1) -> Task:
    k = fold_count(training_set.classes)
    return Task(training_set, stratified_folds(training_set.classes, k, seed), seed)


def vector(*values: float) -> FloatArray:
    return np.array(values, np.float32)


def named(samples: Sequence[tuple[str, FloatArray]]) -> list[Sample]:
    """Each with a name of its own."""
    return [Sample(label, f"{at:04}", row) for at, (label, row) in enumerate(samples)]


@pytest.mark.parametrize(
    ("sizes", "most", "count", "why"),
    [
        ((5, 9), 5, 5, "every class can be in every fold"),
        ((3, 9), 5, 3, "as many as the smallest class"),
        ((7, 9), 5, 5, "never more than asked for"),
        ((7, 9), 7, 7, "asked for more"),
        ((1, 9), 5, 2, "less than two folds split nothing"),
        ((4, 0, 9), 5, 4, "a class without rows does not count"),
    ],
)
def test_fold_count(sizes: tuple[int, ...], most: int, count: int, why: str) -> None:
    assert fold_count(rows(*sizes), most) == count, why


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(2, 5), st.integers(0, 99))
def test_folds_spread_each_class_and_all_rows_evenly(sizes: list[int], k: int, seed: int) -> None:
    classes = np.random.default_rng(seed).permutation(rows(*sizes))
    folds = stratified_folds(classes, k, seed)
    assert folds.dtype == np.int32
    assert folds.shape == classes.shape
    for chosen in (folds, *[folds[classes == each] for each in range(len(sizes))]):
        counts = np.bincount(chosen, minlength=k)
        assert len(counts) == k
        assert counts.max() - counts.min() <= 1
    assert stratified_folds(classes, k, seed).tolist() == folds.tolist()


def test_folds_follow_the_seed() -> None:
    classes = rows(20, 20)
    assert stratified_folds(classes, 5, 1).tolist() != stratified_folds(classes, 5, 2).tolist()


@pytest.mark.parametrize(
    ("size", "share", "held", "why"),
    [
        (1, 0.2, 0, "nothing to spare"),
        (2, 0.2, 0, "rounded down"),
        (4, 0.2, 0, "rounded down"),
        (5, 0.2, 1, "exactly one"),
        (9, 0.2, 1, "rounded down"),
        (15, 0.2, 3, "exactly three"),
        (5, 0.9, 3, "two stay"),
        (2, 0.9, 0, "two stay"),
        (1, 0.9, 0, "there are not even two"),
    ],
)
def test_held_out(size: int, share: float, held: int, why: str) -> None:
    classes = rows(size, 10)
    chosen = held_out(classes, 3, share)
    assert chosen.dtype == np.bool_
    assert int(chosen[classes == 0].sum()) == held, why
    assert held_out(classes, 3, share).tolist() == chosen.tolist()


def test_held_out_follows_the_seed() -> None:
    classes = rows(50, 50)
    assert held_out(classes, 1).tolist() != held_out(classes, 2).tolist()


def test_a_training_set_is_the_same_whatever_order_it_came_in() -> None:
    samples = [
        ("bob", vector(0, 1)),
        ("amy", vector(1, 0)),
        ("bob", vector(0, -1)),
        ("amy", vector(-1, 0)),
    ]
    made, omitted = training_set_of(named(samples), min_pictures=2, max_classes=2)
    assert made.labels == ("amy", "bob")
    assert made.classes.tolist() == [0, 0, 1, 1]
    assert made.embeddings.dtype == np.float32
    assert made.classes.dtype == np.int32
    assert sorted(map(tuple, made.embeddings[:2].tolist())) == [(-1, 0), (1, 0)]
    assert sorted(map(tuple, made.embeddings[2:].tolist())) == [(0, -1), (0, 1)]
    empty = {"count": 0, "items": []}
    assert omitted.told() == {"left_out": empty, "repeated": empty, "conflicts": empty}
    again, _ = training_set_of(named(samples)[::-1], min_pictures=2, max_classes=2)
    assert again.embeddings.tobytes() == made.embeddings.tobytes()
    assert (again.classes.tolist(), again.labels) == (made.classes.tolist(), made.labels)


def test_the_order_of_rows_is_that_of_names() -> None:
    """Not that of numbers, whose last bits may differ from engine to engine."""
    samples = [Sample("amy", "2", vector(1, 0)), Sample("amy", "1", vector(-1, 0))]
    samples += [Sample("bob", name, vector(int(name), 1)) for name in "34"]
    made, _ = training_set_of(samples, min_pictures=2, max_classes=2)
    assert made.embeddings[:2].tolist() == [[-1, 0], [1, 0]]


def test_one_name_is_one_picture_whatever_its_last_bits() -> None:
    twice = [Sample("amy", "1", vector(1, 0)), Sample("amy", "1", vector(1, 1e-7))]
    others = [Sample("amy", "2", vector(0, 1)), *named([("bob", vector(n, -1)) for n in (1, 2)])]
    made, omitted = training_set_of([*twice, *others], min_pictures=2, max_classes=2)
    assert made.classes.tolist() == [0, 0, 1, 1]
    assert omitted.repeated == (Repeated("amy", 1),)


def test_a_label_whose_pictures_were_all_rejected_is_left_out() -> None:
    samples = named([(label, vector(at, 1)) for at, label in enumerate("aabb")])
    _, omitted = training_set_of(samples, min_pictures=2, max_classes=9, rejected={"b", "nobody"})
    assert omitted.left_out == (LeftOut("nobody", 0),)


def test_what_is_left_out_is_told() -> None:
    samples = [
        ("dan", vector(0.6, 0.8)),
        ("amy", vector(1, 0)),
        ("amy", vector(-1, 0)),
        ("amy", vector(1, 0)),  # the first again
        ("bob", vector(0, 1)),
        ("bob", vector(0, -1)),
        ("bob", vector(0.8, 0.6)),
        ("cid", vector(0.8, 0.6)),  # bob's
        ("cid", vector(0.8, -0.6)),
        ("dan", vector(0.6, 0.8)),  # the same, so dan has one
        ("eve", vector(0.8, 0.6)),  # bob's and cid's
    ]
    made, omitted = training_set_of(named(samples), min_pictures=2, max_classes=9)
    assert made.labels == ("amy", "bob")
    assert made.classes.tolist() == [0, 0, 1, 1]
    assert (0.8, 0.6) not in map(tuple, made.embeddings.round(3).tolist())
    assert omitted.left_out == (LeftOut("cid", 1), LeftOut("dan", 1), LeftOut("eve", 0))
    assert omitted.repeated == (Repeated("amy", 1), Repeated("dan", 1))
    assert omitted.conflicts == (Conflict(("bob", "cid", "eve"), 3),)
    assert omitted.told() == {
        "left_out": {
            "count": 3,
            "items": [
                {"label": "cid", "pictures": 1},
                {"label": "dan", "pictures": 1},
                {"label": "eve", "pictures": 0},
            ],
        },
        "repeated": {
            "count": 2,
            "items": [{"label": "amy", "pictures": 1}, {"label": "dan", "pictures": 1}],
        },
        "conflicts": {"count": 1, "items": [{"labels": ["bob", "cid", "eve"], "pictures": 3}]},
    }


@pytest.mark.parametrize(
    ("pictures", "min_pictures", "max_classes", "detail", "outcomes"),
    [
        ([], 2, 9, "0 of 0 labels", {}),
        (["a", "a"], 2, 9, "1 of 1 labels", {"a": (2, "kept")}),
        (["a", "a", "b"], 2, 9, "two are needed", {"a": (2, "kept"), "b": (1, "too_few_pictures")}),
        (["a", "a", "b", "b"], 3, 9, "have 3 diff", dict.fromkeys("ab", (2, "too_few_pictures"))),
        (["a", "b", "c"], 1, 2, "at most 2 are taken", dict.fromkeys("abc", (1, "kept"))),
    ],
)
def test_no_training_set(
    pictures: list[str],
    min_pictures: int,
    max_classes: int,
    detail: str,
    outcomes: dict[str, tuple[int, str]],
) -> None:
    samples = [(label, vector(at, 1)) for at, label in enumerate(pictures)]
    with pytest.raises(InvalidTrainingSet, match=detail) as raised:
        training_set_of(named(samples), min_pictures=min_pictures, max_classes=max_classes)
    assert raised.value.errors == tuple(
        {"label": label, "pictures": count, "outcome": outcome}
        for label, (count, outcome) in outcomes.items()
    )


def test_what_is_told_of_many_labels_is_bounded() -> None:
    samples = [(f"label-{n:04}", vector(n, 1)) for n in range(MAX_LISTED + 50)]
    with pytest.raises(InvalidTrainingSet, match="0 of 250 labels") as raised:
        training_set_of(named(samples), min_pictures=2, max_classes=1000)
    assert len(raised.value.errors) == MAX_LISTED
    two = [(label, vector(at, -1)) for at, label in enumerate("aabb")]
    _, omitted = training_set_of(named([*samples, *two]), min_pictures=2, max_classes=9)
    told = omitted.told()["left_out"]
    assert (told["count"], len(told["items"])) == (MAX_LISTED + 50, MAX_LISTED)


def _bits(network: Network) -> list[bytes]:
    return [array.tobytes() for layer in network.weights for array in layer]


@pytest.mark.parametrize("shape", [SMALL, LINEAR, Shape((32, 16, 64), "tanh", 0.1, 0.003)])
def test_a_training_gives_the_same_bits_again(shape: Shape) -> None:
    training_set = clustered()
    first = _bits(train(training_set, shape, 5))
    torch.manual_seed(123)  # what other threads of the process do with torch does not matter
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    again = _bits(train(training_set, shape, 5))
    torch.set_num_threads(before)
    elsewhere: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: elsewhere.append(_bits(train(training_set, shape, 5))))
    thread.start()
    thread.join()
    assert first == again == elsewhere[0]
    assert first != _bits(train(training_set, shape, 6))


def test_a_training_leaves_the_generators_of_the_process_alone() -> None:
    before = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    train(clustered(), SMALL, 5)
    after = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_network_learns_people_who_lie_apart(activation: str) -> None:
    training_set = clustered(people=4)
    shape = Shape.read({**SMALL.told(), "activation": activation})
    network = train(training_set, shape, 1)
    told = network.probabilities(training_set.embeddings)
    assert told.dtype == np.float32
    assert told.shape == (20, 4)
    assert told.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert told.argmax(axis=1).tolist() == training_set.classes.tolist()
    assert float(told.max(axis=1).mean()) > 0.8


def test_weights_are_those_of_the_shape() -> None:
    network = train(clustered(people=3, dimension=8), Shape((16, 32), "relu", 0.1, 0.003), 1)
    assert network.scale == pytest.approx(8**0.5)
    shapes = [(weight.shape, bias.shape) for weight, bias in network.weights]
    assert shapes == [((16, 8), (16,)), ((32, 16), (32,)), ((3, 32), (3,))]
    assert {array.dtype for layer in network.weights for array in layer} == {np.dtype(np.float32)}
    assert sum(a.size for layer in network.weights for a in layer) == network.shape.parameters(8, 3)


def test_probabilities_are_softmax_of_the_layers() -> None:
    """Against NumPy: what the exported model has to compute."""
    training_set = clustered()
    network = train(training_set, Shape((16,), "relu", 0.1, 0.003), 1)
    (first, first_bias), (last, last_bias) = network.weights
    hidden = np.maximum(training_set.embeddings * network.scale @ first.T + first_bias, 0)
    logits = hidden @ last.T + last_bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert network.probabilities(training_set.embeddings) == pytest.approx(expected, abs=1e-5)
    assert network.probabilities(training_set.embeddings[:0]).shape == (0, 3)


def test_a_label_without_a_row_is_improbable_and_no_error() -> None:
    training_set = clustered(people=3)
    network = train(training_set.take(np.flatnonzero(training_set.classes != 1)), SMALL, 1)
    told = network.probabilities(training_set.embeddings)
    assert told.shape == (15, 3)
    assert set(told.argmax(axis=1)[training_set.classes != 1].tolist()) == {0, 2}


def test_labels_are_shown_equally_often() -> None:
    shown = networks._shown(rows(1, 9, 90), 200, torch.Generator().manual_seed(1)).numpy()
    assert shown.shape == (200, 100)
    parts = np.bincount(rows(1, 9, 90)[shown.ravel()]) / shown.size
    assert parts == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert set(shown.ravel().tolist()) == set(range(100))


@pytest.mark.parametrize(
    ("count", "steps"), [(4, 120), (768, 120), (2000, 313), (7680, 1200), (20_000, 1200)]
)
def test_steps_grow_with_the_rows_and_are_bounded(count: int, steps: int) -> None:
    assert networks._steps(count) == steps


def test_nobody_is_told_by_a_network_that_saw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(clustered(people=3, each=4))
    seen: list[tuple[TrainingSet, int]] = []

    class FakeNetwork:
        """Takes everybody of fold n for class n modulo 3."""

        def __init__(self, fold: int) -> None:
            self._fold = fold

        def probabilities(self, embeddings: FloatArray) -> FloatArray:
            return np.eye(3, dtype=np.float32)[[self._fold % 3] * len(embeddings)]

    def fake_train(training_set: TrainingSet, _shape: Shape, seed: int) -> FakeNetwork:
        seen.append((training_set, seed))
        return FakeNetwork(len(seen) - 1)

    monkeypatch.setattr(networks, "train", fake_train)
    score = evaluate(task, SMALL)
    assert score.predicted.tolist() == (task.folds % 3).tolist()
    assert score.correct == int((task.folds % 3 == task.training_set.classes).sum())
    assert (score.total, score.errors) == (12, 12 - score.correct)
    assert score.parameters == SMALL.parameters(8, 3)
    for fold, (training_set, seed) in enumerate(seen):
        within = task.training_set.embeddings[task.folds == fold]
        assert len(training_set) + len(within) == 12
        assert not {row.tobytes() for row in within} & {
            r.tobytes() for r in training_set.embeddings
        }
        assert seed == seed_of(task.seed, SMALL, fold)
    assert len(seen) == 4


def test_seeds_are_the_same_in_every_process_and_never_shared() -> None:
    assert seed_of(1, DEFAULT, 0) == 3199212107539907259
    asked = [
        (seed, shape, fold)
        for seed in (0, 1)
        for shape in (DEFAULT, LINEAR)
        for fold in (None, 0, 1)
    ]
    assert len({seed_of(*each) for each in asked}) == len(asked)
    assert all(0 <= seed_of(*each) < 2**63 for each in asked)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 6))
def test_nearest_neighbour_against_brute_force(seed: int, people: int, each: int) -> None:
    draw = np.random.default_rng(seed)
    made = draw.integers(-2, 3, (people * each, 3)).astype(np.float32) + 0.5  # ties and all
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    classes = draw.permutation(rows(*[each] * people))
    task = task_of(TrainingSet(made, classes, tuple(f"p{n}" for n in range(people))), seed)
    told = nearest_neighbour(task)
    for row, (embedding, fold) in enumerate(zip(made, task.folds, strict=True)):
        others = [other for other in range(len(made)) if task.folds[other] != fold]
        nearest = max(float(embedding @ made[other]) for other in others)
        near = [n for n in others if float(embedding @ made[n]) > nearest - 1e-6]
        assert told.predicted[row] in {classes[other] for other in near}
    assert told.correct == int((told.predicted == classes).sum())
    assert told.accuracy == told.correct / len(classes)


def test_the_nearest_neighbour_of_equally_near_ones_is_the_first() -> None:
    made = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    classes = np.array([0, 1, 0, 1], np.int32)
    task = Task(TrainingSet(made, classes, ("a", "b")), np.array([0, 1, 1, 0], np.int32), 0)
    assert nearest_neighbour(task).predicted.tolist() == [1, 1, 1, 1]


async def test_in_process_evaluates_in_order() -> None:
    task = task_of(clustered(each=3))
    async with in_process(task) as run:
        scores = [score async for score in run([LINEAR, SMALL])]
    expected = [evaluate(task, LINEAR), evaluate(task, SMALL)]
    assert [_told(score) for score in scores] == [_told(score) for score in expected]


def _told(score: Score) -> tuple[Shape, int, list[int]]:
    return score.shape, score.correct, score.predicted.tolist()


async def test_closing_in_process_evaluates_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[Shape] = Counter()
    task = task_of(clustered(each=3))

    def fake_predict(task: Task, shape: Shape, fold: int) -> np.ndarray:
        asked[shape] += 1
        return np.zeros(int((task.folds == fold).sum()), np.int32)

    monkeypatch.setattr(evaluating, "predict_fold", fake_predict)
    async with in_process(task) as run, aclosing(run([LINEAR, SMALL, DEFAULT])) as scores:
        first = await anext(scores)
    assert (first.shape, first.correct) == (LINEAR, 3)
    assert asked == {LINEAR: 3}


async def test_cancelling_waits_for_the_training_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, working, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    trained: list[int] = []

    def fake_predict(_task: Task, _shape: Shape, fold: int) -> np.ndarray:
        loop.call_soon_threadsafe(working.set)
        assert go.wait(60)
        trained.append(fold)
        return np.zeros(3, np.int32)

    monkeypatch.setattr(evaluating, "predict_fold", fake_predict)

    async def first() -> Score:
        async with in_process(task_of(clustered(each=3))) as run:
            return await anext(run([LINEAR]))

    evaluation = asyncio.create_task(first())
    await working.wait()
    evaluation.cancel()
    done, _ = await asyncio.wait([evaluation], timeout=0)
    assert (done, trained) == (set(), [])
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await evaluation
    assert trained == [0]
