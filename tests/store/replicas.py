"""Matchers as processes of their own, which can be killed, and a socket between them and PostgreSQL
that can be frozen and cut."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from facegraph.graph import Query
from facegraph.types import Consistency, FloatArray, SearchResult
from tests.store.making import CONTRACT
from tests.store.replica_process import frame, read_frame

_SOCKET = ".s.PGSQL.5432"
_PIECE = 4096


class Killed(Exception):
    """The replica is gone, and with it the call."""


class Replica:
    """One process; every call raises what it raised there, or Killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[Any, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting["ready"] = self._ready
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        url: str,
        *,
        writer_url: str | None = None,
        shift_s: float = 0,
        folder: Path | None = None,
        **tuning: Any,
    ) -> Replica:
        """Returns when its galleries are loaded (law 5).

        shift_s: by how much its clock is wrong; tuning: other than the default
        """
        plan = {
            "url": url,
            "writer_url": writer_url or url,
            "shift_s": shift_s,
            "folder": None if folder is None else str(folder),
            "tuning": {"poll_interval_s": 0.1, "catch_up_timeout_s": 30} | tuning,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.store.replica_process",
            json.dumps(plan),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        replica = cls(process)
        await replica._ready
        return replica

    @property
    def pid(self) -> int:
        return self._process.pid

    async def match(
        self, probes: FloatArray, *, limit: int = 100, consistency: Consistency = "strong"
    ) -> SearchResult:
        """A search of ``default``."""
        query = Query(limit, consistency)
        found: SearchResult = await self.call("match", "default", CONTRACT.id, probes, query)
        return found

    async def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """What that method answers there."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        if self._reader.done():
            raise Killed
        self._process.stdin.write(frame((number, name, args, kwargs)))
        try:
            fine, outcome = await future
        finally:
            self._waiting.pop(number, None)
        if not fine:
            raise outcome
        return outcome

    async def kill(self) -> None:
        """``kill -9``, in the middle of whatever it does."""
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reader

    async def close(self) -> None:
        """Lets it end by itself; it must."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert await asyncio.wait_for(self._process.wait(), 30) == 0
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                number, outcome = await read_frame(self._process.stdout)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result(outcome)
        except (asyncio.IncompleteReadError, ConnectionError):
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Killed())


@asynccontextmanager
async def replicas(*plans: dict[str, Any]) -> AsyncIterator[list[Replica]]:
    """One for each plan; whoever is in the list at the end is ended."""
    running = list(await asyncio.gather(*(Replica.start(**plan) for plan in plans)))
    try:
        yield running
        for replica in running:
            await replica.call("check")
    finally:
        await asyncio.gather(*(replica.close() for replica in running))


class Wire:
    """Stands between a replica and the database: bytes pass, or they do not."""

    def __init__(self, server_url: str, folder: Path) -> None:
        given = conninfo_to_dict(server_url)
        self._behind = Path(str(given["host"])) / _SOCKET
        self._socket = folder / _SOCKET
        self.url = make_conninfo("", **(given | {"host": str(folder)}))
        self._flows = asyncio.Event()
        self._flows.set()
        self._cut_after: int | None = None
        self._strand_after: int | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._carry, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Nothing passes, and nobody is told: what a dead cable looks like."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def strand(self) -> None:
        """The connections there are stay frozen for ever; new ones are fine."""
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Every connection breaks; new ones are fine."""
        for writer in self._open.values():
            self.cuts += 1
            writer.transport.abort()

    def cut_after(self, size: int) -> None:
        """The next connection to have brought ``size`` bytes from the database breaks there."""
        self._cut_after = size

    def strand_after(self, size: int) -> None:
        """As :meth:`strand`, once a connection has brought ``size`` bytes from the database."""
        self._strand_after = size

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        flows = self._flows
        try:
            await flows.wait()
            near, far = await asyncio.open_unix_connection(self._behind)
            try:
                up = self._pump(reader, far, flows, down=False)
                down = self._pump(near, writer, flows, down=True)
                pumps = [asyncio.create_task(pump) for pump in (up, down)]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                far.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the database is gone, or the test ends: the replica finds its connection closed
        finally:
            writer.transport.abort()
            del self._open[task]

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        flows: asyncio.Event,
        *,
        down: bool,
    ) -> None:
        passed = 0
        while piece := await source.read(_PIECE):
            await flows.wait()
            passed += len(piece)
            if down and self._strand_after is not None and passed > self._strand_after:
                self._strand_after = None
                self.strand()
                await flows.wait()
            if down and self._cut_after is not None and passed > self._cut_after:
                self._cut_after = None
                self.cuts += 1
                return
            sink.write(piece)
            await sink.drain()


@contextmanager
def paused(postmaster: int) -> Iterator[None]:
    """SIGSTOP to a PostgreSQL with all its processes, then SIGCONT."""
    main = psutil.Process(postmaster)
    main.suspend()
    stopped = [main, *main.children(recursive=True)]
    for process in stopped[1:]:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(stopped):
            process.resume()
