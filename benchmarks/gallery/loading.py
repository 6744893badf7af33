"""From PostgreSQL to the first search, beside the bare COPY of the same rows into memory."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import COLLECTION
from facegraph.store import Store

COLUMNS = ("what", "seconds", "of the COPY")

_COPY = """
COPY (SELECT id, subject_id, embedding FROM facegraph.samples WHERE collection_id = %s)
TO STDOUT (FORMAT BINARY)
"""

COPIED, ANSWERED = "bare COPY", "to the first answer"
FROM_FILE = "to the first answer, from a file"


def run(cell: Cell) -> None:
    """Adds the table; only where ``cell`` is the largest of its dimension."""
    if cell.last:
        asyncio.run(_run(cell, cell.database))


async def _run(cell: Cell, url: str) -> None:
    cell.say("loading")
    took: dict[str, list[float]] = defaultdict(list)

    async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
        began = time.perf_counter()
        result = await work()
        took[name].append(time.perf_counter() - began)
        del result

    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        async with Store.open(url) as store:
            kept = Path(folder) / "galleries"
            await asyncio.to_thread(copy_out, url)  # warms PostgreSQL's cache
            files = ours.leaves_file(cell.samples)
            if files:
                await _leave_file(store, kept)
            for _ in range(min(cell.options.rounds, 3)):
                await timed(COPIED, lambda: asyncio.to_thread(copy_out, url))
                await timed("records", lambda: store.load(COLLECTION))
                await timed(ANSWERED, lambda: _first_answer(cell, store, None))
                if files:
                    await timed(FROM_FILE, lambda: _first_answer(cell, store, kept))
    table = cell.report.table("load", f"{cell}: loading", COLUMNS)
    for name, each in took.items():
        ratios = [mine / bare for mine, bare in zip(each, took[COPIED], strict=True)]
        table.add(name, statistics.median(each), statistics.median(ratios))


def copy_out(url: str) -> list[bytes]:
    """Every row in memory, as it came."""
    with psycopg.connect(url) as connection, connection.cursor().copy(_COPY, [COLLECTION]) as copy:
        return [bytes(block) for block in copy]


async def _first_answer(cell: Cell, store: Store, folder: Path | None) -> None:
    matcher = ours.matcher(store, folder=folder)
    try:
        await matcher.start()
        probe = cell.people.probes[:1]
        await matcher.match(COLLECTION, cell.people.contract.id, probe, ours.SEARCH)
    finally:
        await matcher.close()


async def _leave_file(store: Store, folder: Path) -> None:
    """Has a matcher write its gallery, which it does when it is at leisure."""
    matcher = ours.matcher(store, folder=folder)
    try:
        await matcher.start()
        await asyncio.to_thread(ours.wait_for_file, folder)
    finally:
        await matcher.close()
