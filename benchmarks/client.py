"""A light HTTP/1.1 client: it takes its time from the cores of what it measures.

Requests are made once, as bytes; connections stay open; answers are only cut out of the stream
while a turn runs, and looked at after it. A request costs about 0.1 ms of CPU.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httptools

T = TypeVar("T")

ANSWER_TIMEOUT_S = 120
WARM_S = 1.0
"""At least, of a turn, before it counts: who was stopped has timers that are all due at once."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 0: the connection was lost, and ``body`` says how."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: its place among the requests, when the answer had come, how long it took."""

    place: int
    ended: float
    took_s: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class Traffic:
    """What ended within a turn of ``seconds``; the client's and the server's CPU seconds in it."""

    exchanges: tuple[Exchange, ...]
    seconds: float
    client_cpu_s: float
    server_cpu_s: float


def post(path: str, body: bytes, content_type: str, more: str = "") -> bytes:
    """A whole request; ``more`` are header lines, each with its line end."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection, kept alive; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._lost: Exception | None = None
        self._last = False
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    @classmethod
    async def open(cls, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """The answer to ``request``; ConnectionError when the connection ends before it."""
        self.send(request)
        return await self.answer()

    def send(self, part: bytes) -> None:
        """A request, or a part of one; ConnectionError where nobody would get it."""
        if self._lost is not None or self._transport is None:
            raise ConnectionError("the connection was closed") from self._lost
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(part)

    async def answer(self) -> Answer:
        if self._answer is None:
            raise RuntimeError("nothing was asked")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._answer
        finally:
            self._answer = None

    @property
    def usable(self) -> bool:
        """Whether the server lets it be used once more."""
        return self._lost is None and not self._last

    def close(self) -> None:
        """At once; who waits for an answer is cancelled."""
        if self._answer is not None:
            self._answer.cancel()
        if self._transport is not None:
            self._transport.abort()

    # What asyncio and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.connection_lost(ConnectionError(f"no HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("closed by the server")
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(self._lost)))

    def on_message_begin(self) -> None:
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            status = self._parser.get_status_code()
            self._last = not self._parser.should_keep_alive()
            self._answer.set_result(Answer(status, b"".join(self._body)))


class _Clients:
    """``count`` connections, spread over ``ports``, that ask without pause until it is ``over``."""

    def __init__(self, ports: Sequence[int], requests: Sequence[bytes], count: int) -> None:
        self.exchanges: list[Exchange] = []
        self.all_warm = asyncio.Event()
        self.over = False
        self._ports, self._requests = ports, requests
        self._cold = set(range(count))

    async def ask(self, number: int) -> None:
        connection = await self._open(number)
        for asked in itertools.count(number):
            if self.over:
                break
            self.exchanges.append(await self._exchange(connection, asked % len(self._requests)))
            if not connection.usable:
                connection.close()
                connection = await self._open(number)
            self._cold.discard(number)
            if not self._cold:
                self.all_warm.set()
        connection.close()

    async def _open(self, number: int) -> Connection:
        return await Connection.open(self._ports[number % len(self._ports)])

    async def _exchange(self, connection: Connection, place: int) -> Exchange:
        began = time.perf_counter()
        try:
            answer = await connection.ask(self._requests[place])
        except (ConnectionError, TimeoutError) as error:
            answer = Answer(0, str(error).encode())
        ended = time.perf_counter()
        return Exchange(place, ended, ended - began, answer)


async def traffic(
    ports: Sequence[int],
    requests: Sequence[bytes],
    clients: int,
    seconds: float,
    server_cpu_s: Callable[[], float] = lambda: 0.0,
    *,
    warm_s: float = WARM_S,
) -> Traffic:
    """``clients`` connections, spread over ``ports``, that ask without pause.

    They are opened together, and the turn begins when each has had an answer, after ``warm_s`` at
    the earliest. What is on its way at the end is waited for, so that it costs no one else's turn,
    and does not count.
    """
    asking = _Clients(ports, requests, clients)
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(asking.ask(number))
        await asyncio.sleep(warm_s)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await asking.all_warm.wait()
        cpu, own, start = server_cpu_s(), time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        end = time.perf_counter()
        own, cpu = time.process_time() - own, server_cpu_s() - cpu
        asking.over = True
    counted = tuple(each for each in asking.exchanges if start <= each.ended <= end)
    return Traffic(counted, end - start, own, cpu)


def run(main: Coroutine[Any, Any, T]) -> T:
    """``main`` on uvloop, which costs the client less."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
