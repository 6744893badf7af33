"""Three replicas, each a process, while things go wrong: no acknowledged write is ever missed.

Writers replace subjects of their own, whole, again and again. Each write has a name and samples
that tell which one it is, so what a search answers must be what was true at the version it says,
for every writer, and that version no older than the last write acknowledged before it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph.decisions import similarities
from facegraph.errors import GalleryBehind, StoreUnavailable
from facegraph.graph import Query
from facegraph.store import EmbeddedServer, Store
from facegraph.types import NewSample, SearchResult
from tests.store.law4 import Enrolment, Told, World, points, told
from tests.store.making import CONTRACT
from tests.store.replicas import Killed, Replica, Wire, paused, replicas
from tests.store.workers import postmaster

pytestmark = pytest.mark.store

HOUR_S = 3600.0
BOUND_S = 30.0
PROBES = points(CONTRACT.dimension)
BEHIND = (GalleryBehind, StoreUnavailable)


@dataclass(eq=False)
class Ledger:
    """What was acknowledged, and what was answered."""

    written: dict[int, Enrolment] = field(default_factory=dict)
    answers: list[tuple[int, SearchResult]] = field(default_factory=list)
    acknowledged: int = 0

    def take(self, version: int, write: Enrolment) -> None:
        assert version not in self.written
        self.written[version] = write
        self.acknowledged = max(self.acknowledged, version)

    async def search(self, replica: Replica) -> None:
        """A strong search, kept with what it must have seen."""
        floor = self.acknowledged
        self.answers.append((floor, await replica.match(PROBES)))

    async def search_patiently(self, replica: Replica) -> int:
        """As :meth:`search`, after as many 503s as it answers: a replica may say no, not wrong."""
        async with asyncio.timeout(BOUND_S):
            for refused in itertools.count():
                with contextlib.suppress(*BEHIND):
                    await self.search(replica)
                    return refused
        raise AssertionError

    async def search_in_vain(self, replica: Replica, collection: str = "default") -> None:
        """A strong search that is answered 503, within its bound and long before ours."""
        query = Query(100)
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(BEHIND):
                await replica.call("match", collection, CONTRACT.id, PROBES, query)

    async def search_eventually(self, replica: Replica) -> int:
        """Some version there was; never waits for the database."""
        found = await replica.match(PROBES, consistency="eventual")
        self.answers.append((0, found))
        return found.version

    def check(self) -> None:
        """Every answer is of one version, and of none too old."""
        assert sorted(self.written) == list(range(1, len(self.written) + 1))
        assert self.answers
        worlds = [World()]
        for version in sorted(self.written):
            worlds.append(self.written[version].after(worlds[-1]))
        for floor, found in self.answers:
            assert found.version >= floor
            assert told(found.matches) == worlds[found.version].told


def enrolment(writer: int, number: int) -> Enrolment:
    """The whole of subject ``s<writer>``, for the ``number``-th time."""
    samples = {f"{writer}-{number}-{i}": (writer + 3 * number + i) % 8 for i in range(3)}
    return Enrolment(f"s{writer}", f"{writer}-{number}", samples, anew=True)


Replace = Callable[..., Awaitable[Any]]


async def write_on(ledger: Ledger, writer: int, replace: Replace, stop: asyncio.Event) -> None:
    for number in itertools.count():
        if stop.is_set():
            break
        new = enrolment(writer, number)
        made = await replace(
            "default", new.subject, name=new.name, samples=new.new_samples(), contract=CONTRACT
        )
        ledger.take(made.version, new)


@contextlib.asynccontextmanager
async def writers(ledger: Ledger, *replaces: Replace) -> AsyncIterator[None]:
    """They write without pause as long as the block runs."""
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(write_on(ledger, writer, replace, stop))
        for writer, replace in enumerate(replaces)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def search_often(ledger: Ledger, replica: Replica, times: int) -> None:
    for _ in range(times):
        await ledger.search(replica)


async def more_answers(ledger: Ledger, count: int, searches: list[asyncio.Task[None]]) -> None:
    """Returns when there are ``count`` more; raises what ended one of the ``searches``."""
    enough = len(ledger.answers) + count
    while len(ledger.answers) < enough:
        done, _ = await asyncio.wait(searches, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        assert [search.result() for search in done] == []


@pytest.fixture(scope="module")
def data_dir(short_tmp: Path) -> Iterator[Path]:
    """A server of these tests' own, which they may stop."""
    folder = short_tmp / "chaos"
    server = EmbeddedServer(folder)
    server.hold()
    yield folder
    server.release()
    shutil.rmtree(folder)


@pytest.fixture
def url(data_dir: Path) -> str:
    return EmbeddedServer(data_dir).url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """The writers' way to a database with nothing but an empty ``default``."""
    async with Store.open(url) as opened:
        await opened.ensure_default(CONTRACT)
        await opened.delete_collection("default", force=True)
        yield opened


async def test_replicas_are_killed_and_started_anew(url: str, store: Store, tmp_path: Path) -> None:
    """In turn, while they pull, search and poll; two of them with files of one node."""
    plans: list[dict[str, Any]] = [
        {"url": url, "folder": tmp_path},
        {"url": url, "folder": tmp_path},
        {"url": url},
    ]
    ledger = Ledger()

    async def search_until_killed(replica: Replica) -> None:
        with contextlib.suppress(Killed):
            await search_often(ledger, replica, 10_000)

    async with replicas(*plans) as running, writers(ledger, *[store.replace_subject] * 3):
        searches = [asyncio.create_task(search_until_killed(replica)) for replica in running]
        for turn in range(4):
            n = turn % 3
            await more_answers(ledger, 30, searches)
            await running[n].kill()
            await searches[n]
            running[n] = await Replica.start(**plans[n])
            await ledger.search(running[n])
            searches[n] = asyncio.create_task(search_until_killed(running[n]))
        for search in searches:
            search.cancel()
        await asyncio.wait(searches)
    ledger.check()


async def test_a_paused_database(url: str, store: Store, data_dir: Path) -> None:
    """503 while it lasts, whatever is searched; what is known serves those who said eventual."""
    await store.create_collection("never-searched", contract=CONTRACT)
    ledger = Ledger()
    plan = {"url": url, "catch_up_timeout_s": 0.5}
    async with replicas(plan, plan, plan) as running, writers(ledger, *[store.replace_subject] * 3):
        for _ in range(3):
            for replica in running:
                await ledger.search_patiently(replica)
            with paused(postmaster(data_dir)):
                await asyncio.gather(*(ledger.search_in_vain(replica) for replica in running))
                for replica in running:
                    await ledger.search_eventually(replica)
                await asyncio.gather(
                    *(ledger.search_in_vain(replica, "never-searched") for replica in running)
                )
            for replica in running:
                await ledger.search_patiently(replica)
    await store.delete_collection("never-searched", force=True)
    ledger.check()


@contextlib.asynccontextmanager
async def wires(url: str, folder: Path, count: int) -> AsyncIterator[list[Wire]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Wire(url, folder / f"w{n}")) for n in range(count)]


async def test_connections_are_cut(url: str, store: Store, short_tmp: Path) -> None:
    """In the middle of whatever passes; a search tries again and need not say no."""
    ledger = Ledger()
    async with wires(url, short_tmp, 3) as lines:
        plans = [{"url": wire.url, "writer_url": url} for wire in lines]
        async with replicas(*plans) as running, writers(ledger, *[store.replace_subject] * 3):
            searches = [
                asyncio.create_task(search_patiently_on(ledger, replica)) for replica in running
            ]
            for turn in range(12):
                await more_answers(ledger, 10, searches)
                if turn % 2:
                    lines[turn % 3].cut()
                else:
                    lines[turn % 3].cut_after(100 * turn)
            await more_answers(ledger, 10, searches)
            for search in searches:
                search.cancel()
            await asyncio.wait(searches)
            for replica in running:
                await ledger.search_patiently(replica)
        assert min(wire.cuts for wire in lines) > 0
    ledger.check()


async def search_patiently_on(ledger: Ledger, replica: Replica) -> None:
    while True:
        await ledger.search_patiently(replica)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("thaw", "the cable is plugged in again"),
        ("cut", "it is given up, and everybody told"),
    ],
)
async def test_a_frozen_connection(
    end: str, reason: str, url: str, store: Store, short_tmp: Path
) -> None:
    """503 at this replica alone, until ``reason``."""
    ledger = Ledger()
    async with wires(url, short_tmp, 1) as (wire,):
        cut_off = {"url": wire.url, "writer_url": url, "catch_up_timeout_s": 0.5}
        async with (
            replicas(cut_off, {"url": url}) as (frozen, fine),
            writers(ledger, *[store.replace_subject] * 3),
        ):
            await ledger.search_patiently(frozen)
            wire.freeze()
            for _ in range(3):
                await ledger.search_in_vain(frozen)
                await ledger.search(fine)
            await ledger.search_eventually(frozen)
            if end == "cut":
                wire.cut()
            wire.thaw()
            await ledger.search_patiently(frozen)
    ledger.check()


async def test_wrong_clocks(url: str, store: Store, tmp_path: Path) -> None:
    """Ahead, behind, and jumping; they search, poll and write, and nothing depends on it."""
    shifts = (HOUR_S, -HOUR_S, 0.0)
    plans: list[dict[str, Any]] = [
        {"url": url, "shift_s": shift, "folder": tmp_path} for shift in shifts
    ]
    ledger = Ledger()
    async with replicas(*plans) as running:
        replaces = [partial(replica.call, "replace_subject") for replica in running]
        for turn in range(3):
            async with writers(ledger, *replaces):
                await asyncio.gather(*(search_often(ledger, replica, 15) for replica in running))
            for replica in running:
                await polled(ledger, replica)
            for replica, shift in zip(running, shifts[turn:] + shifts[:turn], strict=True):
                await replica.call("shift", -24 * shift)
        clocks = [await replica.call("clock") for replica in running]
        assert max(clocks) - min(clocks) > 24 * HOUR_S
        for replica in running:
            await ledger.search(replica)
    ledger.check()


async def polled(ledger: Ledger, replica: Replica) -> None:
    """Returns when an eventual search sees all that was acknowledged."""
    async with asyncio.timeout(BOUND_S):
        while await ledger.search_eventually(replica) < ledger.acknowledged:
            pass


BATCH, BATCHES, BATCH_WRITERS = 250, 8, 3


async def test_a_burst_of_enrolments(url: str, store: Store, short_tmp: Path) -> None:
    """Six thousand samples, each write one version; a replica starts in the midst of it, behind a
    connection that breaks while it loads."""
    batches: dict[int, tuple[str, str, list[NewSample]]] = {}
    answers: list[tuple[int, SearchResult]] = []

    async def enrol(writer: int) -> None:
        rng = np.random.default_rng(writer)
        for n in range(BATCHES):
            rows = rng.normal(size=(BATCH, CONTRACT.dimension))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            samples = [
                NewSample(row, id=f"{writer}-{n}-{i:03}")
                for i, row in enumerate(rows.astype(np.float32))
            ]
            subject, name = f"s{writer}-{n % 3}", f"{writer}-{n}"
            made = await store.append_samples(
                "default", subject, name=name, samples=samples, contract=CONTRACT
            )
            batches[made.version] = (subject, name, samples)

    async def search_on(replica: Replica) -> None:
        while True:
            await search_now(replica)

    async def search_now(replica: Replica) -> None:
        floor = max(batches, default=0)
        answers.append((floor, await replica.match(PROBES)))

    async with wires(url, short_tmp, 1) as (wire,), replicas({"url": url}, {"url": url}) as running:
        searches = [asyncio.create_task(search_on(replica)) for replica in running]
        enrolling = [asyncio.create_task(enrol(writer)) for writer in range(BATCH_WRITERS)]
        await asyncio.wait(enrolling, return_when=asyncio.FIRST_COMPLETED)
        wire.cut_after(50_000)
        running.append(await Replica.start(wire.url, writer_url=url))
        await search_now(running[-1])
        await asyncio.gather(*enrolling)
        for replica in running:
            await search_now(replica)
        for search in searches:
            search.cancel()
        await asyncio.wait(searches)
        assert wire.cuts == 1
    assert [floor for floor, _ in answers[-len(running) :]] == [BATCH_WRITERS * BATCHES] * 3
    expected = in_their_order(batches)
    for floor, found in answers:
        assert found.version >= floor
        assert told(found.matches) == expected[found.version]


def in_their_order(
    batches: dict[int, tuple[str, str, list[NewSample]]],
) -> dict[int, list[list[Told]]]:
    """What a search answers at each version."""
    best: list[dict[str, tuple[float, str]]] = [{} for _ in PROBES]
    names: dict[str, str] = {}
    answers: dict[int, list[list[Told]]] = {0: [[] for _ in PROBES]}
    for version in sorted(batches):
        subject, names[batches[version][0]], samples = batches[version]
        rows = np.array([sample.embedding for sample in samples])
        for probe, held in zip(PROBES, best, strict=True):
            values = similarities(rows, probe).tolist()
            ranked = [(-value, str(one.id)) for value, one in zip(values, samples, strict=True)]
            held[subject] = min([*ranked, held[subject]] if subject in held else ranked)
        answers[version] = [
            [
                (subject, sample, -negative, names[subject])
                for negative, subject, sample in sorted(
                    (negative, subject, sample) for subject, (negative, sample) in held.items()
                )
            ]
            for held in best
        ]
    return answers
