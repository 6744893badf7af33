"""Batches form at dispatch: what waits leaves together, and harms no neighbour."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from facegraph.batching import Batcher
from facegraph.errors import Overloaded, StoreUnavailable, Unavailable


class FakeModel:
    """Doubles numbers; blocks until released; fails a batch that holds a negative number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.release = asyncio.Event()

    async def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        await self.release.wait()
        if min(batch) < 0:
            raise ValueError("poisoned")
        return [2 * item for item in batch]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_worker_takes_a_lone_item_and_then_all_that_wait() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=4, max_queue=100)
    first = asyncio.create_task(batcher.submit(0))
    await _settle()
    assert model.batches == [[0]]
    assert not batcher.idle
    others = [asyncio.create_task(batcher.submit(i)) for i in range(1, 7)]
    await _settle()
    assert model.batches == [[0]]
    model.release.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await _settle()
    assert batcher.idle


async def test_what_comes_in_one_turn_leaves_together() -> None:
    model = FakeModel()
    model.release.set()
    batcher = Batcher(model, max_batch=100, max_queue=100)
    for _ in range(3):  # clients that were answered together come back together
        assert await asyncio.gather(*map(batcher.submit, range(5))) == [0, 2, 4, 6, 8]
    assert model.batches == [[0, 1, 2, 3, 4]] * 3


async def test_sizes_fill_a_batch_and_one_large_item_still_goes() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=4, max_queue=100, size=lambda item: item)
    answers = [asyncio.create_task(batcher.submit(i)) for i in (1, 3, 1, 9, 2)]
    model.release.set()
    await asyncio.gather(*answers)
    assert model.batches == [[1, 3], [1], [9], [2]]


async def test_a_poisoned_item_fails_alone() -> None:
    model = FakeModel()
    model.release.set()
    batcher = Batcher(model, max_batch=8, max_queue=100)
    answers = [asyncio.create_task(batcher.submit(i)) for i in (1, 2, -3, 4)]
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert results[:2] == [2, 4]
    assert isinstance(results[2], ValueError)
    assert results[3] == 8


async def test_a_part_that_is_down_is_not_asked_again_for_every_item() -> None:
    asked: list[int] = []

    async def down(batch: Sequence[int]) -> list[int]:
        asked.append(len(batch))
        await asyncio.sleep(0)
        raise StoreUnavailable("down")

    batcher = Batcher(down, max_batch=8, max_queue=100)
    results = await asyncio.gather(*map(batcher.submit, range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 5
    assert asked == [5]


async def test_an_exception_among_the_results_is_its_items_own() -> None:
    async def run(batch: Sequence[int]) -> list[int | Exception]:
        return [ValueError(f"no {item}") if item % 2 else item for item in batch]

    batcher: Batcher[int, int] = Batcher(run, max_batch=8, max_queue=100)
    results = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)
    assert list(map(str, results)) == ["0", "no 1", "2", "no 3"]


async def test_a_cancelled_item_is_dropped_and_the_others_are_answered() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=8, max_queue=100)
    answers = [asyncio.create_task(batcher.submit(0))]
    await _settle()
    answers += [asyncio.create_task(batcher.submit(i)) for i in range(1, 4)]
    await _settle()
    answers[2].cancel()
    await _settle()
    model.release.set()
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [results[i] for i in (0, 1, 3)] == [0, 2, 6]
    assert model.batches == [[0], [1, 3]]


async def test_a_client_that_leaves_a_running_batch_harms_nobody() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=8, max_queue=100)
    first = asyncio.create_task(batcher.submit(1))
    await _settle()
    first.cancel()
    second = asyncio.create_task(batcher.submit(2))
    model.release.set()
    assert await second == 4


async def test_a_full_queue_is_overloaded_and_recovers() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=1, max_queue=2)
    answers = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
    await _settle()
    with pytest.raises(Overloaded):
        await batcher.submit(9)
    model.release.set()
    assert await asyncio.gather(*answers) == [0, 2, 4]
    assert await batcher.submit(5) == 10


async def test_workers_run_side_by_side() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=1, max_queue=10, workers=2)
    answers = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
    await _settle()
    assert model.batches == [[0], [1]]
    model.release.set()
    assert await asyncio.gather(*answers) == [0, 2, 4]


async def test_workers_share_what_waits() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=100, max_queue=100, workers=lambda: 3)
    answers = [asyncio.create_task(batcher.submit(i)) for i in range(7)]
    await _settle()
    assert model.batches == [[0, 1, 2], [3, 4, 5], [6]]
    model.release.set()
    assert await asyncio.gather(*answers) == [2 * i for i in range(7)]


async def test_a_worker_that_joins_takes_what_comes() -> None:
    model, workers = FakeModel(), [1]
    batcher = Batcher(model, max_batch=100, max_queue=100, workers=lambda: workers[0])
    answers = [asyncio.create_task(batcher.submit(0))]
    await _settle()
    workers[0] = 2
    answers.append(asyncio.create_task(batcher.submit(1)))
    await _settle()
    assert model.batches == [[0], [1]]
    model.release.set()
    assert await asyncio.gather(*answers) == [0, 2]


class FakeReplicas:
    """Answers a batch when it is told to, by its first item."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.free: dict[int, asyncio.Event] = {}

    async def __call__(self, batch: Sequence[int]) -> list[int]:
        self.asked.append(batch[0])
        await self.free.setdefault(batch[0], asyncio.Event()).wait()
        return list(batch)

    async def answer(self, item: int) -> None:
        self.free.setdefault(item, asyncio.Event()).set()
        await _settle()


async def test_a_batch_that_hangs_holds_its_worker_until_a_later_one_has_ended() -> None:
    replicas = FakeReplicas()
    batcher = Batcher(replicas, max_batch=1, max_queue=100, workers=2, patience_s=0)
    asked = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
    await _settle()
    assert replicas.asked == [0, 1]  # 0 hangs
    await replicas.answer(1)
    assert replicas.asked == [0, 1, 2, 3]
    await replicas.answer(2)  # all of them only slow: 3, which is younger, holds its worker
    assert replicas.asked == [0, 1, 2, 3, 4]
    for item in (3, 4, 0):
        await replicas.answer(item)
    assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4]


async def test_where_all_are_slow_nothing_more_begins() -> None:
    replicas = FakeReplicas()
    batcher = Batcher(replicas, max_batch=1, max_queue=100, workers=2, patience_s=0)
    asked = [asyncio.create_task(batcher.submit(item)) for item in range(4)]
    await _settle()
    await replicas.answer(0)  # the oldest first
    assert replicas.asked == [0, 1, 2]
    await replicas.answer(1)
    assert replicas.asked == [0, 1, 2, 3]
    for item in (2, 3):
        await replicas.answer(item)
    assert await asyncio.gather(*asked) == [0, 1, 2, 3]


async def test_items_without_weight_count_all_the_same() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=2, max_queue=2, size=lambda _: 0)
    asked = [asyncio.create_task(batcher.submit(item)) for item in range(4)]
    await _settle()
    with pytest.raises(Overloaded):
        await batcher.submit(5)
    model.release.set()
    assert await asyncio.gather(*asked) == [0, 2, 4, 6]


async def test_a_batch_that_is_given_up_elsewhere_is_answered() -> None:
    async def run(_: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    batcher = Batcher(run, max_batch=2, max_queue=2)
    results = await asyncio.gather(*map(batcher.submit, (1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


async def test_close_answers_what_waits() -> None:
    model = FakeModel()
    batcher = Batcher(model, max_batch=1, max_queue=10)
    running, waiting = (asyncio.create_task(batcher.submit(i)) for i in range(2))
    await _settle()
    closing = asyncio.create_task(batcher.close())
    await _settle()
    model.release.set()
    await closing
    assert await running == 0
    with pytest.raises(Overloaded):
        await waiting
