"""Stages: what a request waited for, added up by name."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from facegraph import timing
from facegraph.timing import collected, server_timing, stage

pytestmark = pytest.mark.unit


class FakeClock:
    """Goes on by what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    module: Any = SimpleNamespace(perf_counter=fake.perf_counter)
    monkeypatch.setattr(timing, "time", module)
    return fake


def failing(clock: FakeClock) -> None:
    with stage("detect"):
        clock.now += 0.25
        raise ValueError("bad")


def test_a_stage_adds_up_and_counts_when_it_fails(clock: FakeClock) -> None:
    with collected() as times:
        with stage("detect"):
            clock.now += 0.5
        with stage("embed"):
            clock.now += 0.125
        with pytest.raises(ValueError, match="bad"):
            failing(clock)
    assert times == {"detect": 0.75, "embed": 0.125}
    assert server_timing(times) == "detect;dur=750.0, embed;dur=125.0"


def test_nobody_collects(clock: FakeClock) -> None:
    with stage("detect"):
        clock.now += 1
    with collected() as times:
        pass
    assert times == {}
    assert server_timing(times) == ""


async def test_tasks_report_to_the_request_that_began_them(clock: FakeClock) -> None:
    async def request(name: str) -> dict[str, float]:
        async def part() -> None:
            with stage(name):
                await asyncio.sleep(0)

        with collected() as times:
            async with asyncio.TaskGroup() as group:
                group.create_task(part())
                group.create_task(part())
        return times

    first, second = await asyncio.gather(request("a"), request("b"))
    assert [list(first), list(second)] == [["a"], ["b"]]
