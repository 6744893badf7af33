"""The workers with fake models: how many pictures are in work, whose error it is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from facegraph import workers
from facegraph.config import DetectorTuning, EmbedderTuning, Settings
from facegraph.errors import InvalidImage, ModelUnavailable, Overloaded
from facegraph.types import ByteArray, Detection, Faces, FloatArray
from facegraph.workers import DetectorWorker, EmbedderWorker

pytestmark = pytest.mark.unit


class FakeDetector:
    """A picture is its width as text; it is in work until it is let go."""

    def __init__(self, _: object, tuning: DetectorTuning, **__: Any) -> None:
        self.at_once = tuning.max_batch
        self.begun: list[str] = []
        self.changed = threading.Condition()
        self.go_on = threading.Semaphore(0)

    def reconfigure(self, tuning: DetectorTuning) -> None:
        self.at_once = tuning.max_batch

    def detect(self, image: bytes, **_: Any) -> Detection:
        with self.changed:
            self.begun.append(image.decode())
            self.changed.notify_all()
        assert self.go_on.acquire(timeout=20)
        if image == b"broken":
            raise InvalidImage("no picture")
        if image == b"poison":
            raise ModelUnavailable("the model could not run")
        return Detection(int(image), 1, Faces.empty(), NO_CROPS, 0)

    async def in_work(self, count: int) -> list[str]:
        """The pictures that were begun, as soon as there are so many."""

        def wait() -> list[str]:
            with self.changed:
                assert self.changed.wait_for(lambda: len(self.begun) >= count, 20)
                return list(self.begun)

        return await asyncio.to_thread(wait)


NO_CROPS = np.zeros((0, 112, 112, 3), np.uint8)


class Made:
    """A worker and its fake."""

    def __init__(self, max_batch: int, threads: int = 1, max_queue: int = 128) -> None:
        tuning = DetectorTuning(max_batch=max_batch, max_queue=max_queue)
        self.worker = DetectorWorker(Settings(), tuning, threads=threads)
        self.fake: FakeDetector = self.worker._detector  # type: ignore[assignment]

    def submit(self, *images: str) -> list[asyncio.Task[Detection]]:
        return [
            asyncio.create_task(self.worker.detect(image.encode(), max_faces=1, crops=False))
            for image in images
        ]

    def let_go(self, pictures: int) -> None:
        self.fake.go_on.release(pictures)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "Detector", FakeDetector)
    monkeypatch.setattr(workers, "find_pack", lambda settings: None)


async def test_a_lone_picture_is_taken_at_once() -> None:
    made = Made(max_batch=16)
    (task,) = made.submit("5")
    assert await made.fake.in_work(1) == ["5"]
    made.let_go(1)
    assert (await task).width == 5
    await made.worker.close()


@pytest.mark.parametrize(
    ("max_batch", "threads", "at_once"),
    [
        (1, 1, 1),  # a CPU
        (1, 2, 2),  # of more cores
        (4, 1, 4),  # a GPU
        (2, 3, 3),
    ],
)
async def test_so_many_are_in_work(max_batch: int, threads: int, at_once: int) -> None:
    made = Made(max_batch, threads)
    tasks = made.submit(*(str(n) for n in range(1, 7)))
    assert sorted(await made.fake.in_work(at_once)) == [str(n) for n in range(1, at_once + 1)]
    made.let_go(1)
    assert len(await made.fake.in_work(at_once + 1)) == at_once + 1
    made.let_go(5)
    assert [(await task).width for task in tasks] == [1, 2, 3, 4, 5, 6]
    await made.worker.close()


@pytest.mark.parametrize(("bad", "error"), [("broken", InvalidImage), ("poison", ModelUnavailable)])
async def test_only_the_bad_picture_fails(bad: str, error: type[Exception]) -> None:
    made = Made(max_batch=8)
    good, wrong = made.submit("1", "2", "3"), made.submit(bad)
    await made.fake.in_work(4)
    made.let_go(4)
    assert [(await task).width for task in good] == [1, 2, 3]
    with pytest.raises(error):
        await wrong[0]
    assert sorted(made.fake.begun) == ["1", "2", "3", bad]  # each once
    made.worker.check()
    await made.worker.close()


async def test_a_client_that_goes_away_takes_nobody_along() -> None:
    """One whose picture is in work, and one whose picture waits and is never begun."""
    made = Made(max_batch=2)
    first, second, third, fourth = made.submit("1", "2", "3", "4")
    await made.fake.in_work(2)
    first.cancel()
    third.cancel()
    made.let_go(3)
    assert [(await second).width, (await fourth).width] == [2, 4]
    assert sorted(made.fake.begun) == ["1", "2", "4"]
    for task in (first, third):
        with pytest.raises(asyncio.CancelledError):
            await task
    await made.worker.close()


async def test_a_new_number_holds_in_place() -> None:
    made = Made(max_batch=1)
    tasks = made.submit("1", "2", "3")
    assert await made.fake.in_work(1) == ["1"]
    made.worker.reconfigure(DetectorTuning(max_batch=3))
    tasks += made.submit("4")
    assert sorted(await made.fake.in_work(3)) == ["1", "2", "3"]
    made.let_go(4)
    assert [(await task).width for task in tasks] == [1, 2, 3, 4]
    await made.worker.close()


async def test_more_than_wait_are_refused() -> None:
    made = Made(max_batch=2, max_queue=1)
    tasks = made.submit("1", "2")
    await made.fake.in_work(2)
    waiting, refused = made.submit("3", "4")
    with pytest.raises(Overloaded):
        await refused
    made.let_go(3)
    assert [(await task).width for task in (*tasks, waiting)] == [1, 2, 3]
    await made.worker.close()


POISON = 255


class FakeEmbeddingModel:
    """A crop's embedding is its first pixel; ``most`` crops fit into the memory."""

    def __init__(self, *_: object, **__: Any) -> None:
        self.most = 32
        self.runs: list[list[int]] = []

    def embed(self, crops: ByteArray) -> FloatArray:
        self.runs.append(crops[:, 0, 0, 0].tolist())
        if len(crops) > self.most or POISON in self.runs[-1]:
            raise ModelUnavailable(f"not {len(crops)}")
        return crops[:, 0, 0, :1].astype(np.float32)


def crops(*numbers: int) -> ByteArray:
    return np.full((len(numbers), 112, 112, 3), np.reshape(numbers, (-1, 1, 1, 1)), np.uint8)


@pytest.mark.parametrize(
    ("most", "requests", "told", "runs"),
    [
        (8, [(1,), (2, 3), (4,)], [[1], [2, 3], [4]], [[1, 2, 3, 4]]),
        # too large together: one after the other
        (2, [(1,), (2, 3), (4,)], [[1], [2, 3], [4]], [[1, 2, 3, 4], [1], [2, 3], [4]]),
        (2, [(1, 2, 3), (4,)], ["not 3", [4]], [[1, 2, 3, 4], [1, 2, 3], [4]]),
        (8, [(1,), (POISON,), (4,)], [[1], "not 1", [4]], [[1, POISON, 4], [1], [POISON], [4]]),
        (2, [(1, 2, 3)], ["not 3"], [[1, 2, 3]]),  # alone, it is not tried again
    ],
)
async def test_a_batch_too_large_for_the_memory_costs_nobody_an_answer(
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    requests: list[tuple[int, ...]],
    told: list[Any],
    runs: list[list[int]],
) -> None:
    monkeypatch.setattr(workers, "EmbeddingModel", FakeEmbeddingModel)
    worker = EmbedderWorker(Settings(), EmbedderTuning(max_batch=16))
    fake: FakeEmbeddingModel = worker._model  # type: ignore[assignment]
    fake.most = most
    answers = await asyncio.gather(
        *(worker.embed(crops(*numbers)) for numbers in requests), return_exceptions=True
    )
    found = [str(a) if isinstance(a, BaseException) else a[:, 0].tolist() for a in answers]
    assert found == told
    assert fake.runs == runs
    await worker.close()


async def test_a_model_that_always_fails_makes_the_embedder_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "EmbeddingModel", FakeEmbeddingModel)
    worker = EmbedderWorker(Settings(), EmbedderTuning())
    worker.check()
    answers = await asyncio.gather(
        *(worker.embed(crops(POISON)) for _ in range(2)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [ModelUnavailable] * 2
    with pytest.raises(RuntimeError, match="3 times in a row"):
        worker.check()
    await worker.close()
