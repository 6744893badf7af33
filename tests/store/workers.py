"""What the tests' other processes do; importable, so that a fresh interpreter can run it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from facegraph.store import EmbeddedServer, Store
from facegraph.store.migrations import migrate
from tests.store.making import CONTRACT, sample

T = TypeVar("T")


def side_by_side(work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """Runs ``work`` once per tuple, each in a process of its own, all at once."""
    start = multiprocessing.get_context("spawn")
    with start.Manager() as manager:
        gate = manager.Barrier(len(arguments))
        with ProcessPoolExecutor(len(arguments), mp_context=start) as pool:
            running = [pool.submit(_at_once, gate, work, given) for given in arguments]
            return [one.result() for one in running]


def _at_once(gate: Any, work: Callable[..., T], given: tuple[Any, ...]) -> T:
    gate.wait(60)
    return work(*given)


def write_many(url: str, writer: int, writes: int) -> list[tuple[int, str, str]]:
    """Enrols subjects of its own; the version, subject id and sample id of each write."""

    tasks = 4

    async def write_share(store: Store, task: int) -> list[tuple[int, str, str]]:
        done = []
        for n in range(task, writes, tasks):
            made = await store.create_subject(
                "default",
                f"w{writer}-{n}",
                samples=[sample(writer, n, id=f"x{writer}-{n}")],
                contract=CONTRACT,
            )
            done.append((made.version, made.subject.id, made.samples[0].id))
        return done

    async def run() -> list[tuple[int, str, str]]:
        async with Store.open(url, pool_size=tasks) as store:
            shares = await asyncio.gather(*(write_share(store, task) for task in range(tasks)))
        return [entry for share in shares for entry in share]

    return asyncio.run(run())


def replace_often(url: str, writer: int, rounds: int) -> list[int]:
    """Replaces the subject ``s`` by three samples of this writer; the versions it made."""

    async def run() -> list[int]:
        async with Store.open(url) as store:
            return [await replace(store, n) for n in range(rounds)]

    async def replace(store: Store, n: int) -> int:
        new = [sample(writer, n, id=f"w{writer}-{n}-{i}") for i in range(3)]
        name = f"w{writer}-{n}"
        made = await store.replace_subject(
            "default", "s", name=name, samples=new, contract=CONTRACT
        )
        return made.version

    return asyncio.run(run())


def migrate_now(url: str) -> None:
    asyncio.run(migrate(url))


def count_strangers(url: str, rounds: int) -> list[int]:
    async def run() -> list[int]:
        async with Store.open(url) as store:
            return [await store.next_stranger("default") for _ in range(rounds)]

    return asyncio.run(run())


def read_and_write_exclusively(url: str, folder: str, rounds: int) -> None:
    """Counts in a file, which only comes out right when one process at a time is inside."""

    async def run() -> None:
        counter = Path(folder) / "counter"
        async with Store.open(url) as store:
            for _ in range(rounds):
                async with store.exclusive("default", "count", timeout_s=60):
                    number = int(counter.read_text())
                    await asyncio.sleep(0)
                    counter.write_text(str(number + 1))

    asyncio.run(run())


def start_server(data_dir: str) -> tuple[str, int]:
    """Its URL, and the pid of the postmaster that answers."""
    server = EmbeddedServer(Path(data_dir))
    return server.ensure_running(), postmaster(data_dir)


def postmaster(data_dir: str | Path) -> int:
    pid_file = Path(data_dir) / "postgres" / "data" / "postmaster.pid"
    return int(pid_file.read_text().split("\n", 1)[0])


def hold_and_die(data_dir: str) -> None:
    """Uses the server and is killed."""
    EmbeddedServer(Path(data_dir)).hold()
    os.kill(os.getpid(), signal.SIGKILL)
