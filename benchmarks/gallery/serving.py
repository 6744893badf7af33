"""Clients that ask one probe each, without pause: the matcher over PostgreSQL, and the peers.

Every batch of ours asks PostgreSQL for the collection's version first (law 4), and tells names. The
libraries know neither; one call at a time is made of them, with all cores, as they are meant to
be used, so that whoever waits waits for those before.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.engines import Engine
from benchmarks.gallery.report import Table
from benchmarks.gallery.scanning import OURS, PEERS, Peer
from benchmarks.gallery.turns import Traffic, cores, ratio, seconds_a_batch, traffic
from facegraph.store import Store
from facegraph.types import FloatArray

CLIENTS = (1, 16, 64)
SERVED = ("FAISS flat", "usearch exact i8", "torch bf16", "pgvector exact", "pgvector HNSW")
"""The peers that are asked by clients: the best of each kind."""

TURNS = 2
"""How much longer a turn is here: clients take a while to fall into step."""

COLUMNS = (
    "engine", "clients", "answers/s", "p50 ms", "p99 ms", "of ours", "of its one client",
    "of the read",
)  # fmt: skip

Ask = Callable[[FloatArray], Awaitable[object]]
Results = defaultdict[tuple[str, int], list[tuple[Traffic, float, float]]]


def run(cell: Cell) -> None:
    """Adds a table for this size."""
    asyncio.run(_run(cell, cell.database))


async def _run(cell: Cell, url: str) -> None:
    results: Results = defaultdict(list)
    async with Store.open(url) as store:
        matcher = ours.matcher(store)
        await matcher.start()
        try:
            mine: Ask = lambda probes: matcher.match(  # noqa: E731
                COLLECTION, cell.people.contract.id, probes, ours.SEARCH
            )
            await mine(cell.people.probes[:1])
            peers = [peer for peer in PEERS if _served(cell, peer)]
            for peer in peers:
                await _contest(cell, mine, peer, results)
            if not results:  # no peer took part
                await _rounds(cell, mine, {}, results)
        finally:
            await matcher.close()
    table = cell.report.table("end-to-end", f"{cell}: clients, end to end", COLUMNS)
    _fill(table, results)
    table.notes.append(
        f"Turns of {TURNS * cell.options.seconds:g} s: who waited longer is in no percentile; "
        "peers that answer fewer than four single queries in one are left out."
    )


def _served(cell: Cell, peer: Peer) -> bool:
    asked = peer.name in SERVED and peer.name in cell.options.engines
    return asked and peer.installed and peer.bearable(cell)


async def _contest(cell: Cell, mine: Ask, peer: Peer, results: Results) -> None:
    cell.say(f"clients of {peer.name}")
    with peer.open(cell) as engine:
        single = seconds_a_batch(engine.ways["subjects"], cell.people.probes, 1, 0)
        if single > TURNS * cell.options.seconds / 4:
            return  # too few answers in a turn to count
        with ThreadPoolExecutor(1 if engine.batches else cores()) as pool:
            await _rounds(cell, mine, {peer.name: _asking(engine, pool)}, results)


def _asking(engine: Engine, pool: ThreadPoolExecutor) -> Ask:
    async def ask(probes: FloatArray) -> object:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, engine.ways["subjects"], probes)

    return ask


async def _rounds(cell: Cell, mine: Ask, others: dict[str, Ask], results: Results) -> None:
    seconds = TURNS * cell.options.seconds
    for _ in range(cell.options.rounds):
        for clients in CLIENTS:
            read = cell.read_seconds()
            base = await traffic(mine, cell.people.probes, clients, seconds)
            results[OURS, clients].append((base, 1.0, ratio(1, base.rate * read)))
            for name, ask in others.items():
                seen = await traffic(ask, cell.people.probes, clients, seconds)
                turn = seen, ratio(seen.rate, base.rate), ratio(1, seen.rate * read)
                results[name, clients].append(turn)


def _fill(table: Table, results: Results) -> None:
    names = list(dict.fromkeys(name for name, _ in results))
    for (name, clients), turns in sorted(results.items(), key=lambda item: names.index(item[0][0])):
        middle = partial(_median, turns)
        single = _median(results[name, CLIENTS[0]], lambda turn: turn[0].rate)
        table.add(
            name,
            clients,
            middle(lambda turn: turn[0].rate),
            middle(lambda turn: turn[0].p50_ms),
            middle(lambda turn: turn[0].p99_ms),
            middle(lambda turn: turn[1]),
            ratio(middle(lambda turn: turn[0].rate), single),
            middle(lambda turn: turn[2]),
        )


def _median(
    turns: list[tuple[Traffic, float, float]], of: Callable[[tuple[Traffic, float, float]], float]
) -> float:
    return statistics.median(of(turn) for turn in turns)
