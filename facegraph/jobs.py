"""Works on jobs: takes one after the other from the store's queue, under a lease.

A worker that is killed, hangs or loses the database keeps its jobs until their leases run out;
then another begins them anew. So a job may be worked on twice, but its outcome is written once.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from facegraph import tasks
from facegraph.config import JobsTuning
from facegraph.errors import FacegraphError, InvalidRequest, StoreUnavailable, Unavailable
from facegraph.patience import patiently
from facegraph.store import Store
from facegraph.store.jobs import Also
from facegraph.types import Job

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
PRUNE_EVERY_S = 60.0
RETRY_AFTER_S = 5.0
CANCELLED_WITHIN_S = 20.0
"""Work that does not end so long after it was cancelled is left to itself."""


@dataclass(slots=True)
class Work:
    """One job in work, as its handler sees it.

    input: the job's input, a file that has no name: it is gone with the handler, or the process
    """

    job: Job
    input: BinaryIO
    fraction: float = 0.0
    message: str = ""

    async def progress(self, fraction: float, message: str) -> None:
        """Tells how far the work is, 0..1; clients see it within seconds."""
        self.fraction, self.message = min(max(fraction, 0.0), 1.0), message[:200]


@dataclass(frozen=True, slots=True)
class Done:
    """A result, and what is written in the transaction that finishes the job, or not at all.

    also: called once it is certain that the job is still ours; may be called again, see
        :data:`facegraph.store.jobs.Also`
    """

    result: Mapping[str, Any]
    also: Also | None = None


Handler = Callable[[Work], Awaitable[Mapping[str, Any] | Done]]
"""Does a job and answers its result; a FacegraphError is the job's problem."""


class LeaseLost(Exception):
    """The job was deleted, or somebody else has it by now."""


class Worker:
    """Works on at most ``tuning.max_running`` jobs of the kinds it has handlers for."""

    def __init__(self, store: Store, handlers: Mapping[str, Handler], tuning: JobsTuning) -> None:
        self.tuning = tuning
        self._store = store
        self._handlers = handlers
        self._running: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._pruned_at = float("-inf")

    def start(self) -> None:
        self._loop = asyncio.create_task(self._take_forever(), name="jobs")

    async def close(self) -> None:
        """Puts what is in work back into the queue."""
        if self._loop is not None:
            await tasks.end(self._loop)  # first, or it takes what is put back
        await tasks.end(*self._tasks)

    def check(self) -> None:
        """Raises when no jobs are taken any more."""
        if self._loop is not None and self._loop.done():
            raise RuntimeError("the worker has stopped taking jobs")

    def describe(self) -> dict[str, Any]:
        running = [
            {"id": work.job.id, "kind": work.job.kind, "progress": work.fraction}
            for work in self._running.values()
        ]
        return {"kinds": sorted(self._handlers), "running": running}

    async def _take_forever(self) -> None:
        while True:
            try:
                if len(self._tasks) < self.tuning.max_running and await self._take():
                    continue
                await self._prune()
            except StoreUnavailable as error:
                log.warning("jobs wait for the database: %s", error)
            except FacegraphError:
                log.exception("no job could be taken")
            await asyncio.sleep(self.tuning.poll_interval_s)

    async def _take(self) -> bool:
        job = await self._store.jobs.take(
            list(self._handlers), uuid.uuid4().hex, self.tuning.lease_s
        )
        if job is None:
            return False
        task = asyncio.create_task(self._work(job), name=f"job {job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _prune(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = now
            await self._store.jobs.prune(self.tuning.retention_s)

    async def _work(self, job: Job) -> None:
        queue = self._store.jobs
        try:
            if job.attempts > self.tuning.max_attempts:
                lost = FacegraphError(f"given up: {job.attempts - 1} workers were lost over it")
                await queue.fail(job, lost.problem())
                return
            await self._finish(job)
        except LeaseLost:
            log.info("job %s was deleted, or taken over", job.id)
        except asyncio.CancelledError:
            with suppress(FacegraphError):  # the lease runs out then
                await queue.put_back(job, "interrupted", 0, counts=False)
            raise
        except FacegraphError as error:  # the store's: what was not written is done again
            log.warning("the outcome of job %s was not kept: %s", job.id, error)

    async def _finish(self, job: Job) -> None:
        """Does the job and writes down how it ended; StoreUnavailable, LeaseLost."""
        queue = self._store.jobs
        try:
            await self._keep(job, await self._do(job))
        except Unavailable as error:
            if job.attempts < self.tuning.max_attempts:
                await queue.put_back(
                    job, f"tried again soon: {error}", RETRY_AFTER_S * job.attempts
                )
            else:
                await queue.fail(job, error.problem())
        except FacegraphError as error:
            await queue.fail(job, error.problem())
        except LeaseLost:
            raise
        except Exception:
            log.exception("job %s failed", job.id)
            said = FacegraphError("something went wrong here; the log has the job's id")
            await queue.fail(job, said.problem())

    async def _keep(self, job: Job, done: Mapping[str, Any] | Done) -> None:
        """A result that cannot be stored fails the job: it would be the same the next time."""
        done = done if isinstance(done, Done) else Done(done)
        finish = partial(self._store.jobs.finish, job, done.result, done.also)
        pause_s = self.tuning.lease_s / RENEWALS_PER_LEASE
        try:  # for about as long as the lease holds: it may have taken hours
            await patiently(finish, retries=2, first_s=pause_s, after=StoreUnavailable)
        except InvalidRequest as error:
            log.warning("the result of job %s cannot be stored: %s", job.id, error)
            raise FacegraphError("the job was done, but its result cannot be stored") from None

    async def _do(self, job: Job) -> Mapping[str, Any] | Done:
        """The handler's result; LeaseLost as soon as the job is no longer ours."""
        timeout_s = self.tuning.timeout_s
        with tempfile.TemporaryFile() as file:
            work = Work(job, file)
            self._running[job.id] = work
            doing = asyncio.create_task(self._handle(work))
            renewing = asyncio.create_task(self._renew_forever(work))
            try:
                done, _ = await asyncio.wait(
                    {doing, renewing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    raise FacegraphError(f"given up: not done within {timeout_s:g} s")
                if doing not in done:
                    await renewing  # raises
                return await doing
            finally:
                await tasks.end(doing, renewing, within_s=CANCELLED_WITHIN_S)
                del self._running[job.id]

    async def _handle(self, work: Work) -> Mapping[str, Any] | Done:
        async for piece in self._store.jobs.input(work.job):
            await asyncio.to_thread(work.input.write, piece)
        work.input.seek(0)
        return await self._handlers[work.job.kind](work)

    async def _renew_forever(self, work: Work) -> None:
        """Renews the lease until it is lost, also while the database is away for a moment."""
        loop = asyncio.get_running_loop()
        lease_s = self.tuning.lease_s
        held_until = loop.time() + lease_s
        while True:
            await asyncio.sleep(min(1.0, lease_s / RENEWALS_PER_LEASE))
            asked_at = loop.time()
            try:
                async with asyncio.timeout(max(0.0, held_until - asked_at)):
                    ours = await self._store.jobs.renew(
                        work.job, work.fraction, work.message, lease_s
                    )
            except (StoreUnavailable, TimeoutError):
                if loop.time() >= held_until:
                    raise LeaseLost from None
                continue
            if not ours:
                raise LeaseLost
            held_until = asked_at + lease_s
