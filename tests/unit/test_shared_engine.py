"""Threads that share an engine: who runs with whom, and whose error it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from facegraph.errors import ModelUnavailable
from facegraph.models.engines.base import Choice
from facegraph.models.shared import SharedEngine
from facegraph.types import FloatArray

pytestmark = pytest.mark.unit

POISON = -1.0


class FakeEngine:
    """Answers each input's first number and its double; a run waits until it is let go."""

    name, provider = "fake", "nothing"
    input_shape: tuple[int | None, ...] = (None, 1, None)
    best_batch = 8
    choice: Choice | None = None

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.batches: list[list[float]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def run(self, batch: FloatArray) -> list[FloatArray]:
        self.batches.append(batch[:, 0, 0].tolist())
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        if len(batch) > self.most or (batch == POISON).any():
            raise ModelUnavailable(f"not {len(batch)}")
        return [batch[:, 0, :1].copy(), 2 * batch[:, 0, :1]]


def inputs(*numbers: float, width: int = 2) -> FloatArray:
    return np.full((len(numbers), 1, width), np.reshape(numbers, (-1, 1, 1)), np.float32)


class Callers:
    """Threads that call one engine; each is known to wait before the next one calls."""

    def __init__(self, pool: ThreadPoolExecutor, engine: FakeEngine, max_batch: int = 8) -> None:
        self.engine = engine
        self.shared = SharedEngine(engine, max_batch)
        self._pool = pool

    def first(self, *numbers: float) -> Future[list[FloatArray]]:
        """Its run has begun, and goes on when it is let go."""
        future = self._pool.submit(self.shared.run, inputs(*numbers))
        assert self.engine.begun.acquire(timeout=20)
        return future

    def then(self, *numbers: float, width: int = 2) -> Future[list[FloatArray]]:
        waiting = self.shared.waiting
        future = self._pool.submit(self.shared.run, inputs(*numbers, width=width))
        until(lambda: self.shared.waiting == waiting + len(numbers))
        return future

    def let_go(self, runs: int) -> None:
        self.engine.go_on.release(runs)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def answer(future: Future[list[FloatArray]]) -> list[float]:
    one, double = future.result(20)
    assert np.array_equal(2 * one, double)
    return [float(number) for number in one[:, 0]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def callers(pool: ThreadPoolExecutor) -> Callers:
    return Callers(pool, FakeEngine())


def test_a_lone_input_runs_at_once_and_alone(callers: Callers) -> None:
    callers.let_go(1)
    assert answer(callers.first(5)) == [5]
    assert callers.engine.batches == [[5]]


def test_what_comes_during_a_run_runs_together(callers: Callers) -> None:
    futures = [callers.first(1), callers.then(2), callers.then(3, 4), callers.then(5)]
    callers.let_go(2)
    assert [answer(future) for future in futures] == [[1], [2], [3, 4], [5]]
    assert callers.engine.batches == [[1], [2, 3, 4, 5]]


def test_batches_are_filled_up_to_a_power_of_two(callers: Callers) -> None:
    """With copies of the last input, which nobody gets."""
    futures = [callers.first(1), callers.then(2), callers.then(3, 4, 5, 6)]
    callers.let_go(2)
    assert [answer(future) for future in futures] == [[1], [2], [3, 4, 5, 6]]
    assert callers.engine.batches == [[1], [2, 3, 4, 5, 6, 6, 6, 6]]


def test_inputs_of_another_shape_run_after_them(callers: Callers) -> None:
    futures = [callers.first(1), callers.then(2), callers.then(3, width=3), callers.then(4)]
    callers.let_go(3)
    assert [answer(future) for future in futures] == [[1], [2], [3], [4]]
    assert callers.engine.batches == [[1], [2, 4], [3]]


@pytest.mark.parametrize(
    ("max_batch", "best_batch", "batches"),
    [
        (4, 8, [[1], [2, 3, 4, 5], [6]]),  # as configured
        (8, 4, [[1], [2, 3, 4, 5], [6]]),  # more gain nothing
        (1, 8, [[1], [2], [3], [4], [5], [6]]),
    ],
)
def test_a_run_takes_no_more(
    pool: ThreadPoolExecutor, max_batch: int, best_batch: int, batches: list[list[float]]
) -> None:
    engine = FakeEngine()
    engine.best_batch = best_batch
    callers = Callers(pool, engine, max_batch)
    futures = [callers.first(1), *(callers.then(number) for number in range(2, 7))]
    callers.let_go(len(batches))
    assert [answer(future) for future in futures] == [[n] for n in range(1, 7)]
    assert engine.batches == batches


def test_more_than_fit_into_a_run_are_cut_up(callers: Callers) -> None:
    callers.shared.max_batch = 2
    callers.let_go(3)
    assert answer(callers.first(1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]
    assert callers.engine.batches == [[1, 2], [3, 4], [5]]


def test_only_the_poisoned_input_fails(callers: Callers) -> None:
    futures = [callers.first(1), callers.then(2), callers.then(POISON), callers.then(4)]
    callers.let_go(5)
    assert [answer(future) for future in (*futures[:2], futures[3])] == [[1], [2], [4]]
    with pytest.raises(ModelUnavailable):
        futures[2].result(20)
    assert callers.engine.batches[1:] == [[2, POISON, 4, 4], [2], [POISON], [4]]


def test_a_batch_too_large_for_the_memory_costs_nobody_an_answer(
    pool: ThreadPoolExecutor,
) -> None:
    callers = Callers(pool, FakeEngine(most=1))
    futures = [callers.first(1), callers.then(2), callers.then(3)]
    callers.let_go(4)
    assert [answer(future) for future in futures] == [[1], [2], [3]]
    assert callers.engine.batches == [[1], [2, 3], [2], [3]]


def test_an_engine_that_failed_goes_on(callers: Callers) -> None:
    callers.let_go(2)
    with pytest.raises(ModelUnavailable):
        callers.first(POISON).result(20)
    assert answer(callers.first(2)) == [2]


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (100, [1, 2, 4, 8])],
)
def test_sizes(max_batch: int, sizes: list[int]) -> None:
    assert SharedEngine(FakeEngine(), max_batch).sizes == sizes


def test_many_threads_get_their_own(pool: ThreadPoolExecutor) -> None:
    engine = FakeEngine()
    engine.go_on.release(10_000)
    shared = SharedEngine(engine, 8)
    futures = [pool.submit(shared.run, inputs(n, n + 0.5)) for n in range(400)]
    assert [answer(future) for future in futures] == [[n, n + 0.5] for n in range(400)]
