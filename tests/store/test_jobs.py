"""Workers on a real queue: outcomes, failures, cancellation, and a worker that is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from facegraph.config import JobsTuning
from facegraph.errors import (
    FaceNotFound,
    GalleryBehind,
    InvalidRequest,
    RecognizerNotFound,
    StoreUnavailable,
    Unavailable,
)
from facegraph.jobs import Done, Handler, Work, Worker
from facegraph.store import Store
from facegraph.store.connecting import Connection
from facegraph.types import Job
from tests.store.test_job_queue import each

pytestmark = pytest.mark.store

TUNING = JobsTuning(poll_interval_s=0.01, max_running=2, lease_s=1)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with Store.open(database_url) as opened:
        yield opened


@pytest.fixture
async def start(store: Store) -> AsyncIterator[Callable[[Handler], Worker]]:
    workers = []

    def started(handler: Handler, **tuning: Any) -> Worker:
        worker = Worker(store, {"test": handler}, TUNING.model_copy(update=tuning))
        worker.start()
        workers.append(worker)
        return worker

    yield started
    for worker in workers:
        await worker.close()


def is_finished(job: Job) -> bool:
    return job.state in {"done", "failed"}


async def until(store: Store, job: Job, true: Callable[[Job], bool] = is_finished) -> Job:
    """The job once that is true of it."""
    async with asyncio.timeout(30):
        while True:
            seen = await store.jobs.get(job.id)
            if true(seen):
                return seen
            await asyncio.sleep(0.01)


async def make(store: Store, *pieces: bytes, **params: Any) -> Job:
    return await store.jobs.create("test", params, parts=lambda: each(*pieces), max_open=100)


async def test_a_job_is_done_with_its_input(store: Store, start: Callable[..., Worker]) -> None:
    async def handle(work: Work) -> Mapping[str, Any]:
        return {"read": work.input.read().decode(), "n": work.job.params["n"]}

    start(handle)
    job = await make(store, b"one ", b"two", n=3)
    done = await until(store, job)
    assert (done.state, done.result) == ("done", {"read": "one two", "n": 3})


def failing(error: Exception) -> Handler:
    async def handle(work: Work) -> Mapping[str, Any]:
        raise error

    return handle


@pytest.mark.parametrize(
    ("error", "code", "detail", "attempts"),
    [
        (FaceNotFound("no face"), "face_not_found", "no face", 1),  # the job's own problem
        (GalleryBehind("behind"), "gallery_behind", "behind", 2),  # tried again before it fails
        (
            ZeroDivisionError("secret"),
            "internal",
            "something went wrong here; the log has the job's id",
            1,
        ),  # nothing of it is told
    ],
)
async def test_failures_become_problems(
    store: Store,
    start: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: str,
    detail: str,
    attempts: int,
) -> None:
    monkeypatch.setattr("facegraph.jobs.RETRY_AFTER_S", 0.01)
    start(failing(error), max_attempts=2)
    failed = await until(store, await make(store))
    assert failed.problem is not None
    assert (failed.problem["code"], failed.problem["detail"]) == (code, detail)
    assert (failed.attempts, failed.result) == (attempts, None)


async def choose(connection: Connection) -> None:
    """Something that can be read later, or is not there."""
    insert = "INSERT INTO facegraph.choices (name, value, configured) VALUES ('a', 'b', 'c')"
    await connection.execute(insert)


async def test_what_is_to_be_written_with_the_result_is(
    store: Store, start: Callable[..., Worker]
) -> None:
    async def handle(work: Work) -> Done:
        return Done({"n": 1}, choose)

    start(handle)
    done = await until(store, await make(store))
    assert (done.state, done.result) == ("done", {"n": 1})
    assert await store.choice("a", "c") == "b"


UNKEPT = "the job was done, but its result cannot be stored"


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (InvalidRequest("secret"), "internal", UNKEPT),  # the client's request was none of it
        (RecognizerNotFound("gone"), "recognizer_not_found", "gone"),
        (
            ZeroDivisionError("secret"),
            "internal",
            "something went wrong here; the log has the job's id",
        ),
    ],
)
async def test_a_result_that_cannot_be_written_fails_the_job(
    store: Store, start: Callable[..., Worker], error: Exception, code: str, detail: str
) -> None:
    async def also(connection: Connection) -> None:
        await choose(connection)
        raise error

    async def handle(work: Work) -> Done:
        return Done({"n": 1}, also)

    start(handle)
    failed = await until(store, await make(store))
    assert failed.problem is not None
    assert (failed.problem["code"], failed.problem["detail"]) == (code, detail)
    assert (failed.state, failed.attempts, failed.result) == ("failed", 1, None)
    assert await store.choice("a", "c") is None


async def test_a_result_waits_for_the_database(store: Store, start: Callable[..., Worker]) -> None:
    """It may have taken hours: it is written later, not made again."""
    tries = []

    async def also(connection: Connection) -> None:
        tries.append(connection)
        if len(tries) == 1:
            raise StoreUnavailable("away")
        await choose(connection)

    async def handle(work: Work) -> Done:
        return Done({"attempt": work.job.attempts}, also)

    start(handle)
    done = await until(store, await make(store))
    assert (done.state, done.result) == ("done", {"attempt": 1})
    assert await store.choice("a", "c") == "b"


async def test_a_result_that_the_world_has_outrun_is_made_again(
    store: Store, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.jobs.RETRY_AFTER_S", 0.01)

    async def handle(work: Work) -> Done:
        async def also(connection: Connection) -> None:
            if work.job.attempts == 1:
                raise Unavailable("changed meanwhile")
            await choose(connection)

        return Done({"attempt": work.job.attempts}, also)

    start(handle)
    done = await until(store, await make(store))
    assert (done.state, done.result) == ("done", {"attempt": 2})
    assert await store.choice("a", "c") == "b"


async def test_progress_is_seen_while_it_works(store: Store, start: Callable[..., Worker]) -> None:
    told = asyncio.Event()

    async def handle(work: Work) -> Mapping[str, Any]:
        await work.progress(0.5, "half of it")
        await told.wait()
        return {}

    worker = start(handle)
    job = await make(store)
    seen = await until(store, job, lambda job: job.progress == 0.5)
    assert (seen.state, seen.message) == ("running", "half of it")
    assert worker.describe()["running"] == [{"id": job.id, "kind": "test", "progress": 0.5}]
    told.set()
    assert (await until(store, job)).progress == 1


async def test_a_deleted_job_is_stopped(store: Store, start: Callable[..., Worker]) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(work: Work) -> Mapping[str, Any]:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert work.input.read() == b"input"
            ended.set()
        return {}

    start(handle)
    job = await make(store, b"input")
    async with asyncio.timeout(30):
        await began.wait()
        await store.jobs.delete(job.id)
        await ended.wait()


async def test_a_worker_that_stops_puts_its_jobs_back(store: Store) -> None:
    began = asyncio.Event()

    async def handle(work: Work) -> Mapping[str, Any]:
        began.set()
        await asyncio.Event().wait()
        return {}

    job = await make(store)
    for _ in range(TUNING.max_attempts + 1):  # a service may be updated any number of times
        began.clear()
        worker = Worker(store, {"test": handle}, TUNING)
        worker.start()
        async with asyncio.timeout(30):
            await began.wait()
        await worker.close()
        back = await store.jobs.get(job.id)
        assert (back.state, back.worker, back.message) == ("queued", None, "interrupted")
        assert back.attempts == 0


async def test_work_that_does_not_end_is_given_up(
    store: Store, start: Callable[..., Worker]
) -> None:
    ended = asyncio.Event()

    async def handle(work: Work) -> Mapping[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    start(handle, timeout_s=0.05)
    failed = await until(store, await make(store))
    assert failed.problem is not None
    assert failed.problem["detail"] == "given up: not done within 0.05 s"
    assert (failed.attempts, ended.is_set()) == (1, True)


async def test_a_killed_worker_leaves_no_file(
    store: Store, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    await make(store, b"a video")
    await take_and_die(database_url)
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_work_outlasts_its_first_lease(store: Store, start: Callable[..., Worker]) -> None:
    async def handle(work: Work) -> Mapping[str, Any]:
        for _ in range(3):  # a lease and a half
            await asyncio.sleep(TUNING.lease_s / 2)
        return {"attempt": work.job.attempts}

    start(handle)
    start(handle)
    done = await until(store, await make(store))
    assert (done.state, done.result, done.attempts) == ("done", {"attempt": 1}, 1)


KILLED = """
import asyncio, sys
from facegraph.config import JobsTuning
from facegraph.jobs import Worker
from facegraph.store import Store

async def forever(work):
    print("working", flush=True)
    await asyncio.Event().wait()

async def main():
    async with Store.open(sys.argv[1]) as store:
        Worker(store, {"test": forever}, JobsTuning(lease_s=1, poll_interval_s=0.01)).start()
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def take_and_die(url: str) -> None:
    """A process takes a job and is killed over it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, url, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said = await process.stdout.readline()
    process.kill()
    await process.wait()
    assert said == b"working\n"


async def test_a_killed_workers_job_is_done_by_another(
    store: Store, start: Callable[..., Worker], database_url: str
) -> None:
    job = await make(store, b"input")
    await take_and_die(database_url)

    async def handle(work: Work) -> Mapping[str, Any]:
        return {"read": work.input.read().decode()}

    start(handle)
    done = await until(store, job)
    assert (done.state, done.result, done.attempts) == ("done", {"read": "input"}, 2)


async def test_a_job_that_kills_its_workers_is_given_up(
    store: Store, start: Callable[..., Worker], database_url: str
) -> None:
    job = await make(store)
    await take_and_die(database_url)

    async def never(work: Work) -> Mapping[str, Any]:
        raise AssertionError("begun once too often")

    start(never, max_attempts=1)
    failed = await until(store, job)
    assert failed.problem is not None
    assert failed.problem["detail"] == "given up: 1 workers were lost over it"
