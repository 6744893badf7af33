"""Whom a recognizer takes a probe for, and which recognizers are in memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

import numpy as np
import onnx
import pytest

from facegraph.errors import (
    ContractMismatch,
    DatabaseError,
    ModelUnavailable,
    Overloaded,
    RecognizerNotFound,
    Unavailable,
)
from facegraph.recognizers import predicting
from facegraph.recognizers.exporting import ModelCard, export
from facegraph.recognizers.predicting import RecognizerWorker
from facegraph.recognizers.predictor import Predictor
from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import TrainingSet
from facegraph.types import Decision, FloatArray, Recognized

pytestmark = pytest.mark.unit

MARGIN = 0.02
LABELS = ("ann", "bob", "cyd")
AXES = np.eye(3, 4, dtype=np.float32)
"""Ann's only embedding, Bob's and Cyd's; no other component of a probe is near anybody."""


def made(logits: Sequence[float] = (0, 0, 0), labels: tuple[str, ...] = LABELS) -> bytes:
    """Whose network answers the same to every probe."""
    known = TrainingSet(
        AXES[np.arange(len(labels)) % 3], np.arange(len(labels), dtype=np.int32), labels
    )
    card = ModelCard(
        recognizer_id="0199c0de-0000-7000-8000-000000000001",
        name=None,
        created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        contract_id="fake/0123",
        dimension=4,
        threshold=0.5,
        labels=labels,
        shape=Shape((), "relu", 0.0, 0.01),
        augmentation="none",
        metrics={},
    )
    layer = (np.zeros((len(labels), 4), np.float32), np.array(logits, np.float32))
    return export([layer], scale=2.0, activation="relu", training_set=known, card=card)


def just_above(bar: float) -> float:
    return float(np.nextafter(np.float32(bar), np.float32(2)))


def just_under(bar: float) -> float:
    return float(np.nextafter(np.float32(bar), np.float32(-2)))


def probe(*cosines: float) -> FloatArray:
    """(1, 4), so far from Ann, Bob and Cyd."""
    rest = np.sqrt(max(0.0, 1 - sum(c * c for c in cosines)))
    return np.array([[*cosines, rest]], np.float32)


def told(recognized: Recognized) -> list[str]:
    return [candidate.label for candidate in recognized.candidates]


@pytest.mark.parametrize(
    ("cosines", "threshold", "margin", "decision", "why"),
    [
        ((0.1, 0.9, 0.2), 0.5, 0.02, "match", "Bob is the most probable, and it is near him"),
        ((0.61, 0.6, 0.2), 0.5, 0.02, "match", "Ann is nearer, but not by more than the margin"),
        ((0.65, 0.6, 0.2), 0.5, 0.02, "ambiguous", "Ann is nearer by more than the margin"),
        ((0.2, 0.6, 0.65), 0.5, 0.02, "ambiguous", "and so is Cyd"),
        ((0.75, 0.5, 0.2), 0.5, 0.25, "match", "exactly at the margin, and at the threshold"),
        ((0.75, 0.5, 0.2), 0.5, just_under(0.25), "ambiguous", "just over the margin"),
        ((0.75, 0.5, 0.2), just_above(0.5), 0.25, "ambiguous", "near Ann alone"),
        ((0.5, 0.5, 0.2), 0.5, 0.0, "match", "Ann is as near, not nearer"),
        ((0.9, 0.1, 0.2), 0.5, 0.02, "ambiguous", "it is near Ann, whom the network does not see"),
        ((0.9, 0.1, 0.2), 0.5, 2.0, "ambiguous", "whatever the margin, Bob is not near"),
        ((0.1, 0.4, 0.2), 0.5, 0.02, "unknown", "it is near nobody"),
        ((0.45, 0.4, 0.2), 0.5, 0.02, "unknown", "it is near nobody, though Ann is nearer"),
        ((0.1, 0.5, 0.2), 0.5, 0.02, "match", "exactly at the threshold"),
        ((0.1, 0.5, 0.2), just_above(0.5), 0.02, "unknown", "just under it"),
        ((0.5, 0.1, 0.2), 0.5, 0.02, "ambiguous", "exactly at the threshold, with another"),
        ((-0.5, -0.6, -0.4), -1.0, 0.25, "match", "whoever is near enough at any distance"),
        ((-0.5, -0.6, -0.4), -1.0, 0.02, "ambiguous", "and clearly nearer to another"),
    ],
)
def test_a_decision_asks_both_the_network_and_the_distance(
    cosines: tuple[float, ...], threshold: float, margin: float, decision: Decision, why: str
) -> None:
    (recognized,) = Predictor(made(logits=(0, 3, 1))).recognize(probe(*cosines), threshold, margin)
    assert recognized.decision == decision, why
    nearest = cosines[1] if decision == "match" else max(cosines)
    assert recognized.similarity == pytest.approx(nearest)
    assert told(recognized) == ["bob", "cyd", "ann"]
    best = recognized.candidates[0]
    assert best.similarity == pytest.approx(cosines[1])
    assert best.probability == pytest.approx(np.exp(3) / (1 + np.exp(3) + np.exp(1)))
    assert sum(c.probability for c in recognized.candidates) == pytest.approx(1)


def test_candidates_are_the_most_probable_and_after_them_the_nearest() -> None:
    predictor = Predictor(made(logits=(0, 3, 1)))
    (near_ann,) = predictor.recognize(probe(0.9, 0.1, 0.2), 0.5, MARGIN, most=2)
    (near_cyd,) = predictor.recognize(probe(0.1, 0.2, 0.9), 0.5, MARGIN, most=2)
    (near_bob,) = predictor.recognize(probe(0.1, 0.9, 0.2), 0.5, MARGIN, most=1)
    assert told(near_ann) == ["bob", "cyd", "ann"]
    assert told(near_cyd) == ["bob", "cyd"]
    assert told(near_bob) == ["bob"]


def test_ties_follow_the_order_of_the_labels() -> None:
    labels = tuple(f"label-{at:02}" for at in range(9))
    predictor = Predictor(made(logits=[1, 0, 0, 2, 0, 1, 0, 0, 0], labels=labels))
    (recognized,) = predictor.recognize(probe(0.8, 0, 0), 0.5, MARGIN)
    assert told(recognized) == ["label-03", "label-00", "label-05", "label-01", "label-02"]
    assert recognized.decision == "match"  # 0, 3 and 6 have the same embedding


def test_rows_are_answered_in_order_and_none_by_none() -> None:
    predictor = Predictor(made())
    probes = np.concatenate([probe(0.1, 0.9, 0), probe(0.8, 0, 0)])
    assert [one.similarity for one in predictor.recognize(probes, 0.5, MARGIN)] == pytest.approx(
        [0.9, 0.8]
    )
    assert (
        predictor.recognize(probes[::-1], 0.5, MARGIN)
        == predictor.recognize(probes, 0.5, MARGIN)[::-1]
    )
    assert predictor.recognize(probes[:0], 0.5, MARGIN) == ()


@pytest.mark.parametrize("shape", [(1, 3), (1, 5), (4,), (1, 4, 1)])
def test_embeddings_of_another_model_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractMismatch, match="n×4 embeddings"):
        Predictor(made()).recognize(np.zeros(shape, np.float32), 0.5, MARGIN)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.ModelProto.FromString(made())
    change(model)
    return bytes(model.SerializeToString())


def with_nan(model: onnx.ModelProto) -> None:
    (bias,) = [one for one in model.graph.initializer if one.name == "bias0"]
    bias.raw_data = np.full(3, np.nan, np.float32).tobytes()


def of_another_format(model: onnx.ModelProto) -> None:
    (entry,) = [one for one in model.metadata_props if one.key == "facegraph.version"]
    entry.value = "2"


def of_other_labels(model: onnx.ModelProto) -> None:
    (entry,) = [one for one in model.metadata_props if one.key == "facegraph.labels"]
    entry.value = '["ann", "bob"]'


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "file is damaged"),
        (b"no model", "file is damaged"),
        (made()[:-300], "damaged"),
        (made()[:200], "damaged"),
        (changed(lambda model: model.metadata_props.clear()), "format None"),
        (changed(of_another_format), "of format '2', and this version reads '1'"),
        (changed(of_other_labels), "its graph is another one"),
        (changed(lambda model: model.graph.output.pop()), "its graph is another one"),
        (changed(with_nan), "computes no numbers"),
    ],
)
def test_damaged_files_are_refused(damaged: bytes, said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        Predictor(damaged)


class Shelf:
    """Files by id, and which were read; reading waits for ``go_on``."""

    def __init__(self) -> None:
        self.model = made()
        self.read: list[str] = []
        self.given_up: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.at_once = self.most_at_once = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = asyncio.Event()

    async def load(self, recognizer_id: str) -> bytes:
        self.read.append(recognizer_id)
        self.asked.set()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.given_up.append(recognizer_id)
            raise
        finally:
            self.at_once -= 1
        if recognizer_id in self.failing:
            raise self.failing[recognizer_id]
        return self.model


@pytest.fixture
async def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def worker(shelf: Shelf) -> AsyncIterator[RecognizerWorker]:
    made = RecognizerWorker(shelf.load, max_models=2, max_queue=4)
    yield made
    shelf.go_on.set()
    await made.close()


def loaded(worker: RecognizerWorker) -> list[str]:
    return [model["id"] for model in worker.describe()["loaded"]]


async def load(worker: RecognizerWorker, recognizer_id: str) -> None:
    assert await worker.recognize(recognizer_id, BOB[:0], 0.5, MARGIN) == ()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - many conditions, one loop
            await asyncio.sleep(0)


BOB = probe(0.1, 0.9, 0.2)


async def test_a_recognizer_is_loaded_when_it_is_first_asked_for(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    assert worker.describe() == {"loaded": [], "loading": [], "max_models": 2}
    (recognized,) = await worker.recognize("a", BOB, 0.5, MARGIN)
    assert recognized.decision == "ambiguous"
    assert recognized.similarity == pytest.approx(0.9)
    await worker.recognize("a", BOB, 0.5, MARGIN)
    await load(worker, "a")
    assert shelf.read == ["a"]
    assert worker.describe()["loaded"] == [{"id": "a", "bytes": len(made()), "labels": 3}]
    worker.check()


async def test_the_least_recently_used_leaves_first(shelf: Shelf, worker: RecognizerWorker) -> None:
    await load(worker, "a")
    await load(worker, "b")
    await worker.recognize("a", BOB, 0.5, MARGIN)
    await load(worker, "c")
    assert loaded(worker) == ["a", "c"]
    await worker.recognize("b", BOB, 0.5, MARGIN)
    assert loaded(worker) == ["c", "b"]
    assert shelf.read == ["a", "b", "c", "b"]


async def test_what_many_ask_for_is_loaded_once(shelf: Shelf, worker: RecognizerWorker) -> None:
    answers = await asyncio.gather(*(worker.recognize("a", BOB, 0.5, MARGIN) for _ in range(4)))
    assert len({answer[0].similarity for answer in answers}) == 1
    assert shelf.read == ["a"]


async def test_a_failed_load_leaves_nothing_and_fails_nobody_else(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    shelf.failing["gone"] = RecognizerNotFound("there is no recognizer")
    answers = await asyncio.gather(
        load(worker, "gone"),
        load(worker, "gone"),
        worker.recognize("a", BOB, 0.5, MARGIN),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [RecognizerNotFound, RecognizerNotFound, tuple]
    assert loaded(worker) == ["a"]
    shelf.failing.clear()
    await load(worker, "gone")
    assert shelf.read == ["gone", "a", "gone"]


@pytest.mark.parametrize("found_by", ["the store", "the predictor"])
async def test_a_damaged_file_is_read_once_and_makes_no_worker_unhealthy(
    shelf: Shelf, worker: RecognizerWorker, found_by: str
) -> None:
    if found_by == "the store":
        shelf.failing["a"] = DatabaseError("the model of recognizer 'a' is damaged")
    else:
        shelf.model = b"damaged"
    for _ in range(5):
        with pytest.raises(ModelUnavailable, match="damaged"):
            await worker.recognize("a", BOB, 0.5, MARGIN)
    assert shelf.read == ["a"]
    worker.check()
    shelf.failing.clear()
    shelf.model = made()
    await load(worker, "b")
    worker.forget("a")
    await load(worker, "a")
    assert shelf.read == ["a", "b", "a"]


async def test_a_file_that_was_damaged_is_read_again_later(shelf: Shelf) -> None:
    worker = RecognizerWorker(shelf.load, max_models=2, damaged_s=0.0)
    shelf.failing["a"] = DatabaseError("damaged")
    with pytest.raises(ModelUnavailable):
        await load(worker, "a")
    shelf.failing.clear()
    async with asyncio.timeout(60):
        while loaded(worker) == []:
            with suppress(ModelUnavailable):
                await load(worker, "a")
            await asyncio.sleep(0)
    assert shelf.read == ["a", "a"]
    await worker.close()


async def test_who_gives_up_takes_nothing_from_the_others(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    shelf.go_on.clear()
    first = asyncio.create_task(worker.recognize("a", BOB, 0.5, MARGIN))
    second = asyncio.create_task(worker.recognize("a", BOB, 0.5, MARGIN))
    await shelf.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shelf.go_on.set()
    assert len(await second) == 1
    assert (shelf.read, shelf.given_up) == (["a"], [])


async def test_a_load_that_nobody_waits_for_is_given_up(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    shelf.go_on.clear()
    waiting = [asyncio.create_task(load(worker, "a")) for _ in range(2)]
    await shelf.asked.wait()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    again = asyncio.create_task(load(worker, "a"))
    await until(lambda: shelf.read == ["a", "a"])
    assert shelf.given_up == ["a"]
    assert worker.describe()["loading"] == ["a"]
    shelf.go_on.set()
    await again
    assert loaded(worker) == ["a"]


async def test_few_files_are_read_at_a_time(shelf: Shelf, worker: RecognizerWorker) -> None:
    shelf.go_on.clear()
    waiting = [asyncio.create_task(load(worker, name)) for name in "abcd"]
    await until(lambda: worker.describe()["loading"] == ["a", "b", "c", "d"])
    await until(lambda: shelf.read == ["a", "b"])
    shelf.go_on.set()
    await asyncio.gather(*waiting)
    assert shelf.most_at_once == predicting.LOADING
    assert sorted(shelf.read) == ["a", "b", "c", "d"]
    assert len(loaded(worker)) == 2


async def test_more_than_may_wait_for_files_are_refused(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    await load(worker, "there")
    shelf.go_on.clear()
    waiting = [asyncio.create_task(load(worker, "a")) for _ in range(4)]
    await until(lambda: shelf.read == ["there", "a"])
    with pytest.raises(Overloaded, match="4 requests wait"):
        await load(worker, "b")
    assert len(await worker.recognize("there", BOB, 0.5, MARGIN)) == 1
    shelf.go_on.set()
    await asyncio.gather(*waiting)
    await load(worker, "b")
    assert loaded(worker) == ["a", "b"]


async def test_more_than_may_wait_for_a_thread_are_refused(
    worker: RecognizerWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def stuck(*_: object) -> tuple[Recognized, ...]:
        began.set()
        go_on.wait(60)
        return ()

    await load(worker, "a")
    monkeypatch.setattr(Predictor, "recognize", stuck)
    running = asyncio.create_task(worker.recognize("a", BOB, 0.5, MARGIN))
    assert await asyncio.to_thread(began.wait, 60)
    waiting = [asyncio.create_task(worker.recognize("a", BOB, 0.5, MARGIN)) for _ in range(5)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    assert isinstance(refused.exception(), Overloaded)
    go_on.set()
    assert await running == ()
    assert await asyncio.gather(*waiting[:4]) == [()] * 4


async def test_what_is_forgotten_is_loaded_anew(shelf: Shelf, worker: RecognizerWorker) -> None:
    await load(worker, "a")
    worker.forget("a")
    worker.forget("never heard of")
    assert loaded(worker) == []
    await load(worker, "a")
    assert shelf.read == ["a", "a"]


async def test_what_is_forgotten_while_it_is_loaded_is_not_kept(
    shelf: Shelf, worker: RecognizerWorker
) -> None:
    shelf.go_on.clear()
    under_way = asyncio.create_task(worker.recognize("a", BOB, 0.5, MARGIN))
    await shelf.asked.wait()
    worker.forget("a")
    shelf.go_on.set()
    assert len(await under_way) == 1
    assert loaded(worker) == []


async def test_what_is_old_leaves_memory_unasked(shelf: Shelf) -> None:
    worker = RecognizerWorker(shelf.load, max_models=2, max_age_s=0.0)
    await load(worker, "a")
    await until(lambda: loaded(worker) == [])
    assert len(await worker.recognize("a", BOB, 0.5, MARGIN)) == 1
    await worker.close()


async def test_a_dimension_that_is_not_its_own_is_refused(worker: RecognizerWorker) -> None:
    with pytest.raises(ContractMismatch):
        await worker.recognize("a", np.zeros((1, 512), np.float32), 0.5, MARGIN)
    assert len(await worker.recognize("a", BOB, 0.5, MARGIN)) == 1


async def test_runs_that_fail_make_it_unhealthy(
    worker: RecognizerWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ModelUnavailable("the model could not run")

    await load(worker, "a")
    monkeypatch.setattr(Predictor, "recognize", failing)
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="could not run"):
            await worker.recognize("a", BOB, 0.5, MARGIN)
    with pytest.raises(RuntimeError, match="3 times in a row"):
        worker.check()


async def test_closing_fails_those_who_wait_for_files(shelf: Shelf) -> None:
    worker = RecognizerWorker(shelf.load, max_models=2)
    shelf.go_on.clear()
    waiting = asyncio.create_task(load(worker, "a"))
    await shelf.asked.wait()
    await worker.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    assert shelf.given_up == ["a"]
    assert loaded(worker) == []
