"""``Calls``: several requests in one call, and none of them harms another. No cluster is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError

from deployments import calls
from deployments.calls import Calls, Most, Request, outcomes, running_replicas
from facegraph.errors import (
    FacegraphError,
    InvalidImage,
    ModelUnavailable,
    Overloaded,
    TimedOut,
)

pytestmark = pytest.mark.serve


class FakeReplica:
    """Doubles numbers; a negative one is refused, a zero kills it, and it waits while held."""

    deployment_name = "doubler"

    def __init__(self, replicas: int = 1) -> None:
        self.asked: list[list[int]] = []
        self.hangs: set[int] = set()
        self.free = asyncio.Event()
        self.free.set()
        inner = SimpleNamespace(curr_replicas=range(replicas))
        self._router = SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=inner))

    async def remote(self, requests: Sequence[Request]) -> list[Any]:
        numbers = [number for (number,) in requests]
        self.asked.append(numbers)
        if self.hangs.intersection(numbers):
            await asyncio.Event().wait()
        await self.free.wait()
        if 0 in numbers:
            raise ActorDiedError
        return await outcomes(self._double(number) for number in numbers)

    async def _double(self, number: int) -> int:
        if number < 0:
            raise InvalidImage(f"{number} is negative")
        return 2 * number


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSE_S", 0.0)


A_FEW = Most(4, 100)


def make(replica: FakeReplica, most: Most = A_FEW, timeout_s: float = 30.0) -> Calls:
    return Calls(cast(Any, replica), most, lambda _: 1, timeout_s=timeout_s)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def one_by_one(double: Calls, *numbers: int) -> list[asyncio.Task[int]]:
    """Asked for in turns of their own."""
    asked = []
    for number in numbers:
        asked.append(asyncio.create_task(double(number)))
        await _settle()
    return asked


async def test_a_lone_request_goes_at_once_and_what_waits_goes_together() -> None:
    replica = FakeReplica()
    replica.free.clear()
    double = make(replica)
    first = await one_by_one(double, 1, 2)
    assert replica.asked == [[1], [2]]  # two calls to a replica
    others = [asyncio.create_task(double(number)) for number in range(3, 9)]
    await _settle()
    assert replica.asked == [[1], [2]]
    replica.free.set()
    assert await asyncio.gather(*first, *others) == [2 * number for number in range(1, 9)]
    assert replica.asked[2:] == [[3, 4, 5, 6], [7, 8]]


async def test_every_replica_has_room_for_two_calls() -> None:
    replica = FakeReplica(replicas=3)
    replica.free.clear()
    double = make(replica)
    asked = [asyncio.create_task(double(number)) for number in range(1, 8)]
    await _settle()
    assert replica.asked == [[1, 2, 3], [4, 5, 6], [7]]  # shared by three
    asked += await one_by_one(double, *range(8, 13))
    assert replica.asked[3:] == [[8], [9], [10]]
    assert running_replicas(cast(Any, replica)) == 3
    replica.free.set()
    assert await asyncio.gather(*asked) == [2 * number for number in range(1, 13)]


async def test_a_replica_that_works_on_several_gets_as_many_and_one_more() -> None:
    replica = FakeReplica()
    replica.free.clear()
    double = Calls(cast(Any, replica), A_FEW, lambda _: 1, timeout_s=30.0, at_once=3)
    asked = await one_by_one(double, 1, 2, 3, 4, 5, 6)
    assert replica.asked == [[1], [2], [3], [4]]
    replica.free.set()
    assert await asyncio.gather(*asked) == [2, 4, 6, 8, 10, 12]
    assert replica.asked[4:] == [[5, 6]]


@pytest.mark.parametrize(
    "handle",
    [
        SimpleNamespace(_router=None),  # never used
        SimpleNamespace(_router=SimpleNamespace(_asyncio_router=None)),
        FakeReplica(replicas=0),  # of a deployment that is scaled to nothing
        SimpleNamespace(
            _router=SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=None))
        ),  # who runs has not been told yet
    ],
)
def test_a_handle_that_knows_of_none_sends_as_to_one(handle: Any) -> None:
    assert running_replicas(handle) == 1


async def test_an_error_is_its_own_requests() -> None:
    results = await asyncio.gather(*map(make(FakeReplica()), (1, -2, 3)), return_exceptions=True)
    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], InvalidImage)
    assert str(results[1]) == "-2 is negative"


async def test_a_request_that_kills_its_replica_takes_no_other_with_it() -> None:
    replica = FakeReplica()
    replica.free.clear()
    double = make(replica)
    asked = await one_by_one(double, 7, 8)
    asked += [asyncio.create_task(double(number)) for number in (1, 0, 2)]
    await _settle()
    replica.free.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [*results[:3], results[4]] == [14, 16, 2, 4]
    assert isinstance(results[3], ModelUnavailable)
    assert [1, 0, 2] in replica.asked
    assert replica.asked.count([0]) == calls.ATTEMPTS


async def test_a_client_that_leaves_harms_nobody() -> None:
    replica = FakeReplica()
    replica.free.clear()
    double = make(replica)
    asked = await one_by_one(double, 1, 2, 3, 4)
    asked[0].cancel()  # under way
    asked[3].cancel()  # or waiting
    replica.free.set()
    assert [await asked[1], await asked[2]] == [4, 6]


async def test_a_call_that_hangs_stops_no_other_and_ends_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.0)
    replica = FakeReplica()
    replica.hangs = {1}
    double = make(replica, timeout_s=0.2)
    (hung,) = await one_by_one(double, 1)
    for number in (2, 3, 4):  # the two places would be one
        assert await double(number) == 2 * number
    replica.free.clear()
    both = await one_by_one(double, 5, 6)
    assert replica.asked[-2:] == [[5], [6]]
    replica.free.set()
    assert await asyncio.gather(*both) == [10, 12]
    with pytest.raises(TimedOut, match=r"the doubler did not answer within 0\.2 s"):
        await hung


async def test_another_key_has_room_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MANY_KEYS", 2)
    replica = FakeReplica()
    replica.hangs = {1, 3}
    double = Calls(
        cast(Any, replica), A_FEW, lambda _: 1, timeout_s=30.0, key=lambda request: request[0] % 2
    )
    hung = await one_by_one(double, 1, 3, 5)
    assert replica.asked == [[1], [3]]  # 5 waits for room
    assert list(await asyncio.gather(double(2), double(4))) == [4, 8]
    assert replica.asked[2:] == [[2, 4]]
    for task in hung:
        task.cancel()


async def test_keys_that_are_not_used_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MANY_KEYS", 4)
    double = Calls(
        cast(Any, FakeReplica()), A_FEW, lambda _: 1, timeout_s=30.0, key=lambda request: request
    )
    for number in range(1, 30):
        assert await double(number) == 2 * number
        await _settle()
        assert len(double._batchers) <= 4


async def test_what_waits_is_bounded() -> None:
    replica = FakeReplica()
    replica.free.clear()
    double = make(replica, Most(4, 2))
    asked = await one_by_one(double, 1, 2, 3, 4)
    with pytest.raises(Overloaded):
        await double(9)
    replica.free.set()
    assert await asyncio.gather(*asked) == [2, 4, 6, 8]


async def test_a_bug_becomes_an_error_of_ours_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def buggy() -> None:
        raise ValueError("a bug")

    async def fine() -> str:
        return "fine"

    first, second = await outcomes([buggy(), fine()])
    assert type(first) is FacegraphError
    assert second == "fine"
    assert "ValueError: a bug" in caplog.text
