"""The queue: one worker per job, a lease that runs out, an outcome that is written once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from facegraph.errors import InvalidRequest, JobNotFound, Overloaded
from facegraph.store import Store
from facegraph.store.connecting import Connection
from facegraph.types import Job

pytestmark = pytest.mark.store

OUTCOME = {"people": ["eileen"]}


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[Store]:
    async with Store.open(database_url) as store:
        yield store


async def each(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def make(store: Store, **params: int) -> Job:
    return await store.jobs.create("test", params, max_open=100)


async def take(store: Store, worker: str, lease_s: float = 60) -> Job:
    job = await store.jobs.take(["test"], worker, lease_s)
    assert job is not None
    return job


async def test_jobs_are_taken_in_order_and_once(queue: Store) -> None:
    made = [(await make(queue, n=n)).id for n in range(20)]
    taken = await asyncio.gather(*(queue.jobs.take(["test"], f"w{n}", 60) for n in range(25)))
    ids = [job.id for job in taken if job is not None]
    assert sorted(ids) == sorted(made)
    assert len(ids) == len(set(ids)) == 20


async def test_the_oldest_first_and_only_of_the_kinds_asked_for(queue: Store) -> None:
    first = await make(queue, n=1)
    await make(queue, n=2)
    assert await queue.jobs.take(["other"], "w", 60) is None
    job = await take(queue, "w")
    assert (job.id, job.state, job.params, job.attempts) == (first.id, "running", {"n": 1}, 1)


async def test_a_lease_that_ran_out_is_somebody_elses(queue: Store) -> None:
    await make(queue)
    lost = await take(queue, "lost", lease_s=0)
    heir = await take(queue, "heir")
    assert (heir.id, heir.attempts) == (lost.id, 2)
    assert not await queue.jobs.renew(lost, 0.9, "still here", 60)
    assert not await queue.jobs.finish(lost, {"wrong": True})
    assert not await queue.jobs.fail(lost, {"code": "wrong"})
    await queue.jobs.put_back(lost, "wrong", 0)
    assert await queue.jobs.renew(heir, 0.5, "half", 60)
    assert await queue.jobs.finish(heir, OUTCOME)
    done = await queue.jobs.get(heir.id)
    assert (done.state, done.result, done.progress, done.problem) == ("done", OUTCOME, 1, None)


async def test_nothing_more_is_written_by_who_lost_the_lease(queue: Store) -> None:
    await make(queue)
    lost = await take(queue, "lost", lease_s=0)
    heir = await take(queue, "heir")
    written = []

    async def also(connection: Connection) -> None:
        written.append((await queue.jobs.get(heir.id)).state)  # as others see it so far

    assert not await queue.jobs.finish(lost, {"wrong": True}, also)
    assert written == []
    assert await queue.jobs.finish(heir, OUTCOME, also)
    assert written == ["running"]
    assert (await queue.jobs.get(heir.id)).state == "done"


async def test_a_renewed_lease_is_kept(queue: Store) -> None:
    await make(queue)
    job = await take(queue, "w", lease_s=0)
    assert await queue.jobs.renew(job, 0.25, "a quarter", 60)
    assert await queue.jobs.take(["test"], "other", 60) is None
    seen = await queue.jobs.get(job.id)
    assert (seen.progress, seen.message) == (0.25, "a quarter")
    assert await queue.jobs.renew(job, 0.1, "begun anew", 60)
    assert (await queue.jobs.get(job.id)).progress == 0.25  # never backwards


async def test_the_input_is_there_until_the_job_is_finished(queue: Store) -> None:
    pieces = [b"a" * 1000, b"", b"\0\xff"]
    await queue.jobs.create("test", {}, parts=lambda: each(*pieces), max_open=9)
    job = await take(queue, "w")
    assert [piece async for piece in queue.jobs.input(job)] == pieces
    await queue.jobs.fail(job, {"code": "internal"})
    assert [piece async for piece in queue.jobs.input(job)] == []
    failed = await queue.jobs.get(job.id)
    assert (failed.state, failed.problem, failed.result) == ("failed", {"code": "internal"}, None)


async def test_put_back_is_taken_again_but_not_before_its_time(queue: Store) -> None:
    await make(queue)
    await queue.jobs.put_back(await take(queue, "w"), "later", 3600)
    assert await queue.jobs.take(["test"], "x", 60) is None
    later = (await queue.jobs.list()).items[0]
    assert (later.state, later.message, later.attempts) == ("queued", "later", 1)


async def test_what_is_not_finished_is_bounded(queue: Store) -> None:
    for _ in range(3):
        await queue.jobs.create("test", {}, max_open=3)
    with pytest.raises(Overloaded, match="3 jobs are queued or running"):
        await queue.jobs.create("test", {}, max_open=3)
    await queue.jobs.finish(await take(queue, "w"), {})
    await queue.jobs.create("test", {}, max_open=3)


async def test_a_deleted_job_is_gone_for_its_worker_too(queue: Store) -> None:
    job = await make(queue)
    held = await take(queue, "w")
    await queue.jobs.delete(job.id)
    assert not await queue.jobs.renew(held, 0.5, "", 60)
    for gone in (queue.jobs.get, queue.jobs.delete):
        with pytest.raises(JobNotFound):
            await gone(job.id)


async def test_finished_jobs_are_forgotten_after_their_time(queue: Store) -> None:
    await make(queue)
    waiting = await make(queue)
    await queue.jobs.finish(await take(queue, "w"), {})
    assert await queue.jobs.prune(3600) == 0
    assert await queue.jobs.prune(0) == 1
    assert [job.id for job in (await queue.jobs.list()).items] == [waiting.id]


async def test_lists_do_not_read_what_came_of_the_jobs(queue: Store) -> None:
    for _ in range(2):
        await make(queue)
    await queue.jobs.finish(await take(queue, "w"), OUTCOME)
    await queue.jobs.fail(await take(queue, "x"), {"code": "internal"})
    listed = (await queue.jobs.list()).items
    assert [(job.state, job.result, job.problem) for job in listed] == [
        ("done", None, None),
        ("failed", None, None),
    ]


async def test_lists_come_in_pages(queue: Store) -> None:
    made = [(await make(queue, n=n)).id for n in range(3)]
    first = await queue.jobs.list(limit=2)
    second = await queue.jobs.list(limit=2, cursor=first.next_cursor)
    assert [job.id for job in (*first.items, *second.items)] == made
    assert second.next_cursor is None
    with pytest.raises(InvalidRequest):
        await queue.jobs.list(cursor="no cursor")
