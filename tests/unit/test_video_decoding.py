"""Bodies are made a step at a time in threads, and end when nobody waits for them."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Generator, Iterator

import pytest

from facegraph.errors import InvalidVideo, Overloaded
from facegraph.video.decoding import Body, Check, Stopped, VideosInWork, Watched, extraction
from facegraph.video.sampling import Bounds, Sampler, Sampling
from tests.video_making import clip

pytestmark = pytest.mark.unit

WIDE = Bounds(max_frames=10_000, max_duration_s=10_000, max_pixels=10_000_000)


class Steps:
    """Steps that can be held up; says what they did."""

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self.made: list[int] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.go_on.set()

    def __call__(self, check: Check) -> Generator[bytes, None, None]:
        try:
            for number in range(self.count):
                self.began.set()
                assert self.go_on.wait(60)
                check()
                self.made.append(number)
                yield str(number).encode()
        finally:
            self.ended.set()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def test_every_step_comes_in_order() -> None:
    body = await VideosInWork().body(Steps(4))
    assert [chunk async for chunk in body] == [b"0", b"1", b"2", b"3"]


async def test_no_step_is_made_before_it_is_asked_for() -> None:
    steps = Steps()
    body = await VideosInWork().body(steps)
    assert steps.made == [0]
    assert [await anext(body), await anext(body)] == [b"0", b"1"]
    assert steps.made == [0, 1]
    body.close()
    assert steps.ended.is_set()


async def test_what_the_first_step_raises_is_raised_at_once() -> None:
    make = extraction(io.BytesIO(b"no video"), Sampling(), WIDE, lambda sampler: iter(()))
    with pytest.raises(InvalidVideo):
        await VideosInWork().body(make)


async def test_nobody_waits_for_the_first_step_any_more() -> None:
    steps = Steps()
    steps.go_on.clear()
    task = asyncio.create_task(VideosInWork().body(steps))
    await until(steps.began)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    steps.go_on.set()
    await until(steps.ended)
    assert steps.made == []


async def test_closing_ends_a_step_under_way() -> None:
    steps = Steps(100)
    body = await VideosInWork().body(steps)
    await anext(body)
    steps.began.clear()
    steps.go_on.clear()
    task = asyncio.create_task(anext(body))
    await until(steps.began)
    body.close()
    steps.go_on.set()
    with pytest.raises(Stopped):
        await task
    assert steps.ended.is_set()
    assert steps.made == [0]


async def test_a_closed_body_gives_nothing() -> None:
    body = await VideosInWork().body(Steps())
    body.close()
    body.close()
    assert [chunk async for chunk in body] == [b"0"]  # was made before


async def test_closing_lets_go_of_the_video() -> None:
    file = io.BytesIO(clip(100))
    opened: list[Sampler] = []

    def write(sampler: Sampler) -> Iterator[bytes]:
        opened.append(sampler)
        for frame in sampler.frames():
            yield str(frame.index).encode()

    body = await VideosInWork().body(extraction(file, Sampling(fps_max=10), WIDE, write))
    assert [await anext(body), await anext(body)] == [b"0", b"1"]
    body.close()
    assert opened[0].indices == [0, 1]


def test_reading_ends_when_nobody_waits_also_without_frames() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Stopped

    noise = clip(30, container="mpegts") + bytes(4_000_000)  # much to read, nothing to decode
    make = extraction(Watched(io.BytesIO(noise), check), Sampling(), WIDE, lambda s: iter(()))
    with pytest.raises(Stopped):
        list(make(lambda: None))


async def test_one_more_video_than_may_be_is_refused() -> None:
    work = VideosInWork()
    with work.admit(2), work.admit(2):
        with pytest.raises(Overloaded, match="2 videos are in work"), work.admit(2):
            pass
        with work.admit(3):
            pass
    with work.admit(1):
        pass


async def test_a_slow_client_holds_no_thread() -> None:
    work = VideosInWork()
    slow: list[Body] = [await work.body(Steps()) for _ in range(10)]
    quick = await work.body(Steps(2))
    assert [chunk async for chunk in quick] == [b"0", b"1"]
    for body in slow:
        body.close()
