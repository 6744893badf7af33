"""The queue of jobs, as ingress and workers use it: ``store.jobs``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from facegraph.store import jobs
from facegraph.store.jobs import Also, Parts
from facegraph.store.link import Link
from facegraph.store.records import Page
from facegraph.store.validation import check_id, check_limit
from facegraph.types import Job


async def nothing() -> AsyncIterator[bytes]:
    """No input."""
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece


class JobQueue:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(
        self, kind: str, params: Mapping[str, Any], *, parts: Parts = nothing, max_open: int
    ) -> Job:
        """A queued job, with its input as pieces of bytes; Overloaded."""
        insert = partial(jobs.insert, kind=kind, params=params, parts=parts, max_open=max_open)
        return await self._link.write(insert)

    async def get(self, job_id: str) -> Job:
        """JobNotFound where there is none, or no longer."""
        check_id("job id", job_id)
        return await self._link.read(partial(jobs.get, job_id=job_id))

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Job]:
        """In the order in which they were made, each without its result and problem.

        InvalidRequest for a foreign cursor.
        """
        check_limit(limit)
        return await self._link.read(partial(jobs.listed, limit=limit, cursor=cursor))

    async def delete(self, job_id: str) -> None:
        """Forgets the job and stops who works on it; JobNotFound.

        A recognizer that is not ready is gone with its job.
        """
        check_id("job id", job_id)
        await self._link.write(partial(jobs.delete, job_id=job_id))

    async def take(self, kinds: Sequence[str], worker: str, lease_s: float) -> Job | None:
        """The oldest job that nobody works on, leased to ``worker`` for ``lease_s``, or None.

        ``worker`` must be a name never used before.
        """
        return await self._link.write(
            partial(jobs.take, kinds=kinds, worker=worker, lease_s=lease_s)
        )

    async def renew(self, job: Job, progress: float, message: str, lease_s: float) -> bool:
        """Whether the job is still its worker's; if so, the lease begins anew."""
        return await self._link.write(
            partial(jobs.renew, job=job, progress=progress, message=message, lease_s=lease_s)
        )

    async def finish(self, job: Job, result: Mapping[str, Any], also: Also | None = None) -> bool:
        """Whether the job was still its worker's; if so, it is done and ``also`` is written.

        Both or neither: an error that ``also`` raises leaves the job in work.
        """
        return await self._link.write(
            partial(jobs.finish, job=job, result=result, problem=None, also=also)
        )

    async def fail(self, job: Job, problem: Mapping[str, Any]) -> bool:
        """As :meth:`finish`, but it failed."""
        return await self._link.write(partial(jobs.finish, job=job, result=None, problem=problem))

    async def put_back(
        self, job: Job, message: str, delay_s: float, *, counts: bool = True
    ) -> None:
        """Lets it be taken again, by anybody, after ``delay_s``.

        counts: whether it is one of the job's attempts that it was taken
        """
        await self._link.write(
            partial(jobs.put_back, job=job, message=message, delay_s=delay_s, counts=counts)
        )

    async def input(self, job: Job) -> AsyncIterator[bytes]:
        """The pieces of the job's input, in order; each is read on its own."""
        number = 0
        while True:
            piece = await self._link.read(partial(jobs.part, job_id=job.id, number=number))
            if piece is None:
                return
            yield piece
            number += 1

    async def prune(self, retention_s: float) -> int:
        """Forgets what was finished ``retention_s`` ago or longer; how many jobs that were.

        Except recognizers that failed and whose client is still to be notified.
        """
        return await self._link.write(partial(jobs.prune, retention_s=retention_s))
