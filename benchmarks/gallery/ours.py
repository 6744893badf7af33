"""This project's gallery as the benchmarks open it: the one place that knows its signatures."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gallery.database import COLLECTION
from benchmarks.gallery.engines import Engine
from benchmarks.gallery.people import subject_number
from benchmarks.gallery.truth import LIMIT
from benchmarks.gallery.turns import cores
from facegraph.config import MatcherTuning
from facegraph.gallery import Base, Gallery, Snapshot, search
from facegraph.gallery.approximating import approximated
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.matching.upkeep import FEW_ROWS
from facegraph.store import Store
from facegraph.types import FloatArray, GalleryRecords, Match

STORAGES = ("float32", "bf16", "int8")

SEARCH = Query(limit=LIMIT)
EVENTUAL = Query(limit=LIMIT, consistency="eventual")

TUNING = MatcherTuning(pinned=(COLLECTION,))

_FILE_S = 300

Answer = tuple[tuple[Match, ...], ...]


def build(records: GalleryRecords, storage: str = "auto") -> Gallery:
    """A gallery in memory."""
    return Gallery.of(records, storage)


def find(snapshot: Snapshot, probes: FloatArray, *, approximate: bool = False) -> Answer:
    """The best subjects, with all cores: a thread of each, which multiplies by itself."""
    return search(
        snapshot,
        probes,
        limit=LIMIT,
        approximate=approximate,
        pool=_helpers(),
        threads=cores(),
    )


def merge(gallery: Gallery) -> Gallery:
    """The gallery on a new base, as the matcher makes it in the background."""
    return gallery.rebased(Base.build(gallery.merged_records()))


def numbers(answer: Sequence[Sequence[Match]]) -> list[list[int]]:
    """The subjects found, as numbers."""
    return [[subject_number(match.subject_id) for match in matches] for matches in answer]


@contextmanager
def gallery(records: GalleryRecords, storage: str = "auto") -> Iterator[Engine]:
    """It answers subjects only, with their names."""
    made = build(records, storage)
    kept = made.snapshot.base.storage
    yield Engine({"subjects": lambda probes: find(made.snapshot, probes)}, numbers, about=kept)


@contextmanager
def approximate_gallery(records: GalleryRecords) -> Iterator[Engine]:
    """As :func:`gallery`, its candidates chosen by an approximate index."""
    made = build(records)
    near = approximated(made.snapshot.base, threads=cores(), cancelled=lambda: False)
    snapshot = made.equip(near)
    yield Engine({"subjects": lambda probes: find(snapshot, probes, approximate=True)}, numbers)


def matcher(store: Store, folder: Path | None = None) -> Matcher:
    """A matcher with all cores; ``folder``: where it keeps galleries as files."""
    make: Any = Matcher
    made: Matcher = make(store, TUNING, threads=cores(), folder=folder)
    return made


def leaves_file(samples: int) -> bool:
    """Whether a matcher with a folder writes a gallery of that size to a file."""
    return samples >= FEW_ROWS


def wait_for_file(folder: Path) -> None:
    """Until a matcher has written one, which it does when it is at leisure."""
    end = time.monotonic() + _FILE_S
    while not any(folder.glob("*.gallery")):
        if time.monotonic() > end:
            raise SystemExit(f"the matcher wrote no file within {_FILE_S} s")
        time.sleep(0.1)


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())
