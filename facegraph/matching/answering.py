"""Answers a batch of probes from one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from facegraph.config import MatcherTuning
from facegraph.errors import ContractMismatch
from facegraph.gallery import Snapshot, search
from facegraph.graph import Query
from facegraph.types import FloatArray, Head, Match, SearchResult


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What one request looks for: ``probes`` (n, d) float32, L2-normalised."""

    contract_id: str
    probes: FloatArray
    query: Query


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one batch is answered from: a snapshot, and the head it was brought to."""

    snapshot: Snapshot
    head: Head


def require_contract(view: View, item: Probe) -> None:
    """ContractMismatch for a probe that cannot be compared with what is enrolled."""
    snapshot = view.snapshot
    if snapshot.live and item.contract_id != snapshot.contract_id:
        raise ContractMismatch(
            f"the collection holds embeddings of {snapshot.contract_id}, "
            f"the probe is one of {item.contract_id}"
        )


def approximates(head: Head, tuning: MatcherTuning) -> bool:
    """Whether the collection is to be searched approximately."""
    if head.search_mode != "auto":
        return head.search_mode == "approximate"
    above = tuning.approximate_above
    return above is not None and head.sample_count > above


def answer(
    view: View,
    batch: Sequence[Probe],
    *,
    approximate: bool,
    pool: Executor | None,
    threads: int,
) -> list[SearchResult]:
    """A result per item; ``threads`` - 1 threads of ``pool`` may help. Blocks."""
    alike: dict[tuple[Any, bool], list[int]] = {}
    for place, item in enumerate(batch):
        exact = item.query.exact or not approximate
        alike.setdefault((item.query.at, exact), []).append(place)
    results: dict[int, SearchResult] = {}
    for (at, exact), places in alike.items():
        search_these = partial(search, approximate=not exact, pool=pool, threads=threads)
        found = _answer(_snapshot(view, at), view.head, [batch[p] for p in places], search_these)
        results |= zip(places, found, strict=True)
    return [results[place] for place in range(len(batch))]


def _snapshot(view: View, at: tuple[str, int] | None) -> Snapshot:
    """The view's, or as it was at a version; the view's where that cannot be told any more."""
    if at is None or at[0] != view.snapshot.incarnation:
        return view.snapshot
    return view.snapshot.at(at[1]) or view.snapshot


def _answer(
    snapshot: Snapshot,
    head: Head,
    batch: Sequence[Probe],
    search_these: Callable[..., tuple[tuple[Match, ...], ...]],
) -> list[SearchResult]:
    nothing: tuple[Match, ...] = ()
    found: Iterator[tuple[Match, ...]] = repeat(nothing)
    if snapshot.live:  # else probes of several contracts, and widths, may come together
        probes = np.concatenate([item.probes for item in batch])
        limit = max(item.query.limit for item in batch)
        found = iter(search_these(snapshot, probes, limit=limit))
    return [
        SearchResult(
            snapshot.version,
            head.threshold,
            tuple(next(found)[: item.query.limit] for _ in item.probes),
            stamp=snapshot.stamp,
            incarnation=snapshot.incarnation,
        )
        for item in batch
    ]
