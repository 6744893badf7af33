"""The embedded server is killed in the middle of enrolments: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from facegraph.config import Settings
from facegraph.errors import StoreUnavailable
from facegraph.store import EmbeddedServer, Store, open_store
from facegraph.store.filelock import FileLock
from tests.store.making import CONTRACT, sample
from tests.store.mirror import Mirror
from tests.store.workers import postmaster

pytestmark = pytest.mark.store


@pytest.fixture
def settings(short_tmp: Path) -> Iterator[Settings]:
    folder = short_tmp / "healing"
    yield Settings(data_dir=folder)
    shutil.rmtree(folder)


async def enrol(store: Store, writer: int, stop: asyncio.Event) -> tuple[set[str], int]:
    """What was acknowledged, and how often the store could not tell."""
    acknowledged: set[str] = set()
    unknown = 0
    number = 0
    while not stop.is_set():
        number += 1
        name = f"{writer}-{number}"
        try:
            made = await store.create_subject(
                "default", name, samples=[sample(writer, number, id=name)], contract=CONTRACT
            )
        except StoreUnavailable as error:
            unknown += "unknown" in error.detail
            continue
        acknowledged.add(made.samples[0].id)
    return acknowledged, unknown


async def test_every_acknowledged_sample_survives(settings: Settings) -> None:
    async with open_store(settings) as store, open_store(settings) as reader:
        await store.ensure_default(CONTRACT)
        mirror = Mirror(await reader.load("default"))
        stop = asyncio.Event()
        writers = [asyncio.create_task(enrol(store, n, stop)) for n in range(4)]
        for _ in range(3):
            await asyncio.sleep(0.5)
            os.kill(postmaster(settings.data_path), signal.SIGKILL)
            await reader.head("default")  # heals while it is asked
        await asyncio.sleep(0.5)
        stop.set()
        outcomes = await asyncio.gather(*writers)
        acknowledged = set().union(*(names for names, _ in outcomes))
        await mirror.catch_up(reader, "default")
        records = await reader.load("default")
        assert acknowledged <= set(records.sample_ids)
        assert mirror.state() == Mirror(records).state()
        # Besides, only what was being committed when the server died may be there.
        unknown = sum(count for _, count in outcomes)
        assert len(set(records.sample_ids) - acknowledged) <= unknown
        assert acknowledged
        found = await reader.get_collection("default")
        assert found.sample_count == len(records.sample_ids) == found.version


async def test_a_read_heals_without_an_error(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.ensure_default(CONTRACT)
        await store.create_subject("default", "s", samples=[sample(1)], contract=CONTRACT)
        for read in (
            lambda: store.head("default"),
            lambda: store.load("default"),
            lambda: store.get_subject("default", "s"),
        ):
            os.kill(postmaster(settings.data_path), signal.SIGKILL)
            await asyncio.gather(*(read() for _ in range(10)))


async def test_a_write_whose_connection_was_lost_before_is_done_once(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.ensure_default(CONTRACT)
        os.kill(postmaster(settings.data_path), signal.SIGKILL)
        made = await store.create_subject("default", "s", samples=[sample(1)], contract=CONTRACT)
        assert made.version == 1
        assert list((await store.load("default")).subject_ids) == ["s"]


async def test_without_a_way_to_heal_it_says_unavailable(settings: Settings) -> None:
    async with open_store(settings) as holder:
        url = EmbeddedServer(settings.data_path).url
        await holder.ensure_default(CONTRACT)
        async with Store.open(url) as store:
            os.kill(postmaster(settings.data_path), signal.SIGKILL)
            all_gone = FileLock(settings.data_path / "postgres" / "server.lock")
            all_gone.acquire(10)  # a session may answer once more before it notices
            all_gone.release()
            with pytest.raises(StoreUnavailable):
                await store.head("default")
            await holder.ping()
            assert (await store.head("default")).version == 0


async def test_a_closed_store_says_so(settings: Settings) -> None:
    store = await open_store(settings)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.heads()
