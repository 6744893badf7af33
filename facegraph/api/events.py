"""Server-sent events: an answer that goes on telling, as browsers' ``EventSource`` reads it.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from facegraph.errors import Overloaded, StoreUnavailable

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Nobody on the way may keep or hold back what is told."""

POLL_S = 0.5
KEEP_ALIVE_S = 10.0
LASTS_S = 3600.0
"""Then the stream ends, and the client comes again."""
RETRY_MS = 2000

_END = "-end"
_ID = re.compile(rf"(\d{{1,15}})({_END})?")


@dataclass(frozen=True, slots=True)
class Event:
    """last: nothing more will happen"""

    name: str
    data: Mapping[str, Any]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """What a client saw last, by its ``Last-Event-ID``.

    ended: that was the last event. EventSource comes again after every end, unless it is answered
        204
    """

    number: int = 0
    ended: bool = False

    @classmethod
    def read(cls, header: str | None) -> Position:
        """The beginning, where the header is none of ours."""
        found = _ID.fullmatch(header or "")
        return cls() if found is None else cls(int(found[1]), found[2] is not None)


class Slots:
    """Answers that take no place among requests, and are bounded by themselves."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0

    @contextmanager
    def admit(self, most: int) -> Iterator[None]:
        """Counts one; Overloaded when there are ``most``."""
        if self._count >= most:
            raise Overloaded(f"{self._count} {self._what} are open")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class EventStreams(Slots):
    """The streams that are open: they end when the app does."""

    def __init__(self) -> None:
        super().__init__("streams of events")
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Every stream ends, within moments."""
        self._closing.set()

    async def closing_within(self, seconds: float) -> bool:
        """Returns as soon as they are closed, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True


Look = Callable[[], Awaitable[Event]]
"""What is so now; StoreUnavailable where that cannot be told."""


async def follow(
    look: Look, first: Event, streams: EventStreams, number: int
) -> AsyncGenerator[bytes]:
    """``first``, which has the number after ``number``, then every other event that ``look`` tells.

    It ends after the last event, after ``LASTS_S``, or with ``streams``. Comments keep the
    connection alive, and go on where the database does not answer.
    """
    clock = asyncio.get_running_loop().time
    begun_at = sent_at = clock()
    told, number = first, number + 1
    yield b"retry: %d\n\n" % RETRY_MS + encoded(told, number)
    while not (told.last or clock() - begun_at >= LASTS_S or await streams.closing_within(POLL_S)):
        event = await _looked(look)
        if event is not None and event != told:
            told, number = event, number + 1
            sent_at = clock()
            yield encoded(told, number)
        elif clock() - sent_at >= KEEP_ALIVE_S:
            sent_at = clock()
            yield b": the database does not answer\n\n" if event is None else b":\n\n"


async def _looked(look: Look) -> Event | None:
    try:
        async with asyncio.timeout(KEEP_ALIVE_S):
            return await look()
    except (StoreUnavailable, TimeoutError):
        return None


def encoded(event: Event, number: int) -> bytes:
    """As it is sent. JSON has no line breaks, so the data are one line."""
    text = json.dumps(event.data, ensure_ascii=False, allow_nan=False)
    end = _END if event.last else ""
    return f"event: {event.name}\nid: {number}{end}\ndata: {text}\n\n".encode()
