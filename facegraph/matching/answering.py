"""Answers a batch of probes from one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

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
    snapshot, threshold = view.snapshot, view.head.threshold
    if not snapshot.live:
        nothing: tuple[Match, ...] = ()
        return [
            SearchResult(
                snapshot.version, threshold, (nothing,) * len(item.probes), stamp=snapshot.stamp
            )
            for item in batch
        ]
    probes = np.concatenate([item.probes for item in batch])
    limit = max(item.query.limit for item in batch)
    found = iter(
        search(snapshot, probes, limit=limit, approximate=approximate, pool=pool, threads=threads)
    )
    return [
        SearchResult(
            snapshot.version,
            threshold,
            tuple(next(found)[: item.query.limit] for _ in item.probes),
            stamp=snapshot.stamp,
        )
        for item in batch
    ]
