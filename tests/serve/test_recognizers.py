"""Recognizers in a running service: evaluations by Ray tasks, models by Serve's multiplexing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import psutil
import pytest
import ray
from onnx import numpy_helper
from ray.exceptions import RayTaskError, WorkerCrashedError
from ray.serve import api, multiplex

from deployments.arguments import CpuResources
from deployments.calls import UNKNOWN
from deployments.evaluations import _scores
from deployments.recognizer import Recognizer, holding
from facegraph.config import Settings
from facegraph.errors import (
    DatabaseError,
    FacegraphError,
    InvalidTrainingSet,
    ModelUnavailable,
    RecognizerNotFound,
    StoreUnavailable,
    Unavailable,
)
from facegraph.recognizers.evaluating import Task
from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import TrainingSet
from tests import photos
from tests.serve.copies import ROOT, Copy, wait_until
from tests.serve.search_inside import evaluating

pytestmark = pytest.mark.serve

SHAPES = [Shape((width,), "relu", 0.1, 0.003) for width in range(5)]
TASK = Task(
    TrainingSet(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1], np.int32), ("ada", "tom")),
    folds=np.array([0, 1, 1, 0], np.int32),
    seed=5,
)
LONG_S = 600.0
NOBODY = np.zeros((0, 4), np.float32)

Part = tuple[Shape, int]


class FakeTasks:
    """Evaluations that end when they are told to; a reference is a future."""

    def __init__(self) -> None:
        self.begun: list[Part] = []
        self._begun: asyncio.Queue[Part] = asyncio.Queue()
        self.cancelled: list[Any] = []
        self.references: list[asyncio.Future[Any]] = []

    def submit(self, shape: Shape, fold: int) -> asyncio.Future[Any]:
        self._begun.put_nowait((shape, fold))
        self.references.append(asyncio.get_running_loop().create_future())
        return self.references[-1]

    def cancel(self, reference: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    def end(self, number: int, *classes: int) -> None:
        """The one that began as that one has predicted ``classes``."""
        self.references[number].set_result(np.array(classes, np.int32))

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            self.begun.append(await self._begun.get())

    def scores(self, at_once: Callable[[], int], patience_s: float = LONG_S) -> Any:
        return _scores(TASK, SHAPES, self.submit, at_once, patience_s)


@pytest.fixture
def fake_tasks(monkeypatch: pytest.MonkeyPatch) -> FakeTasks:
    fake = FakeTasks()
    monkeypatch.setattr(ray, "cancel", fake.cancel)
    return fake


async def test_so_many_tasks_at_a_time_asked_each_time(fake_tasks: FakeTasks) -> None:
    most = 1
    async with aclosing(fake_tasks.scores(lambda: most)) as scores:
        first = asyncio.ensure_future(anext(scores))
        await fake_tasks.until_begun(1)
        most = 3
        fake_tasks.end(0, 0, 1)
        await fake_tasks.until_begun(4)
        most = 1
        fake_tasks.end(1, 1, 1)
        assert (await first).shape == SHAPES[0]
        second = asyncio.ensure_future(anext(scores))
        fake_tasks.end(2, 0, 0)
        fake_tasks.end(3, 0, 0)
        assert (await second).shape == SHAPES[1]
        third = asyncio.ensure_future(anext(scores))
        await fake_tasks.until_begun(5)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
    parts = [(shape, fold) for shape in SHAPES for fold in (0, 1)]
    assert fake_tasks.begun == parts[:5]
    assert fake_tasks.cancelled == fake_tasks.references[4:]


async def test_a_shape_is_scored_as_soon_as_all_its_folds_are_told(fake_tasks: FakeTasks) -> None:
    async with aclosing(fake_tasks.scores(lambda: 4)) as scores:
        asked = asyncio.ensure_future(anext(scores))
        await fake_tasks.until_begun(4)
        fake_tasks.end(1, 1, 1)  # the first shape's second fold, then the second shape
        fake_tasks.end(3, 0, 1)
        await fake_tasks.until_begun(6)
        fake_tasks.end(2, 0, 1)
        score = await asked
        assert score.shape == SHAPES[1]
        assert score.predicted.tolist() == [0, 0, 1, 1]
        assert (score.correct, score.total) == (2, 4)
        asked = asyncio.ensure_future(anext(scores))
        fake_tasks.end(0, 0, 1)
        score = await asked
        assert score.shape == SHAPES[0]
        assert score.predicted.tolist() == [0, 1, 1, 1]
        assert score.correct == 3


async def test_no_room_for_any_task_is_told_in_time(fake_tasks: FakeTasks) -> None:
    scores = fake_tasks.scores(lambda: 2, patience_s=0.01)
    says = r"no worker evaluated a shape within 0\.01 s: .* no room for resources\.evaluation"
    with pytest.raises(Unavailable, match=says):
        await anext(scores)
    assert len(fake_tasks.references) == 2
    assert fake_tasks.cancelled == fake_tasks.references


async def test_cancelling_who_waits_cancels_what_is_in_flight(fake_tasks: FakeTasks) -> None:
    async def collect() -> None:
        async with aclosing(fake_tasks.scores(lambda: 2)) as scores:
            async for _ in scores:
                pass

    collecting = asyncio.create_task(collect())
    await fake_tasks.until_begun(2)
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    assert fake_tasks.cancelled == fake_tasks.references


@pytest.mark.parametrize(
    ("raised", "expected", "says"),
    [
        (InvalidTrainingSet("too few"), InvalidTrainingSet, "too few"),
        (ValueError("a bug"), FacegraphError, UNKNOWN),
        (WorkerCrashedError(), Unavailable, "workers of the search were lost"),  # after retries
    ],
)
async def test_how_an_evaluation_fails(
    fake_tasks: FakeTasks, raised: Exception, expected: type[Exception], says: str
) -> None:
    if not isinstance(raised, WorkerCrashedError):
        raised = RayTaskError("evaluated", "traceback", raised).as_instanceof_cause()
    asked = asyncio.ensure_future(anext(fake_tasks.scores(lambda: 2)))
    await fake_tasks.until_begun(2)
    fake_tasks.references[0].set_exception(raised)
    with pytest.raises(FacegraphError, match=says) as caught:
        await asked
    assert type(caught.value) is expected
    assert fake_tasks.cancelled == [fake_tasks.references[1]]


def test_a_killed_worker_costs_its_evaluation_and_no_other_result(copies_folder: Path) -> None:
    folder = copies_folder / "search"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.serve.search_inside", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert len(told["lost"]) == 6
    assert told["lost"] == told["here"]
    assert told["stopped"] == 2
    assert told["no_room"] == (
        "no worker evaluated a shape within 0.5 s: the cluster has no room for resources.evaluation"
    )


class FakeRecognizerWorker:
    """Knows ``known``; keeps them all until it is told otherwise.

    read: what was asked for and was not there already
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.known = set(known)
        self.loaded: set[str] = set()
        self.forgotten: list[str] = []
        self.read: list[str] = []

    async def recognize(
        self, recognizer_id: str, probes: Any, threshold: float, margin: float
    ) -> str:
        if recognizer_id not in self.loaded:
            self.read.append(recognizer_id)
            if recognizer_id not in self.known:
                raise RecognizerNotFound(f"no recognizer {recognizer_id!r}")
            self.loaded.add(recognizer_id)
        return f"{recognizer_id}: {probes} at {threshold:g}, {margin:g}"

    def forget(self, recognizer_id: str) -> None:
        self.loaded.discard(recognizer_id)
        self.forgotten.append(recognizer_id)


class Replica(Recognizer):
    """Closed by hand: Serve awaits ``__del__``, and Python does not."""

    def __del__(self) -> None:  # type: ignore[override]
        """Nothing."""

    async def close(self) -> None:
        await super().__del__()


@pytest.fixture
def told_to_serve(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Serve's own caches of this process, as if it were a replica."""
    caches: list[Any] = []

    class Recorded(multiplex._ModelMultiplexWrapper):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            caches.append(self)

        def _push_model_ids_info(self) -> None:
            """There is no controller."""

    replica = SimpleNamespace(app_name="facegraph", deployment="recognizer", replica_id="r")
    monkeypatch.setattr(multiplex, "_get_internal_replica_context", lambda: replica)
    monkeypatch.setattr(api, "_ModelMultiplexWrapper", Recorded)
    return caches


async def test_a_model_that_serve_drops_leaves_memory_once(told_to_serve: list[Any]) -> None:
    gone: asyncio.Queue[str] = asyncio.Queue()
    hold = holding(2, gone.put_nowait)
    for name in ("a", "b", "a", "c", "d"):
        await hold(name)
    assert [await gone.get(), await gone.get()] == ["b", "a"]
    await hold("c")
    assert gone.empty()
    (cache,) = told_to_serve
    assert list(cache.models) == ["d", "c"]


async def test_what_is_given_up_is_not_taken_for_loading(told_to_serve: list[Any]) -> None:
    """Serve would send requests for it here for ever."""
    hold = holding(1, lambda _: None)
    await hold("a")
    (cache,) = told_to_serve
    async with cache._model_cache_lock:
        given_up = asyncio.ensure_future(hold("b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(cache._get_loading_and_loaded_model_ids()) == ["a", "b"]
        given_up.cancel()
    await hold("c")
    assert cache._get_loading_and_loaded_model_ids() == ["c"]


async def test_a_recognizer_that_is_not_there_takes_nobodys_place(
    told_to_serve: list[Any], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    worker = FakeRecognizerWorker(["a"])
    monkeypatch.setattr("deployments.recognizer.RecognizerWorker", lambda *_, **__: worker)
    few = settings.model_copy(update={"max_loaded_recognizers": 1})
    replica: Any = Replica(few, CpuResources())
    assert await replica.recognize("a", "probes", 0.4, 0.02) == "a: probes at 0.4, 0.02"
    with pytest.raises(RecognizerNotFound, match="no recognizer 'missing'"):
        await replica.recognize("missing", "probes", 0.4, 0.02)
    (cache,) = told_to_serve
    assert cache._get_loading_and_loaded_model_ids() == ["a"]
    assert (worker.loaded, worker.forgotten) == ({"a"}, [])
    await replica.forget("a")
    assert worker.loaded == set()
    worker.known.clear()
    with pytest.raises(RecognizerNotFound):
        await replica.recognize("a", "probes", 0.4, 0.02)
    assert worker.read == ["a", "missing", "a"]


class FakeStore:
    """Its recognizers' models are damaged."""

    def __init__(self) -> None:
        self.recognizers = self
        self.closed = 0

    async def model(self, recognizer_id: str) -> bytes:
        raise DatabaseError(f"the model of recognizer {recognizer_id!r} is damaged")

    async def close(self) -> None:
        self.closed += 1


async def test_a_store_that_does_not_open_is_no_damaged_model(
    told_to_serve: list[Any], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    store = FakeStore()
    problems: list[Exception] = [DatabaseError("the database cannot be started")]

    async def opened(_: Settings) -> FakeStore:
        if problems:
            raise problems.pop()
        return store

    monkeypatch.setattr("deployments.recognizer.open_store", opened)
    replica: Any = Replica(settings, CpuResources())
    with pytest.raises(StoreUnavailable, match="cannot be started"):
        await replica.recognize("a", NOBODY, 0.4, 0.02)
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="'a' is damaged"):
            await replica.recognize("a", NOBODY, 0.4, 0.02)
    await replica.close()
    assert store.closed == 1
    assert told_to_serve == []


def variants(path: Path, count: int = 4) -> list[bytes]:
    """The picture in several lights, as JPEG."""
    rgb = photos.pixels(path).astype(np.float32)
    return [
        cv2.imencode(".jpg", (rgb * (0.7 + 0.1 * n)).astype(np.uint8)[..., ::-1])[1].tobytes()
        for n in range(count)
    ]


PEOPLE = {"ada": photos.ASTRONAUT, "tom": photos.PORTRAIT}
SENT: dict[str, Any] = {
    "content": photos.ASTRONAUT.read_bytes(),
    "headers": {"content-type": "image/png"},
}


def begin(http: httpx.Client) -> str:
    """Asks for a recognizer of two people; its path."""
    images = [
        ("images", (f"{name}/{n}.jpg", picture, "image/jpeg"))
        for name, path in PEOPLE.items()
        for n, picture in enumerate(variants(path))
    ]
    answer = http.post("/v1/recognizers", files=images, data={"seed": "5"})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def ended(http: httpx.Client, path: str) -> Any:
    """What is told of it once its build is over."""
    wait_until(lambda: http.get(path).json()["state"] in {"ready", "failed"}, "the build")
    told = http.get(path).json()
    assert told["state"] == "ready", told
    return told


def constants(http: httpx.Client, path: str) -> dict[str, bytes]:
    """Weights and embeddings of the model, by name."""
    model = onnx.load_from_string(http.get(f"{path}/model").raise_for_status().content)
    return {one.name: numpy_helper.to_array(one).tobytes() for one in model.graph.initializer}


def test_a_build_whose_worker_is_killed_and_what_becomes_of_it(
    served: Copy, http: httpx.Client
) -> None:
    hurt = begin(http)
    working: list[psutil.Process] = []

    def at_work() -> bool:
        working[:] = evaluating(served.processes())
        return bool(working)

    wait_until(at_work, "an evaluation")
    working[0].kill()
    first = ended(http, hurt)
    whole = begin(http)
    second = ended(http, whole)
    assert [first[key] for key in ("labels", "shape", "metrics")] == [
        second[key] for key in ("labels", "shape", "metrics")
    ]
    assert first["labels"] == ["ada", "tom"]
    assert constants(http, hurt) == constants(http, whole)

    def predicted(path: str) -> tuple[int, str | None]:
        answer = http.post(f"{path}/predict", **SENT)
        return answer.status_code, answer.json().get("faces", [{}])[0].get("label")

    assert predicted(hurt) == predicted(whole) == (200, "ada")
    served.kill("recognizer")
    answers: list[tuple[int, str | None]] = []

    def back() -> bool:
        answers.append(predicted(whole))
        return answers[-1][0] == 200

    wait_until(back, "the recognizer to be back")
    assert answers[-1] == (200, "ada")
    assert {status for status, _ in answers} <= {200, 503}
    for path in (hurt, whole):
        assert http.delete(path).status_code == 204
        assert predicted(path) == (404, None)
