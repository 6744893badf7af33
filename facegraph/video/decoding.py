"""Videos in work beside the event loop: a few threads, and an end when nobody waits any more.

A body is made a step at a time, each step in a thread, and no step begins before the client took
what the last one made: a slow client holds no thread and no frames.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from facegraph.errors import Overloaded
from facegraph.offload import Offload
from facegraph.video.reading import Source, open_video
from facegraph.video.sampling import Bounds, Sampler, Sampling

DECODING = 2
"""Videos that are decoded at the same time."""


class Stopped(Exception):
    """Nobody waits for the video any more."""


Check = Callable[[], None]
"""Raises Stopped once nobody waits."""

Make = Callable[[Check], Generator[bytes, None, None]]
"""Makes the steps."""


class Watched:
    """A file whose reading ends when nobody waits, also where no frame comes of it."""

    def __init__(self, file: Source, check: Check) -> None:
        self._file, self._check = file, check
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1, /) -> bytes:
        self._check()
        return self._file.read(size)


def extraction(
    file: Source, asked: Sampling, bounds: Bounds, write: Callable[[Sampler], Iterator[bytes]]
) -> Make:
    """Opens the video and writes the frames asked for. For what it raises see Sampler."""

    def make(check: Check) -> Generator[bytes, None, None]:
        with open_video(Watched(file, check), max_pixels=bounds.max_pixels) as video:
            yield from write(Sampler(video, asked, bounds, check))

    return make


class VideosInWork:
    """The requests that bring a video, and the threads that decode."""

    def __init__(self) -> None:
        self._count = 0
        self._threads = Offload(threads=DECODING, waiting=1000)  # the admitted ones wait, no others

    @contextmanager
    def admit(self, most: int) -> Iterator[None]:
        """Counts a request; Overloaded when ``most`` are in work. On the event loop."""
        if self._count >= most:
            raise Overloaded(f"{self._count} videos are in work")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def body(self, make: Make) -> Body:
        """A body of ``make``'s steps. What the first one raises is raised here."""
        body = Body(make, self._threads)
        try:
            await body.begin()
        except BaseException:
            body.close()
            raise
        return body


class Body:
    """Bytes as they are made. Closed from any thread at any time."""

    def __init__(self, make: Make, threads: Offload) -> None:
        self._stop = threading.Event()
        self._stepping = threading.Lock()
        self._steps = make(self._check)
        self._threads = threads
        self._first: bytes | None = None

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        chunk, self._first = self._first, None
        if chunk is None:
            chunk = await self._threads.run(self._step)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def begin(self) -> None:
        self._first = await self._threads.run(self._step)

    def close(self) -> None:
        """Stops the reading: at once, or where a thread is at it, with its frame."""
        self._stop.set()
        if self._stepping.acquire(blocking=False):
            self._steps.close()
            self._stepping.release()

    def _step(self) -> bytes | None:
        with self._stepping:
            try:
                return None if self._stop.is_set() else next(self._steps, None)
            finally:
                if self._stop.is_set():
                    self._steps.close()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped
