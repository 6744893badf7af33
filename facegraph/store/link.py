"""The connections to the database that is the truth now: follows moves, heals, maps failures.

Whatever fails before COMMIT is sent has changed nothing, so a piece of work whose connection is
lost is tried once more on a fresh one. A lost COMMIT has an unknown outcome and is never
repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from facegraph.errors import DatabaseError, InvalidRequest, StoreUnavailable
from facegraph.store import connecting, moving
from facegraph.store.connecting import (
    BlockingConnection,
    Connection,
    configure,
    connect,
    connect_blocking,
    connection_string,
)
from facegraph.store.failures import FAILURES, Progress, one_line, say, worth_a_retry
from facegraph.store.migrations import migrate
from facegraph.store.moving import Moved, Place
from facegraph.store.silence import Heard, bounded, watched

log = logging.getLogger(__name__)

T = TypeVar("T")
Pool = AsyncConnectionPool[Connection]
Heal = Callable[[], Awaitable[None]]

_MAX_HOPS = 16
_POOL_TIMEOUT_S = 5.0
_OPEN_TIMEOUT_S = 10.0
_WAITING_PER_CONNECTION = 64

WRITE_PATIENCE_S = 660.0
"""As READ_PATIENCE_S, where statements are given the time that erasing a collection takes."""


class Link:
    """A pool that can be replaced; used on one event loop.

    ``heal`` is awaited before a lost connection is tried again: it may start a server.
    """

    def __init__(self, url: str, *, pool_size: int, heal: Heal | None) -> None:
        self._place = Place(url)
        self._pool_size = pool_size
        self._heal = heal
        self._pool: Pool | None = None
        self._replacing = asyncio.Lock()
        self._last_success = self._last_failure = float("-inf")
        self._retiring: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Migrates and connects, at the end of the chain of moves; raises DatabaseError."""
        try:
            self._place, self._pool = await self._connect(self._place)
        except psycopg.Error as error:
            raise DatabaseError(f"cannot reach the database: {one_line(error)}") from error

    async def close(self) -> None:
        """Closes every connection as its work ends; new work is refused."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs ``work`` in one consistent snapshot of the truth."""

        async def attempt(pool: Pool, progress: Progress) -> T:
            async with pool.connection() as connection:
                with progress.on(connection), bounded(connection, connecting.READ_PATIENCE_S):
                    async with connection.transaction():
                        await connection.execute(
                            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
                        )
                        await moving.require_here(connection)
                        return await work(connection)

        return await self._run(attempt)

    async def read_statement(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """As :meth:`read`, for one statement that takes the pointer along (see moving)."""

        async def attempt(pool: Pool, progress: Progress) -> T:
            async with pool.connection() as connection:
                with progress.on(connection), bounded(connection, connecting.READ_PATIENCE_S):
                    return await work(connection)

        return await self._run(attempt)

    async def read_in_thread(
        self, work: Callable[[BlockingConnection, Heard], T], *, patience_s: float | None = None
    ) -> T:
        """As :meth:`read`, for work that would hold up the event loop.

        patience_s: how long ``work`` may go without telling that something came
        """

        def blocking(url: str, progress: Progress) -> T:
            with (
                connect_blocking(url) as connection,
                progress.on(connection),
                watched(connection, patience_s) as heard,
            ):
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                with connection.transaction():
                    moving.require_here_blocking(connection)
                    return work(connection, heard)

        async def attempt(_: Pool, progress: Progress) -> T:
            return await asyncio.to_thread(blocking, self._place.url, progress)

        return await self._run(attempt)

    async def write(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs ``work`` in one transaction on the truth; answers after its commit."""

        async def attempt(pool: Pool, progress: Progress) -> T:
            async with pool.connection() as connection:
                with progress.on(connection), bounded(connection, WRITE_PATIENCE_S):
                    async with connection.transaction():
                        await moving.lock_for_write(connection)
                        result = await work(connection)
                        progress.committing = True
                    return result

        return await self._run(attempt)

    async def dedicated(self) -> Connection:
        """A connection to the truth outside the pool; the caller closes it."""

        async def attempt(_: Pool, progress: Progress) -> Connection:
            connection = await connect(self._place.url)
            try:
                with progress.on(connection), bounded(connection, connecting.READ_PATIENCE_S):
                    await moving.require_here(connection)
            except BaseException:
                await connection.close()
                raise
            return connection

        return await self._run(attempt)

    async def move(self, url: str) -> None:
        """Makes the migrated database at ``url`` the truth, for every process, or fails."""

        async def attempt(pool: Pool, progress: Progress) -> None:
            async with pool.connection() as connection:
                with progress.on(connection), bounded(connection, WRITE_PATIENCE_S):
                    async with await connect(url) as target, connection.transaction():
                        await moving.lock_for_move(connection)
                        await moving.point(connection, target, url)
                        progress.committing = True

        await self._run(attempt)
        await self.read(moving.require_here)  # follow at once, and see that it answers

    async def _run(self, attempt: Callable[[Pool, Progress], Awaitable[T]]) -> T:
        began, hops, retried = time.monotonic(), 0, False
        while True:
            pool, progress = self._pool, Progress()
            if pool is None:
                raise StoreUnavailable("the store is closed")
            try:
                result = await attempt(pool, progress)
                self._last_success = time.monotonic()
                return result
            except Moved as moved:
                if (hops := hops + 1) > _MAX_HOPS:
                    raise StoreUnavailable("the database was moved too often") from None
                await self._follow(pool, moved.place)
            except psycopg.DataError as error:
                raise InvalidRequest(f"a value cannot be stored: {one_line(error)}") from error
            except FAILURES as error:
                if progress.committing:
                    raise StoreUnavailable(
                        "the database was lost during commit: whether the change took effect is "
                        "unknown; read before trying again"
                    ) from error
                serves = time.monotonic() - self._last_success < _POOL_TIMEOUT_S
                if retried or not worth_a_retry(error, progress, pool_serves=serves):
                    raise StoreUnavailable(say(error)) from error
                retried = True
                await self._reconnect(pool, began)

    async def _follow(self, pool: Pool, place: Place) -> None:
        async with self._replacing:
            if self._pool is pool:
                log.info("the database was moved; following")
                await self._replace(place)

    async def _reconnect(self, pool: Pool, began: float) -> None:
        async with self._replacing:
            if self._pool is not pool:
                return
            if self._last_failure >= began:  # somebody tried while we waited for the lock
                raise StoreUnavailable("the database does not answer")
            log.warning("the database does not answer; connecting again")
            try:
                if self._heal is not None:
                    await self._heal()
                await self._replace(self._place)
            except (StoreUnavailable, DatabaseError) as error:
                self._last_failure = time.monotonic()
                raise StoreUnavailable(str(error)) from error

    async def _replace(self, place: Place) -> None:
        old = self._pool
        try:
            self._place, self._pool = await self._connect(place)
        except (psycopg.Error, DatabaseError) as error:
            raise StoreUnavailable(say(error)) from error
        if old is not None:
            task = asyncio.create_task(old.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _connect(self, place: Place) -> tuple[Place, Pool]:
        for _ in range(_MAX_HOPS):
            await migrate(place.url)
            try:
                async with await connect(place.url) as connection:
                    with bounded(connection, connecting.READ_PATIENCE_S):
                        await moving.arrive(connection, place.epoch)
            except Moved as moved:
                place = moved.place
                continue
            return place, await self._open_pool(place.url)
        raise DatabaseError("the database was moved too often to follow")

    async def _open_pool(self, url: str) -> Pool:
        pool: Pool = AsyncConnectionPool(
            connection_string(url),
            kwargs={"autocommit": True},
            min_size=1,
            max_size=self._pool_size,
            timeout=_POOL_TIMEOUT_S,
            max_waiting=self._pool_size * _WAITING_PER_CONNECTION,
            configure=configure,
            open=False,
        )
        try:
            await pool.open(wait=True, timeout=_OPEN_TIMEOUT_S)
        except BaseException:
            await pool.close()
            raise
        return pool
