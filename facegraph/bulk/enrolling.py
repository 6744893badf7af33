"""The one writer: outcomes into a collection, in batches of one transaction each."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from facegraph.bulk.report import BulkReport
from facegraph.bulk.sampling import Known, Outcome, insist
from facegraph.importing.enrolling import BATCH, Entry, enrol
from facegraph.importing.report import Rejection
from facegraph.store import Store
from facegraph.types import Contract

WRITE_WITHIN_S = 2.0
"""What waits for a full batch is written after this time."""


async def enrol_outcomes(
    outcomes: AsyncGenerator[Sequence[Outcome]],
    store: Store,
    collection_id: str,
    contract: Contract,
    report: BulkReport,
) -> None:
    """Enrols until ``outcomes`` end. What was counted as new in ``report`` is committed.

    ContractMismatch, CollectionNotFound, StoreUnavailable, and whatever ``outcomes`` raises.
    """
    waiting: list[Entry] = []
    written_at = time.monotonic()
    async with aclosing(outcomes) as batches:
        async for batch in batches:
            for outcome in batch:
                match outcome:
                    case Entry():
                        waiting.append(outcome)
                    case Known(subject_id):
                        report.subjects({subject_id}, set())
                        report.samples(0, 1)
                    case Rejection():
                        report.reject(outcome)
            late = time.monotonic() - written_at > WRITE_WITHIN_S
            while len(waiting) >= BATCH or (late and waiting):
                await _write(store, collection_id, waiting[:BATCH], contract, report)
                del waiting[:BATCH]
                written_at = time.monotonic()
    await _write(store, collection_id, waiting, contract, report)


async def _write(
    store: Store,
    collection_id: str,
    entries: Sequence[Entry],
    contract: Contract,
    report: BulkReport,
) -> None:
    """Idempotent by the samples' ids, so it may be tried again whatever became of it."""
    await insist(partial(enrol, store, collection_id, entries, contract, report))
