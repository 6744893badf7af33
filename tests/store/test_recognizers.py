"""Recognizers: one with their jobs until they are ready, whole or not there, told of once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from facegraph.config import JobsTuning
from facegraph.errors import (
    DatabaseError,
    FacegraphError,
    InvalidRequest,
    JobNotFound,
    Overloaded,
    RecognizerNotFound,
    RecognizerNotReady,
    TooManyRecognizers,
)
from facegraph.jobs import Done, Work, Worker
from facegraph.recognizers.options import RECOGNIZER
from facegraph.store import Store
from facegraph.store import jobs as statements
from facegraph.store.connecting import Connection, connect
from facegraph.store.records import Recognizer
from facegraph.types import Job
from tests.store.test_job_queue import each

pytestmark = pytest.mark.store

MODEL = b"an ONNX file in several parts"
REPORT = b"a PNG"
OUTCOME = {"shape": {"hidden": [16]}, "accuracy": 0.75}
COURSE = {"generations": [{"best": 0.5}]}
PROBLEM = {"code": "invalid_training_set", "errors": [{"picture": "a.jpg"}]}
CALLED = {"callback_url": "https://example.org/told", "callback_secret": "whsec_c2VjcmV0"}
NOBODY = "nobody"


@pytest.fixture
async def store(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr("facegraph.store.artefacts.PART_BYTES", 10)
    async with Store.open(database_url) as opened:
        yield opened


async def make(store: Store, **fields: Any) -> Recognizer:
    plain: dict[str, Any] = {
        "max_open": 100,
        "max_recognizers": 100,
        "name": None,
        "options": {"seed": 7},
        "contract_id": "contract-a",
        "collection_id": None,
    }
    return await store.recognizers.create(
        {"for": "the worker"}, parts=lambda: each(b"pictures"), **plain | fields
    )


async def take(store: Store, lease_s: float = 60) -> Job:
    job = await store.jobs.take([RECOGNIZER], uuid.uuid4().hex, lease_s)
    assert job is not None
    return job


async def finish(store: Store, job: Job, *labels: str) -> bool:
    kept = store.recognizers.keep(
        job.id, labels=labels, outcome=OUTCOME, model=MODEL, report=REPORT
    )
    return await store.jobs.finish(job, {"labels": len(labels)}, kept)


async def make_queued(store: Store, **fields: Any) -> str:
    return (await make(store, **fields)).id


async def make_building(store: Store, **fields: Any) -> str:
    recognizer_id = await make_queued(store, **fields)
    assert (await take(store)).id == recognizer_id
    return recognizer_id


async def make_failed(store: Store, **fields: Any) -> str:
    recognizer_id = await make_queued(store, **fields)
    assert await store.jobs.fail(await take(store), PROBLEM)
    return recognizer_id


async def make_ready(store: Store, *labels: str, **fields: Any) -> str:
    recognizer_id = await make_queued(store, **fields)
    assert await finish(store, await take(store), *labels)
    return recognizer_id


async def rows(store: Store) -> dict[str, int]:
    """How many rows are left of anything; nothing where all is gone."""

    async def work(connection: Connection) -> dict[str, int]:
        counts = {}
        for table in ("jobs", "job_inputs", "recognizers", "recognizer_parts"):
            found = await connection.execute(f"SELECT count(*) FROM facegraph.{table}".encode())
            row = await found.fetchone()
            assert row is not None
            counts[table] = row[0]
        return {table: count for table, count in counts.items() if count}

    return await store.read(work)


async def execute(url: str, statement: str) -> None:
    async with await connect(url) as connection:
        await connection.execute(statement.encode())


async def test_a_recognizer_becomes_ready(store: Store) -> None:
    made = await make(store, name="staff", collection_id="people")
    assert (made.state, made.progress, made.name, made.collection_id) == (
        "queued",
        0,
        "staff",
        "people",
    )
    assert (made.options, made.contract_id) == ({"seed": 7}, "contract-a")
    assert (made.labels, made.label_count, made.origin) == ((), 0, None)
    job = await take(store)
    assert (job.id, job.params) == (made.id, {"for": "the worker"})
    assert [piece async for piece in store.jobs.input(job)] == [b"pictures"]
    assert await store.jobs.renew(job, 0.25, "embedding", 60)
    assert await store.recognizers.publish(job, COURSE)
    building = await store.recognizers.get(made.id)
    assert (building.state, building.progress, building.message, building.course) == (
        "building",
        0.25,
        "embedding",
        COURSE,
    )
    assert (building.outcome, building.model_bytes, building.finished_at) == (None, None, None)
    assert await finish(store, job, "ada", "eve")
    ready = await store.recognizers.get(made.id)
    assert (ready.state, ready.progress, ready.labels) == ("ready", 1, ("ada", "eve"))
    assert ready.outcome == {**OUTCOME, "collection": None}
    assert (ready.label_count, ready.course, ready.problem) == (2, COURSE, None)
    assert ready.model_bytes == len(MODEL)
    assert ready.model_sha256 == hashlib.sha256(MODEL).hexdigest()
    assert ready.notification is None
    done = await store.jobs.get(made.id)
    assert (done.state, done.result) == ("done", {"labels": 2})
    assert ready.finished_at == done.finished_at
    assert await store.recognizers.model(made.id) == MODEL
    assert await store.recognizers.report(made.id) == REPORT


async def test_a_recognizer_fails_with_its_job(store: Store) -> None:
    failed = await store.recognizers.get(await make_failed(store))
    assert (failed.state, failed.problem, failed.labels) == ("failed", PROBLEM, ())
    assert failed.finished_at == (await store.jobs.get(failed.id)).finished_at


async def test_a_job_that_ends_without_a_model_has_failed(store: Store) -> None:
    made = await make(store)
    assert await store.jobs.finish(await take(store), {})
    assert (await store.recognizers.get(made.id)).state == "failed"


async def test_lists_come_in_pages(store: Store) -> None:
    made = [await make_ready(store, "ada"), await make_failed(store), await make_queued(store)]
    first = await store.recognizers.list(limit=2)
    second = await store.recognizers.list(limit=2, cursor=first.next_cursor)
    assert [item.id for item in (*first.items, *second.items)] == made
    assert second.next_cursor is None
    told = [(item.state, item.outcome, item.problem) for item in first.items]
    assert told == [("ready", None, None), ("failed", None, {**PROBLEM, "errors": []})]
    assert [(item.labels, item.label_count) for item in first.items] == [((), 1), ((), 0)]
    with pytest.raises(InvalidRequest):
        await store.recognizers.list(cursor=json.dumps(["jobs", made[0]]))


async def test_those_that_know_a_label(store: Store) -> None:
    both = await make_ready(store, "ada", "eve")
    await make_ready(store, "bob")
    await make_failed(store)
    one = await make_ready(store, "eve")
    first = await store.recognizers.list(label="eve", limit=1)
    second = await store.recognizers.list(label="eve", limit=1, cursor=first.next_cursor)
    assert [item.id for item in (*first.items, *second.items)] == [both, one]
    assert (await store.recognizers.list(label="ev")).items == ()


async def test_the_newest(store: Store) -> None:
    assert await store.recognizers.newest() is None
    await make_ready(store, "ada")
    last = await make_queued(store)
    newest = await store.recognizers.newest()
    assert newest is not None
    assert (newest.id, newest.state) == (last, "queued")


async def test_no_more_than_are_allowed_also_at_once(store: Store) -> None:
    everybody = asyncio.Barrier(5)

    async def pieces() -> AsyncIterator[bytes]:  # all are in the middle of their transactions
        await everybody.wait()
        yield b"pictures"

    asked = [
        store.recognizers.create(
            {},
            parts=pieces,
            max_open=100,
            max_recognizers=3,
            name=None,
            options={},
            contract_id="contract-a",
            collection_id=None,
        )
        for _ in range(5)
    ]
    told = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in told if isinstance(one, BaseException)]
    assert [type(error) for error in refused] == [TooManyRecognizers] * 2
    assert await rows(store) == {"jobs": 3, "job_inputs": 3, "recognizers": 3}
    with pytest.raises(TooManyRecognizers, match="there are 3 recognizers"):
        await make(store, max_recognizers=3)


async def test_no_more_jobs_than_are_allowed(store: Store) -> None:
    await make(store)
    with pytest.raises(Overloaded):
        await make(store, max_open=1)
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}


async def test_only_who_has_the_lease_tells_and_keeps(store: Store) -> None:
    made = await make(store)
    lost = await take(store, lease_s=0)
    assert await store.recognizers.publish(lost, {"first": True})
    heir = await take(store)
    assert not await store.recognizers.publish(lost, {"wrong": True})
    assert not await finish(store, lost, "wrong")
    seen = await store.recognizers.get(made.id)
    assert (seen.state, seen.course, seen.labels) == ("building", {"first": True}, ())
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}
    assert await finish(store, heir, "ada")
    assert not await store.recognizers.publish(heir, {"late": True})
    ready = await store.recognizers.get(made.id)
    assert (ready.labels, ready.course) == (("ada",), {"first": True})


async def somebody_waits(url: str) -> None:
    """Returns when a statement waits for another transaction to end."""
    query = (
        "SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with await connect(url) as connection, asyncio.timeout(30):
        while True:
            if await (await connection.execute(query)).fetchone() is not None:
                return
            await asyncio.sleep(0.01)


async def test_nothing_is_told_while_another_takes_the_job(store: Store, database_url: str) -> None:
    made = await make(store)
    lost = await take(store, lease_s=0)
    async with await connect(database_url) as connection:
        async with connection.transaction():
            assert await statements.take(connection, [RECOGNIZER], "heir", 60) is not None
            publishing = asyncio.create_task(store.recognizers.publish(lost, {"wrong": True}))
            await somebody_waits(database_url)
        assert not await publishing
    assert (await store.recognizers.get(made.id)).course is None


@pytest.mark.parametrize("side", ["recognizers", "jobs"])
async def test_deleting_while_it_becomes_ready(store: Store, database_url: str, side: str) -> None:
    made = await make(store)
    job = await take(store)
    keep = store.recognizers.keep(
        made.id, labels=["ada"], outcome=OUTCOME, model=MODEL, report=REPORT
    )
    async with await connect(database_url) as connection:
        async with connection.transaction():
            assert await statements.finish(connection, job, {}, None)
            deleting = asyncio.create_task(getattr(store, side).delete(made.id))
            await somebody_waits(database_url)
            await keep(connection)  # which must not have to wait for what waits for it
        await deleting
    kept = {"recognizers": 1, "recognizer_parts": 4}  # when only the job was, that was over
    assert await rows(store) == (kept if side == "jobs" else {})


async def test_all_is_kept_or_nothing(store: Store) -> None:
    made = await make(store)
    job = await take(store)
    keep = store.recognizers.keep(
        made.id, labels=["ada"], outcome=OUTCOME, model=MODEL, report=REPORT
    )

    async def fails_at_the_end(connection: Connection) -> None:
        await keep(connection)
        raise FacegraphError("in the middle")

    with pytest.raises(FacegraphError, match="in the middle"):
        await store.jobs.finish(job, {}, fails_at_the_end)
    assert (await store.recognizers.get(made.id)).state == "building"
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}
    assert await store.jobs.finish(job, {}, keep)
    assert await store.recognizers.model(made.id) == MODEL


async def test_nothing_is_kept_for_what_is_not_being_built(store: Store) -> None:
    ready = await make_ready(store, "ada")
    job = await store.jobs.create("test", {}, max_open=100)
    held = await store.jobs.take(["test"], "w", 60)
    assert held is not None
    for recognizer_id in (ready, NOBODY, job.id):
        keep = store.recognizers.keep(
            recognizer_id, labels=["eve"], outcome={}, model=b"other", report=REPORT
        )
        with pytest.raises(RecognizerNotFound):
            await store.jobs.finish(held, {}, keep)
    assert (await store.recognizers.get(ready)).labels == ("ada",)
    assert await store.recognizers.model(ready) == MODEL


async def test_what_is_kept_survives_a_lost_connection(store: Store) -> None:
    made = await make(store)
    keep = store.recognizers.keep(
        made.id, labels=["ada"], outcome=OUTCOME, model=MODEL, report=REPORT
    )
    called = 0

    async def lost_at_first(connection: Connection) -> None:
        nonlocal called
        called += 1
        await keep(connection)
        if called == 1:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert await store.jobs.finish(await take(store), {}, lost_at_first)
    assert called == 2
    assert await store.recognizers.model(made.id) == MODEL
    assert (await rows(store))["recognizer_parts"] == 4  # three of the model, one of the report


@pytest.mark.parametrize("labels", [["a\0"], ["\ud800"]])
async def test_labels_that_cannot_be_stored(store: Store, labels: list[str]) -> None:
    await make(store)
    with pytest.raises((InvalidRequest, UnicodeEncodeError)):  # the worker fails the job for both
        await finish(store, await take(store), *labels)
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}


MAKERS = [make_queued, make_building, make_failed, make_ready]


@pytest.mark.parametrize("maker", MAKERS)
async def test_deleting_a_recognizer_leaves_nothing(
    store: Store, maker: Callable[..., Awaitable[str]]
) -> None:
    recognizer_id = await maker(store, **CALLED)
    await store.recognizers.delete(recognizer_id)
    assert await rows(store) == {}
    with pytest.raises(RecognizerNotFound):
        await store.recognizers.delete(recognizer_id)
    with pytest.raises(RecognizerNotFound):
        await store.recognizers.get(recognizer_id)


@pytest.mark.parametrize("maker", MAKERS[:3])
async def test_deleting_the_job_leaves_nothing(
    store: Store, maker: Callable[..., Awaitable[str]]
) -> None:
    await store.jobs.delete(await maker(store, **CALLED))
    assert await rows(store) == {}


async def test_a_ready_one_outlives_its_job(store: Store) -> None:
    deleted, pruned = await make_ready(store, "ada"), await make_ready(store, "eve")
    await store.jobs.delete(deleted)
    assert await store.jobs.prune(0) == 1
    for kept in (deleted, pruned):
        assert await store.recognizers.model(kept) == MODEL
        await store.recognizers.delete(kept)
    assert await rows(store) == {}


async def test_deleting_a_recognizer_is_not_deleting_any_job(store: Store) -> None:
    job = await store.jobs.create("test", {}, max_open=100)
    with pytest.raises(RecognizerNotFound):
        await store.recognizers.delete(job.id)
    assert (await store.jobs.get(job.id)).state == "queued"


@pytest.mark.parametrize("side", ["recognizers", "jobs"])
async def test_deleting_stops_who_builds_it(store: Store, side: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def build(work: Work) -> Done:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Done({})

    made = await make(store, **CALLED)
    worker = Worker(store, {RECOGNIZER: build}, JobsTuning(lease_s=1, poll_interval_s=0.01))
    worker.start()
    async with asyncio.timeout(30):
        await began.wait()
        await getattr(store, side).delete(made.id)
        await ended.wait()
    await worker.close()
    assert await rows(store) == {}


async def test_a_worker_that_was_deleted_under_keeps_nothing(store: Store) -> None:
    made = await make(store)
    job = await take(store)
    await store.recognizers.delete(made.id)
    assert not await store.recognizers.publish(job, COURSE)
    assert not await finish(store, job, "ada")
    assert await rows(store) == {}


async def test_a_failed_one_goes_when_its_job_does(store: Store) -> None:
    await make_failed(store)
    assert await store.jobs.prune(3600) == 0
    assert await store.jobs.prune(0) == 1
    assert await rows(store) == {}


async def test_the_model_comes_in_pieces(store: Store) -> None:
    made = await make_ready(store)
    pieces = [piece async for piece in store.recognizers.model_pieces(made)]
    assert pieces == [MODEL[:10], MODEL[10:20], MODEL[20:]]


@pytest.mark.parametrize("model", [b"x" * 9, b"x" * 10, b"x" * 11, b"x" * 20])
async def test_models_of_every_length(store: Store, model: bytes) -> None:
    made = await make(store)
    keep = store.recognizers.keep(made.id, labels=[], outcome={}, model=model, report=REPORT)
    assert await store.jobs.finish(await take(store), {}, keep)
    assert await store.recognizers.model(made.id) == model


@pytest.mark.parametrize(
    ("damage", "pieces"),
    [
        ("UPDATE facegraph.recognizer_parts SET data = '0123456789' WHERE part = 1", 2),
        ("UPDATE facegraph.recognizer_parts SET data = data || 'x'::bytea WHERE part = 2", 2),
        ("DELETE FROM facegraph.recognizer_parts WHERE part = 2", 2),  # the last
        ("DELETE FROM facegraph.recognizer_parts WHERE part = 1", 1),  # in the middle
    ],
)
async def test_a_damaged_model_never_comes_whole(
    store: Store, database_url: str, damage: str, pieces: int
) -> None:
    made = await make_ready(store)
    await execute(database_url, damage)
    with pytest.raises(DatabaseError, match=f"the model of recognizer {made!r} is damaged"):
        await store.recognizers.model(made)
    taken = b""
    with suppress(DatabaseError):
        async for piece in store.recognizers.model_pieces(made):
            taken += piece
    assert len(taken) == 10 * pieces
    assert await store.recognizers.report(made) == REPORT


async def test_a_recognizer_deleted_during_its_download_is_not_found(store: Store) -> None:
    made = await make_ready(store)
    pieces = store.recognizers.model_pieces(made)
    assert await anext(pieces) == MODEL[:10]
    await store.recognizers.delete(made)
    with pytest.raises(RecognizerNotFound):
        await anext(pieces)


@pytest.mark.parametrize("maker", MAKERS[:3])
async def test_what_is_not_ready_has_no_model(
    store: Store, maker: Callable[..., Awaitable[str]]
) -> None:
    recognizer_id = await maker(store)
    for read in (store.recognizers.model, store.recognizers.report):
        with pytest.raises(RecognizerNotReady):
            await read(recognizer_id)
        with pytest.raises(RecognizerNotFound):
            await read(NOBODY)
    with pytest.raises(RecognizerNotReady):
        await anext(store.recognizers.model_pieces(recognizer_id))


PATHS = ["../../etc/passwd", "..\\model", "/", "a\0b", "", "x" * 129]


@pytest.mark.parametrize("wrong", PATHS)
async def test_what_is_no_id_is_refused(store: Store, wrong: str) -> None:
    recognizers = store.recognizers
    for use in (recognizers.get, recognizers.delete, recognizers.model, recognizers.report):
        with pytest.raises(InvalidRequest):
            await use(wrong)
    with pytest.raises(InvalidRequest):
        recognizers.model_pieces(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a\0"},
        {"collection_id": ""},
        {"options": {"pattern": "a\0"}},
        {"options": {"threshold": float("nan")}},
        {"callback_url": "https://example.org"},  # with nothing to sign it
        {"callback_secret": "whsec_c2VjcmV0"},
    ],
)
async def test_what_cannot_be_stored_is_refused(store: Store, wrong: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await make(store, **wrong)
    assert await rows(store) == {}


async def test_an_unknown_recognizer(store: Store) -> None:
    with pytest.raises(RecognizerNotFound, match=NOBODY):
        await store.recognizers.get(NOBODY)
    with pytest.raises(JobNotFound):
        await store.jobs.get(NOBODY)
