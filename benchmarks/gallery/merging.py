"""One query at a time while the gallery is merged into a new base, beside quiet ones."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks.gallery import ours
from benchmarks.gallery.cell import Cell
from benchmarks.gallery.people import stranger
from facegraph.gallery import Gallery
from facegraph.types import Change, SubjectRecord

ADDED = 1 / 16
"""Of the samples: about as many enrolments as make a merge due."""

COLUMNS = (
    "one query", "times", "p50 ms", "p99 ms", "p50 of quiet", "p99 of quiet", "merge took s",
)  # fmt: skip


def run(cell: Cell) -> None:
    """Adds the table; only where ``cell`` is the largest."""
    if not cell.largest:
        return
    cell.say("searches during a merge")
    gallery = ours.build(cell.people.records)
    enrol(cell, gallery, int(ADDED * cell.samples))
    quiet: list[float] = []
    during: list[float] = []
    seconds: list[float] = []
    with ThreadPoolExecutor(1, initializer=_yield_to_searches) as pool:
        for _ in range(cell.options.rounds):
            quiet += _queries(cell, gallery, 4 * cell.options.seconds)
            merge = pool.submit(_seconds_of_merge, gallery)
            during += _queries(cell, gallery, merge)
            seconds.append(merge.result())
    table = cell.report.table("churn", f"{cell}: searches during a merge", COLUMNS)
    base = np.percentile(quiet, [50, 99]) * 1000
    table.add("quiet", len(quiet), *map(float, base), None, None, None)
    slow = np.percentile(during, [50, 99]) * 1000
    took = float(np.median(seconds))
    table.add("merging", len(during), *map(float, slow), *map(float, slow / base), took)


def enrol(cell: Cell, gallery: Gallery, count: int) -> None:
    """Adds ``count`` strangers to the gallery, as one later version."""
    random = np.random.default_rng(cell.options.seed)
    head = replace(cell.people.records.head, version=gallery.snapshot.version + 1)
    changes = []
    for number in range(count):
        name = f"stranger {number}"
        record = SubjectRecord(name, None, {})
        embedding = stranger(random, cell.dimension)
        changes += [
            Change(head.version, "subject_upserted", name, subject=record),
            Change(head.version, "sample_added", name, name, embedding=embedding),
        ]
    gallery.apply(head, changes)


def _seconds_of_merge(gallery: Gallery) -> float:
    """The new base is forgotten: the next round merges the same."""
    began = time.perf_counter()
    ours.merge(gallery)
    return time.perf_counter() - began


def _yield_to_searches() -> None:
    """As the matcher has its merges do."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _queries(cell: Cell, gallery: Gallery, until: float | Future[float]) -> list[float]:
    """Seconds each took, for that many seconds or until that is done."""
    took: list[float] = []
    probes, began = cell.people.probes, time.perf_counter()
    while not took or not (
        until.done() if isinstance(until, Future) else time.perf_counter() - began > until
    ):
        at = len(took) % len(probes)
        start = time.perf_counter()
        ours.find(gallery.snapshot, probes[at : at + 1])
        took.append(time.perf_counter() - start)
    return took
