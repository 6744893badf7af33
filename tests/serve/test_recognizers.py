"""Recognizers in a running service: evaluations by Ray tasks, models by Serve's multiplexing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
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
    FacegraphError,
    InvalidTrainingSet,
    RecognizerNotFound,
    Unavailable,
)
from facegraph.recognizers.shapes import Shape
from tests import photos
from tests.serve.copies import ROOT, Copy, wait_until
from tests.serve.search_inside import evaluating

pytestmark = pytest.mark.serve

SHAPES = [Shape((width,), "relu", 0.1, 0.003) for width in range(5)]


class FakeTasks:
    """Evaluations that end when they are told to; a reference is a future."""

    def __init__(self) -> None:
        self.begun: list[Shape] = []
        self._begun: asyncio.Queue[Shape] = asyncio.Queue()
        self.cancelled: list[Any] = []
        self.references: list[asyncio.Future[Any]] = []

    def submit(self, shape: Shape) -> asyncio.Future[Any]:
        self._begun.put_nowait(shape)
        self.references.append(asyncio.get_running_loop().create_future())
        return self.references[-1]

    def cancel(self, reference: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            self.begun.append(await self._begun.get())


@pytest.fixture
def fake_tasks(monkeypatch: pytest.MonkeyPatch) -> FakeTasks:
    fake = FakeTasks()
    monkeypatch.setattr(ray, "cancel", fake.cancel)
    return fake


async def test_so_many_evaluations_at_a_time_asked_each_time(fake_tasks: FakeTasks) -> None:
    most = 2
    scores: Any = _scores(SHAPES, fake_tasks.submit, lambda: most)
    async with aclosing(scores):
        first = asyncio.ensure_future(anext(scores))
        await fake_tasks.until_begun(2)
        most = 3
        fake_tasks.references[1].set_result("b")
        assert await first == "b"  # as they end
        second = asyncio.ensure_future(anext(scores))
        await fake_tasks.until_begun(4)
        fake_tasks.references[0].set_result("a")
        assert await second == "a"
    assert fake_tasks.begun == SHAPES[:4]
    assert fake_tasks.cancelled == fake_tasks.references[2:]


async def test_cancelling_who_waits_cancels_what_is_in_flight(fake_tasks: FakeTasks) -> None:
    async def collect() -> None:
        async with aclosing(_scores(SHAPES, fake_tasks.submit, lambda: 2)) as scores:
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
    scores = _scores(SHAPES, fake_tasks.submit, lambda: 2)
    asked = asyncio.ensure_future(anext(scores))
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
    assert told["nice"] == [19, 19]


class FakeRecognizerWorker:
    """Knows ``known``; keeps them all until it is told otherwise."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = set(known)
        self.loaded: set[str] = set()
        self.forgotten: list[str] = []

    async def load(self, recognizer_id: str) -> None:
        if recognizer_id not in self.known:
            raise RecognizerNotFound(f"no recognizer {recognizer_id!r}")
        self.loaded.add(recognizer_id)

    async def recognize(self, recognizer_id: str, probes: Any, threshold: float) -> str:
        assert recognizer_id in self.loaded
        return f"{recognizer_id}: {probes} at {threshold:g}"

    def forget(self, recognizer_id: str) -> None:
        self.loaded.discard(recognizer_id)
        self.forgotten.append(recognizer_id)


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
    monkeypatch.delattr(Recognizer, "__del__")
    monkeypatch.setattr("deployments.recognizer.RecognizerWorker", lambda *_, **__: worker)
    few = settings.model_copy(update={"max_loaded_recognizers": 1})
    replica: Any = Recognizer(few, CpuResources())
    assert await replica.recognize("a", "probes", 0.4) == "a: probes at 0.4"
    with pytest.raises(RecognizerNotFound, match="no recognizer 'missing'"):
        await replica.recognize("missing", "probes", 0.4)
    (cache,) = told_to_serve
    assert cache._get_loading_and_loaded_model_ids() == ["a"]
    assert (worker.loaded, worker.forgotten) == ({"a"}, [])
    await replica.forget("a")
    assert worker.loaded == set()
    worker.known.clear()
    with pytest.raises(RecognizerNotFound):
        await replica.recognize("a", "probes", 0.4)


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
