"""Recognizers of a collection: whom they may tell, and who was erased while they were built."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from facegraph.errors import Unavailable
from facegraph.store import Origin, Recognizer, Store, subjects
from facegraph.store import jobs as statements
from facegraph.store.connecting import Connection, connect
from facegraph.store.writing import Write
from facegraph.types import Job
from tests.store.making import CONTRACT, sample
from tests.store.test_histories import postgres
from tests.store.test_recognizers import (
    MODEL,
    OUTCOME,
    REPORT,
    finish,
    make,
    rows,
    somebody_waits,
    take,
)

pytestmark = pytest.mark.store

PEOPLE = ("ada", "eve")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """With a collection of both, two samples each."""
    async with Store.open(database_url) as opened:
        await fill(opened)
        yield opened


async def fill(store: Store) -> None:
    await store.create_collection("people", contract=CONTRACT)
    for name in PEOPLE:
        await enrol(store, name)


async def enrol(store: Store, name: str) -> None:
    samples = [sample(n, id=f"{name}-{n}") for n in (1, 2)]
    await store.create_subject("people", name, samples=samples, contract=CONTRACT)


async def origin_of(store: Store) -> Origin:
    return Origin.of("people", await store.head("people"))


def kept(store: Store, job: Job, origin: Origin) -> Callable[[Connection], Awaitable[None]]:
    return store.recognizers.keep(
        job.id, labels=PEOPLE, outcome=OUTCOME, model=MODEL, report=REPORT, origin=origin
    )


async def make_of_people(store: Store) -> Recognizer:
    made = await make(store, collection_id="people")
    job = await take(store)
    assert await store.jobs.finish(job, {}, kept(store, job, await origin_of(store)))
    return await store.recognizers.get(made.id)


async def test_what_it_was_built_from_is_kept(store: Store) -> None:
    origin = await origin_of(store)
    ready = await make_of_people(store)
    assert (ready.origin, origin.version) == (origin, 2)
    assert ready.outcome == {**OUTCOME, "collection": origin.told()}
    (listed,) = (await store.recognizers.list()).items
    assert (listed.labels, listed.label_count, listed.origin) == ((), 2, None)


async def delete(store: Store) -> None:
    await store.delete_subject("people", "ada")


async def enrol_another_under_the_id(store: Store) -> None:
    await delete(store)
    await enrol(store, "ada")


async def replace_subject(store: Store) -> None:
    shown = [sample(3)]
    await store.replace_subject("people", "ada", samples=shown, contract=CONTRACT)


async def delete_sample(store: Store) -> None:
    await store.delete_sample("people", "ada", "ada-1")


async def delete_long_ago(store: Store) -> None:
    await delete(store)
    await rename(store)
    await add_sample(store)


async def add_sample(store: Store) -> None:
    await store.add_samples("people", "eve", [sample(4)], contract=CONTRACT)


async def rename(store: Store) -> None:
    await store.update_subject("people", "eve", {"name": "Eve", "metadata": {"since": 1}})


async def rename_collection(store: Store) -> None:
    await store.update_collection("people", {"name": "Us"})


async def enrol_more(store: Store) -> None:
    await enrol(store, "bob")
    await store.delete_subject("people", "bob")


async def delete_collection(store: Store) -> None:
    await store.delete_collection("people", force=True)


async def make_collection_anew(store: Store) -> None:
    await delete_collection(store)
    await fill(store)


async def clear(store: Store) -> None:
    await store.clear_collection("people")
    await enrol(store, "ada")


CHANGES: list[tuple[Callable[[Store], Awaitable[None]], set[str]]] = [
    (delete, {"eve"}),
    (enrol_another_under_the_id, {"eve"}),
    (replace_subject, {"eve"}),
    (delete_sample, {"eve"}),
    (delete_long_ago, {"eve"}),
    (add_sample, {"ada", "eve"}),
    (rename, {"ada", "eve"}),
    (rename_collection, {"ada", "eve"}),
    (enrol_more, {"ada", "eve"}),
    (delete_collection, set()),
    (make_collection_anew, set()),
    (clear, set()),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
async def test_nobody_is_told_of_whom_anything_was_removed(
    store: Store, change: Callable[[Store], Awaitable[None]], expected: set[str]
) -> None:
    recognizer = await make_of_people(store)
    present = store.recognizers.present
    assert await present(recognizer, ["eve", "ada"]) == {"ada", "eve"}
    await change(store)
    assert await present(recognizer, ["eve", "ada"]) == expected
    assert await present(recognizer, ["eve"]) == expected & {"eve"}
    assert await present(recognizer, []) == set()


async def test_what_was_removed_before_does_not_count(store: Store) -> None:
    await enrol_another_under_the_id(store)
    recognizer = await make_of_people(store)
    assert await store.recognizers.present(recognizer, PEOPLE) == {"ada", "eve"}


async def test_nobody_is_told_once_the_log_is_pruned(store: Store, database_url: str) -> None:
    recognizer = await make_of_people(store)
    assert recognizer.origin is not None
    async with Store.open(database_url, keep_versions=3) as pruning:
        for _ in range(3):
            await rename(pruning)
        floor = (await store.head("people")).log_floor
        assert floor <= recognizer.origin.version
        assert await store.recognizers.present(recognizer, PEOPLE) == {"ada", "eve"}
        await rename(pruning)
    assert (await store.head("people")).log_floor == recognizer.origin.version + 1
    assert await store.recognizers.present(recognizer, PEOPLE) == set()


@pytest.mark.parametrize("written", [0, 1, 2])  # history is not yet as far, as far, and beyond
async def test_nobody_is_told_by_another_history(
    store: Store, database_url: str, tmp_path: Path, written: int
) -> None:
    before = await make_of_people(store)
    postgres("pg_dump", "--format=custom", "--file", tmp_path / "dump", database_url)
    await add_sample(store)
    after = replace(before, outcome={"collection": (await origin_of(store)).told()})
    assert await store.recognizers.present(after, PEOPLE) == {"ada", "eve"}
    options = ["--clean", "--if-exists", "--single-transaction", "--dbname", database_url]
    postgres("pg_restore", *options, tmp_path / "dump")
    for _ in range(written):
        await rename(store)
    assert (await store.head("people")).version == 2 + written
    assert await store.recognizers.present(after, PEOPLE) == set()
    assert await store.recognizers.present(before, PEOPLE) == {"ada", "eve"}


@pytest.mark.parametrize("other", ["incarnation", "stamp"])
async def test_the_origin_must_be_the_very_same(store: Store, other: str) -> None:
    recognizer = await make_of_people(store)
    assert recognizer.origin is not None
    told = recognizer.origin.told() | {other: "another"}
    wrong = replace(recognizer, outcome={"collection": told})
    assert await store.recognizers.present(wrong, PEOPLE) == set()


async def test_who_came_from_nowhere_and_who_came_from_pictures(store: Store) -> None:
    made = await make(store, collection_id="people")
    assert await finish(store, await take(store), *PEOPLE)
    unproved = await store.recognizers.get(made.id)
    assert (unproved.origin, await store.recognizers.present(unproved, PEOPLE)) == (None, set())
    made = await make(store)
    assert await finish(store, await take(store), *PEOPLE)
    of_pictures = await store.recognizers.get(made.id)
    assert await store.recognizers.present(of_pictures, PEOPLE) == set(PEOPLE)


ERASING = [case for case in CHANGES if case[1] != set(PEOPLE)]


@pytest.mark.parametrize("erase", [change for change, _ in ERASING])
async def test_erased_while_it_is_built(
    store: Store, erase: Callable[[Store], Awaitable[None]]
) -> None:
    made = await make(store, collection_id="people")
    job, origin = await take(store), await origin_of(store)
    await erase(store)
    with pytest.raises(Unavailable, match="'people' changed while the recognizer was built"):
        await store.jobs.finish(job, {}, kept(store, job, origin))
    assert (await store.recognizers.list(label="ada")).items == ()
    assert (await store.recognizers.get(made.id)).state == "building"
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}
    assert await store.recognizers.present(await store.recognizers.get(made.id), PEOPLE) == set()


async def test_built_anew_without_who_was_erased(store: Store) -> None:
    made = await make(store, collection_id="people")
    job, origin = await take(store), await origin_of(store)
    await delete_sample(store)
    with pytest.raises(Unavailable):
        await store.jobs.finish(job, {}, kept(store, job, origin))
    await store.jobs.put_back(job, "the collection changed", 0)
    again = await take(store)
    assert await store.jobs.finish(again, {}, kept(store, again, await origin_of(store)))
    assert (await store.recognizers.get(made.id)).state == "ready"


@pytest.mark.parametrize("change", [add_sample, rename, rename_collection, enrol_more])
async def test_what_erases_nobody_of_it_does_not_hinder(
    store: Store, change: Callable[[Store], Awaitable[None]]
) -> None:
    made = await make(store, collection_id="people")
    job, origin = await take(store), await origin_of(store)
    await change(store)
    assert await store.jobs.finish(job, {}, kept(store, job, origin))
    assert (await store.recognizers.get(made.id)).origin == origin


async def test_erased_just_before_it_is_ready(store: Store, database_url: str) -> None:
    """Who erases has not committed when the build ends: that waits, and fails."""
    await make(store, collection_id="people")
    job, origin = await take(store), await origin_of(store)
    erased, committing = asyncio.Event(), asyncio.Event()

    async def erase(write: Write) -> None:
        await subjects.delete(write, "ada")
        erased.set()
        await committing.wait()

    erasing = asyncio.create_task(store.write_to("people", erase))
    await erased.wait()
    finishing = asyncio.create_task(store.jobs.finish(job, {}, kept(store, job, origin)))
    await somebody_waits(database_url)
    committing.set()
    await erasing
    with pytest.raises(Unavailable, match="changed while"):
        await finishing
    assert await rows(store) == {"jobs": 1, "job_inputs": 1, "recognizers": 1}


@pytest.mark.parametrize(
    ("erase", "told"), [(delete, {"eve"}), (delete_collection, set()), (clear, set())]
)
async def test_erased_just_after_it_is_ready(
    store: Store,
    database_url: str,
    erase: Callable[[Store], Awaitable[None]],
    told: set[str],
) -> None:
    """The build has not committed when somebody erases: that waits, and then finds it."""
    made = await make(store, collection_id="people")
    job, origin = await take(store), await origin_of(store)
    async with await connect(database_url) as connection:
        async with connection.transaction():
            also = kept(store, job, origin)
            assert await statements.finish(connection, job, {}, None, also)
            erasing = asyncio.ensure_future(erase(store))
            await somebody_waits(database_url)
            assert not erasing.done()
        await erasing
    (found,) = (await store.recognizers.list(label="ada")).items
    assert (found.id, found.state) == (made.id, "ready")
    recognizer = await store.recognizers.get(made.id)
    assert await store.recognizers.present(recognizer, PEOPLE) == told
