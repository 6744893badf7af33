"""``ServeGraph``: every failure of a handle becomes an error of ours. No cluster is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments import graph
from deployments.graph import ServeGraph
from deployments.vision import Vision
from facegraph.errors import (
    FacegraphError,
    InvalidImage,
    ModelUnavailable,
    Overloaded,
    TimedOut,
)
from facegraph.types import Detection, Faces

pytestmark = pytest.mark.serve

LOST = grpc.aio.AioRpcError(
    grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "replica stopped"
)

DETECTION = Detection(4, 3, Faces.empty(), np.zeros((0, 112, 112, 3), np.uint8), 0)


class FakeHandle:
    """Answers each call with the next of ``outcomes``: raised when an exception, else returned."""

    deployment_name = "detector"

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []

    def options(self, **_: Any) -> FakeHandle:
        return self

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
    return ServeGraph(any_handle, any_handle, any_handle, Vision(), timeout_s)


def task_error(cause: Exception) -> Exception:
    """``cause`` as it comes over a handle."""
    wrapped: Exception = RayTaskError("detect", "traceback", cause).as_instanceof_cause()
    return wrapped


async def test_the_result_is_passed_on_with_positional_arguments() -> None:
    handle = FakeHandle(DETECTION)
    assert await make(handle).detect(b"image", max_faces=3, crops=True) is DETECTION
    assert handle.calls == [(b"image", 3, True)]


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


async def test_vision_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelUnavailable, match="captioning"):
        await make(FakeHandle()).caption(b"")
    with pytest.raises(ModelUnavailable, match="segmentation"):
        await make(FakeHandle()).segment(b"")
