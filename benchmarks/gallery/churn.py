"""Searches while many are enrolled, beside quiet ones."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.report import Table
from benchmarks.gallery.turns import Traffic, traffic
from benchmarks.gallery.writing import Writer
from facegraph.matcher import Matcher
from facegraph.store import Store
from facegraph.types import FloatArray

ENROLMENTS_A_MINUTE = 10_000
CLIENTS = (1, 16)
TURNS = 20
"""How much longer a turn is here, so that there is a p99."""

COLUMNS = (
    "clients", "when", "answers/s", "p50 ms", "p99 ms", "p50 of quiet", "p99 of quiet",
    "enrolments/minute", "enrolment p99 ms",
)  # fmt: skip


class _Round(NamedTuple):
    quiet: Traffic
    busy: Traffic
    written: Traffic


def run(cell: Cell) -> None:
    """Adds the table; only where ``cell`` is the largest."""
    if cell.largest:
        asyncio.run(_run(cell, cell.database))


async def _run(cell: Cell, url: str) -> None:
    cell.say("searches while many are enrolled")
    title = f"{cell}: {ENROLMENTS_A_MINUTE:,} enrolments a minute while searching"
    table = cell.report.table("churn", title, COLUMNS)
    async with Store.open(url) as store:
        matcher = ours.matcher(store)
        await matcher.start()
        try:
            with Writer(url, cell.people.contract, ENROLMENTS_A_MINUTE / 60) as writer:
                for clients in CLIENTS:
                    rounds = [
                        await _round(cell, matcher, writer, clients)
                        for _ in range(cell.options.rounds)
                    ]
                    _add(table, clients, rounds)
        finally:
            await matcher.close()


async def _round(cell: Cell, matcher: Matcher, writer: Writer, clients: int) -> _Round:
    contract_id, seconds = cell.people.contract.id, TURNS * cell.options.seconds

    async def ask(probes: FloatArray) -> object:
        return await matcher.match(COLLECTION, contract_id, probes, ours.SEARCH)

    await ask(cell.people.probes[:1])
    quiet = await traffic(ask, cell.people.probes, clients, seconds)
    writer.start()
    busy = await traffic(ask, cell.people.probes, clients, seconds)
    return _Round(quiet, busy, await asyncio.to_thread(writer.stop))


def _add(table: Table, clients: int, rounds: Sequence[_Round]) -> None:
    def middle(values: Sequence[float]) -> float:
        return statistics.median(values)

    def traffic_of(turns: Sequence[Traffic]) -> list[float]:
        return [
            middle([turn.rate for turn in turns]),
            middle([turn.p50_ms for turn in turns]),
            middle([turn.p99_ms for turn in turns]),
        ]

    quiet, busy, written = zip(*rounds, strict=True)
    table.add(clients, "quiet", *traffic_of(quiet), None, None, None, None)
    table.add(
        clients,
        "enrolling",
        *traffic_of(busy),
        middle([each.busy.p50_ms / each.quiet.p50_ms for each in rounds]),
        middle([each.busy.p99_ms / each.quiet.p99_ms for each in rounds]),
        middle([each.rate * 60 for each in written]),
        middle([each.p99_ms for each in written]),
    )
