"""What a sample costs in memory: the growth of a child process that holds nothing else.

Private is the process's own; shared is what it maps of a file, which the replicas of a machine
have in common.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.people import People
from facegraph.store import Store
from facegraph.types import GalleryRecords

COLUMNS = (
    "what", "private bytes a sample", "shared bytes a sample", "of its float32",
    "most on the way, bytes a sample",
)  # fmt: skip

MATCHER, MAPPED = "matcher", "matcher, started from a file"

_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident; ``peak`` is the most there ever were."""

    private: int
    shared: int
    peak: int


@dataclass(frozen=True, slots=True)
class Task:
    """What a child holds: a gallery of ``storage``, or a matcher where it is MATCHER or MAPPED.

    rows: a folder with ``embeddings.npy``, ``row_subjects.npy`` and room for galleries
    """

    storage: str
    rows: Path
    per_subject: int
    database: str
    contract_id: str
    dimension: int


def run(cell: Cell) -> None:
    """Adds the table; only where ``cell`` is the largest of its dimension."""
    if not cell.last:
        return
    table = cell.report.table("memory", f"{cell}: memory", COLUMNS)
    mapped = [MAPPED] if ours.leaves_file(cell.samples) else []
    with tempfile.TemporaryDirectory(prefix="fg-") as name:
        rows = Path(name)
        np.save(rows / "embeddings.npy", cell.people.embeddings)
        np.save(rows / "row_subjects.npy", cell.people.row_subjects)
        for storage in (*ours.STORAGES, MATCHER, *mapped):
            cell.say(f"memory, {storage}")
            contract = cell.people.contract
            task = Task(
                storage,
                rows,
                cell.options.per_subject,
                cell.database,
                contract.id,
                cell.dimension,
            )
            if storage == MAPPED:
                in_child(task)  # leaves the file
            grown = in_child(task)
            private, shared, peak = (
                part / cell.samples for part in (grown.private, grown.shared, grown.peak)
            )
            table.add(storage, private, shared, (private + shared) / (4 * cell.dimension), peak)
    table.notes.append(f"A sample is {4 * cell.dimension:,} bytes of float32, and its id 36.")


def in_child(task: Task) -> Memory:
    """What a new process grew by when it had made what ``task`` says and forgot all else."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, task), daemon=True)
    process.start()
    theirs.close()
    try:
        if not mine.poll(_TIMEOUT_S):
            raise SystemExit(f"{task.storage} was not built within {_TIMEOUT_S} s")
        before, after = mine.recv()
    except EOFError:
        raise SystemExit(f"the process that builds {task.storage} ended; see above") from None
    finally:
        process.terminate()
        process.join()
    return Memory(
        after.private - before.private, after.shared - before.shared, after.peak - before.peak
    )


def _child(pipe: Connection, task: Task) -> None:
    tiny = People.of(64, 64)
    ours.find(ours.build(tiny.records).snapshot, tiny.probes[:64])  # loads what searches need
    if task.storage in {MATCHER, MAPPED}:
        asyncio.run(_hold_matcher(pipe, task))
    else:
        _hold_gallery(pipe, task)


def _hold_gallery(pipe: Connection, task: Task) -> None:
    before = resident()
    gallery = ours.build(_records(task.rows, task.per_subject), task.storage)
    ours.find(gallery.snapshot, np.eye(1, task.dimension, dtype=np.float32))
    pipe.send((before, resident()))


async def _hold_matcher(pipe: Connection, task: Task) -> None:
    folder = task.rows / "galleries" if task.storage == MAPPED else None
    async with Store.open(task.database) as store:
        before = resident()
        matcher = ours.matcher(store, folder=folder)
        await matcher.start()
        probe = np.eye(1, task.dimension, dtype=np.float32)
        await matcher.match(COLLECTION, task.contract_id, probe, ours.SEARCH)
        if folder is not None:
            await asyncio.to_thread(ours.wait_for_file, folder)
        pipe.send((before, resident()))
        await matcher.close()


def _records(rows: Path, per_subject: int) -> GalleryRecords:
    embeddings, row_subjects = (
        np.load(rows / f"{name}.npy") for name in ("embeddings", "row_subjects")
    )
    nobody = np.zeros(0, np.bool_)
    return People(embeddings, row_subjects, embeddings[:0], nobody, per_subject).records


def resident() -> Memory:
    """Of this process, now, when what is free has been given back."""
    gc.collect()
    trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    trim(0)
    rollup = _kilobytes(Path("/proc/self/smaps_rollup"))
    private = rollup["Anonymous"]
    peak = _kilobytes(Path("/proc/self/status"))["VmHWM"]
    return Memory(private, rollup["Rss"] - private, peak)


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if parts[-1] == "kB"}
