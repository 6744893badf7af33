"""``ServeGraph``: every failure of a handle becomes an error of ours. No cluster is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments import graph
from deployments.graph import Handles, ServeGraph
from facegraph.errors import (
    FacegraphError,
    InvalidImage,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    TimedOut,
    Unavailable,
)
from facegraph.types import CaptionOptions, Detection, Faces, Segmentation, SegmentOptions

pytestmark = pytest.mark.serve

LOST = grpc.aio.AioRpcError(
    grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "replica stopped"
)

DETECTION = Detection(4, 3, Faces.empty(), np.zeros((0, 112, 112, 3), np.uint8), 0)


class FakeHandle:
    """Answers each call with the next of ``outcomes``: raised when an exception, else returned."""

    deployment_name = "detector"

    def __init__(self, *outcomes: Any, replicas: Sequence[Any] = ()) -> None:
        self.outcomes = list(outcomes)
        self.replicas = list(replicas)
        self.calls: list[tuple[Any, ...]] = []

    def options(self, **_: Any) -> FakeHandle:
        return self

    def broadcast(self, *call: Any) -> FakeHandle:
        self.calls.append(call)
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        return self.replicas

    async def remote(self, *args: Any) -> Any:
        self.calls.append(args)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return await outcome() if callable(outcome) else outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PAUSE_S", 0.0)


def make(handle: FakeHandle, timeout_s: float = 30.0) -> ServeGraph:
    any_handle = cast(Any, handle)
    return ServeGraph(Handles(*[any_handle] * 5), timeout_s)


def task_error(cause: Exception) -> Exception:
    """``cause`` as it comes over a handle."""
    wrapped: Exception = RayTaskError("detect", "traceback", cause).as_instanceof_cause()
    return wrapped


async def test_the_result_is_passed_on_with_positional_arguments() -> None:
    handle = FakeHandle(DETECTION)
    assert await make(handle).detect(b"image", max_faces=3, crops=True) is DETECTION
    assert handle.calls == [(b"image", 3, True, None, False)]


async def test_our_error_arrives_as_it_was_raised() -> None:
    sent = InvalidImage("not an image", ({"index": 0},))
    with pytest.raises(InvalidImage) as caught:
        await make(FakeHandle(task_error(sent))).detect(b"", max_faces=1, crops=False)
    assert type(caught.value) is InvalidImage
    assert caught.value.args == ("not an image", ({"index": 0},))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (lambda: task_error(ValueError("a bug")), FacegraphError),
        (lambda: BackPressureError(10, 10), Overloaded),
        (lambda: DeploymentUnavailableError(cast(Any, "detector")), ModelUnavailable),
    ],
)
async def test_a_failure_that_a_second_try_would_meet_again(
    outcome: Callable[[], Exception], expected: type[Exception]
) -> None:
    handle = FakeHandle(outcome())
    with pytest.raises(FacegraphError) as caught:
        await make(handle).detect(b"", max_faces=1, crops=False)
    assert type(caught.value) is expected
    assert len(handle.calls) == 1


@pytest.mark.parametrize(
    "lost", [ActorDiedError(), ActorUnavailableError("gone", None), LOST], ids=repr
)
async def test_a_lost_replica_is_tried_again(lost: Exception) -> None:
    handle = FakeHandle(lost, lost, DETECTION)
    assert await make(handle).detect(b"", max_faces=1, crops=False) is DETECTION


async def test_a_call_that_loses_every_replica_is_given_up() -> None:
    handle = FakeHandle(*[ActorDiedError()] * 9)
    with pytest.raises(ModelUnavailable, match="being replaced"):
        await make(handle).detect(b"", max_faces=1, crops=False)
    assert len(handle.calls) == graph.ATTEMPTS


async def test_a_call_ends_with_its_time() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimedOut, match=r"detector did not answer within 0\.01 s"):
        await make(FakeHandle(never), timeout_s=0.01).detect(b"", max_faces=1, crops=False)


SEEN = Segmentation(
    4, 3, (), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), (), "some-model"
)


async def test_the_segmenter_gets_the_model_that_was_chosen() -> None:
    handle = FakeHandle(SEEN, SEEN)
    options = SegmentOptions(3, 0.5)
    assert await make(handle).segment(b"image", options) is SEEN
    assert await make(handle).segment(b"image", options, "yolact_base") is SEEN
    assert handle.calls == [(b"image", options, None), (b"image", options, "yolact_base")]


async def test_without_a_replica_the_model_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "COLD_AFTER_S", 0.01)
    ended: list[bool] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    handle = FakeHandle(never)
    with pytest.raises(ModelUnavailable, match="is starting; try again"):
        await make(handle).caption(b"", CaptionOptions())
    await asyncio.sleep(0)
    assert ended == [True]


async def test_a_slow_replica_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "COLD_AFTER_S", 0.01)

    async def slow() -> Segmentation:
        await asyncio.sleep(0.05)
        return SEEN

    handle = FakeHandle(slow, replicas=[{"replica": "a"}])
    assert await make(handle).segment(b"", SegmentOptions()) is SEEN


class FakeHungHandle(FakeHandle):
    """A deployment whose replicas do not answer."""

    async def results_async(self, **_: Any) -> list[Any]:
        raise TimeoutError


@pytest.mark.parametrize(
    ("hung", "fails"),
    [("detector", True), ("segmenter", False), ("captioner", False), ("jobs", False)],
)
async def test_vision_that_hangs_is_described_and_the_rest_is_ready(hung: str, fails: bool) -> None:
    handles: dict[str, Any] = {
        name: FakeHandle(replicas=[{"replica": name}]) for name in Handles._fields
    }
    handles[hung] = FakeHungHandle()
    serve_graph = ServeGraph(Handles(**handles), 30.0)
    if fails:
        with pytest.raises(TimedOut):
            await serve_graph.describe()
        return
    described = await serve_graph.describe()
    assert described["detector"] == [{"replica": "detector"}]
    assert described[hung] == [{"loaded": [], "problem": f"the {hung} did not answer within 4 s"}]


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([None, None], None),
        ([None, ActorDiedError()], None),  # what comes in its place is told by every request
        ([ActorDiedError()], Unavailable),
        ([], Unavailable),
        ([None, task_error(RuntimeError("CUDA error"))], FacegraphError),
        ([None, task_error(InvalidRequest("no such model"))], InvalidRequest),
    ],
)
async def test_a_switch_needs_every_replica(
    replicas: list[Any], expected: type[Exception] | None
) -> None:
    handle = FakeHandle(replicas=replicas)
    switch = make(handle).load_segmenter("yolact_base")
    if expected is None:
        await switch
    else:
        with pytest.raises(expected) as caught:
            await switch
        assert type(caught.value) is expected
    assert handle.calls == [("load", "yolact_base")]
