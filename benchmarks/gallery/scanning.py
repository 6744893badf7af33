"""The engines side by side: probes a second in batches of 1, 8 and 64, and what they find.

Ours stays while the others come and go, and takes its turn beside each of theirs, as does the bare
reading of the int8 matrix; every ratio is of turns that lie side by side.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.gallery import engines, ours, pgvector
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.engines import Engine
from benchmarks.gallery.report import Table
from benchmarks.gallery.truth import Recall, recall
from benchmarks.gallery.turns import seconds_a_batch

BATCHES = (1, 8, 64)
RECALL_TURNS = 20
OURS = "ours"

COLUMNS = (
    "engine", "finds", "1: probes/s", "8: probes/s", "64: probes/s", "1: ms", "1: of the read",
    "1: of ours", "8: of ours", "64: of ours", "top-1", "top-1 of the known", "top-5", "built in s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peer:
    """most_numbers: with more, samples × dimension, building takes too long to wait for"""

    name: str
    open: Callable[[Cell], AbstractContextManager[Engine]]
    package: str | None = None
    most_numbers: int | None = None

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def bearable(self, cell: Cell) -> bool:
        """Whether it is built soon enough."""
        return self.most_numbers is None or cell.samples * cell.dimension <= self.most_numbers


PEERS = (
    *(
        Peer(f"ours, {storage}", lambda cell, of=storage: ours.gallery(cell.people.records, of))  # type: ignore[misc]
        for storage in ours.STORAGES
    ),
    Peer("ours, approximate", lambda cell: ours.approximate_gallery(cell.people.records)),
    Peer("FAISS flat", lambda cell: engines.faiss_flat(cell.people), "faiss"),
    Peer("usearch exact f32", lambda cell: engines.usearch_exact(cell.people, "f32"), "usearch"),
    Peer("usearch exact i8", lambda cell: engines.usearch_exact(cell.people, "i8"), "usearch"),
    Peer("torch bf16", lambda cell: engines.torch_bf16(cell.people)),
    Peer("NumPy", lambda cell: engines.numpy_matmul(cell.people)),
    Peer("hnswlib", lambda cell: engines.hnswlib_index(cell.people), "hnswlib", 60_000_000),
    Peer("pgvector exact", lambda cell: pgvector.exact_scan(cell.people, cell.empty_database)),
    Peer(
        "pgvector HNSW",
        lambda cell: pgvector.hnsw(cell.people, cell.empty_database),
        most_numbers=30_000_000,
    ),
)


@dataclass(slots=True)
class Times:
    """Of one way at one batch size, round by round: probes a second, of the read, of ours."""

    rates: list[float] = field(default_factory=list)
    of_read: list[float] = field(default_factory=list)
    of_ours: list[float] = field(default_factory=list)

    def add(self, rate: float, read: float, our_rate: float) -> None:
        self.rates.append(rate)
        self.of_read.append(1 / rate / read)
        self.of_ours.append(rate / our_rate)


Results = defaultdict[tuple[str, int], Times]


def run(cell: Cell) -> None:
    """Adds a table for this size."""
    table = cell.report.table("engine", f"{cell}: one engine, no network", COLUMNS)
    reads: list[float] = []
    times: Results = defaultdict(Times)
    records = cell.people.records
    began = time.perf_counter()
    with ours.gallery(records) as mine:
        built = time.perf_counter() - began
        found = _recall(cell, mine)
        for peer in PEERS:
            if peer.name in cell.options.engines and _possible(cell, peer, table):
                _contest(cell, mine, peer, table, (times, reads))
        if not reads:
            _rounds(cell, mine, mine, (times, reads, defaultdict(Times)))
        _row(table, OURS, "subjects", times, found, built)
    table.rows.insert(0, table.rows.pop())
    read = statistics.median(reads)
    size = cell.samples * cell.dimension
    mib, rate = size / 2**20, size / read / 1e9
    table.notes.insert(
        0,
        f"Ours chose {mine.about}. The int8 matrix ({mib:,.0f} MiB) is read in "
        f"{read * 1000:.2f} ms, {rate:.1f} GB/s.",
    )


def _possible(cell: Cell, peer: Peer, table: Table) -> bool:
    if not peer.installed:
        table.notes.append(f"{peer.name} is not installed.")
    elif not peer.bearable(cell):
        table.notes.append(f"{peer.name} would take minutes to build.")
    else:
        return True
    return False


def _contest(
    cell: Cell, mine: Engine, peer: Peer, table: Table, sums: tuple[Results, list[float]]
) -> None:
    cell.say(peer.name)
    times: Results = defaultdict(Times)
    began = time.perf_counter()
    with peer.open(cell) as engine:
        built = time.perf_counter() - began
        found = _recall(cell, engine)
        _rounds(cell, mine, engine, (*sums, times))
    for way in engine.ways:
        _row(table, peer.name, way, times, found if way == "subjects" else None, built)


def _recall(cell: Cell, engine: Engine) -> Recall:
    batch = BATCHES[-1] if engine.batches else 1
    seconds = RECALL_TURNS * cell.options.seconds
    way = engine.ways["subjects"]
    return recall(way, engine.numbers, cell.people, cell.truth, batch=batch, seconds=seconds)


def _rounds(
    cell: Cell, mine: Engine, engine: Engine, sums: tuple[Results, list[float], Results]
) -> None:
    """Turns of the read, of ours and of each way of ``engine``, at every batch size."""
    our_times, reads, times = sums
    seconds, probes = cell.options.seconds, cell.people.probes
    for _ in range(cell.options.rounds):
        for batch in BATCHES:
            read = cell.read_seconds()
            reads.append(read)
            rate = batch / seconds_a_batch(mine.ways["subjects"], probes, batch, seconds)
            our_times["subjects", batch].add(rate, read, rate)
            for name, way in engine.ways.items() if engine is not mine else ():
                asked = batch if engine.batches else _affordable(times[name, 1], batch)
                theirs = asked / seconds_a_batch(way, probes, asked, seconds)
                times[name, batch].add(theirs, read, rate)


def _affordable(single: Times, batch: int) -> int:
    """How much of a batch to ask of who answers one probe at a time: about a second's worth."""
    return min(batch, max(1, int(single.rates[0]))) if single.rates else batch


def _row(
    table: Table, name: str, way: str, times: Results, found: Recall | None, built: float
) -> None:
    each = [times[way, batch] for batch in BATCHES]
    single = each[0]
    table.add(
        name,
        way,
        *(statistics.median(of.rates) for of in each),
        1000 / statistics.median(single.rates),
        statistics.median(single.of_read),
        *(statistics.median(of.of_ours) for of in each),
        found.top_1 if found else None,
        found.known if found else None,
        found.top_5 if found else None,
        built,
    )
