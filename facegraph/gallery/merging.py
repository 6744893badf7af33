"""The records of all that lives in one version of a gallery, to build a base of."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facegraph.columns import Texts
from facegraph.gallery.snapshot import Rows, Snapshot
from facegraph.types import FloatArray, Head


@dataclass(frozen=True, slots=True, eq=False)
class MergedRecords:
    """As :class:`facegraph.types.GalleryRecords`, but for embeddings that are read by and by."""

    head: Head
    subject_ids: Texts
    subject_details: Texts
    sample_ids: Texts
    row_subjects: npt.NDArray[np.int32]
    embeddings: MergedEmbeddings


@dataclass(frozen=True, slots=True, eq=False)
class MergedEmbeddings:
    """Those of some rows of a snapshot, gathered when they are asked for."""

    snapshot: Snapshot
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> FloatArray:
        return self.snapshot.embeddings(self.rows[part])


def merged(
    snapshot: Snapshot, head: Head, gone: Collection[int], added_subjects: int
) -> MergedRecords:
    """What ``snapshot``, which is at ``head``, holds.

    gone: subjects that were removed by then; a subject without samples is there all the same
    added_subjects: how many came after the base
    """
    rows = np.flatnonzero(snapshot.alive(np.arange(snapshot.rows)))
    total = snapshot.base.subjects + added_subjects
    lost = np.fromiter(gone, np.intp, len(gone))
    kept = np.setdiff1d(np.arange(total), lost, assume_unique=True)
    slots = np.zeros(total, np.int32)
    slots[kept] = np.arange(len(kept))
    late = rows[np.searchsorted(rows, snapshot.base.rows) :]
    early = rows[: len(rows) - len(late)]
    return MergedRecords(
        head,
        *_subjects(snapshot, kept),
        snapshot.base.sample_ids.take(early) + Texts.of(map(snapshot.sample_id, late)),
        slots[snapshot.subjects_of(rows)],
        MergedEmbeddings(snapshot, rows),
    )


def _subjects(snapshot: Snapshot, kept: npt.NDArray[np.intp]) -> tuple[Texts, Texts]:
    """Ids and details of the subjects ``kept``, ascending."""
    base = snapshot.base
    late = kept[np.searchsorted(kept, base.subjects) :]
    early = kept[: len(kept) - len(late)]
    renamed = np.intersect1d(np.array(list(snapshot.renamed), np.intp), early)
    places = np.searchsorted(early, renamed).tolist()
    details = base.subject_details.take(early).replaced(
        {place: _detail(snapshot, slot) for place, slot in zip(places, renamed, strict=True)}
    )
    ids = base.subject_ids.take(early) + Texts.of(map(snapshot.subject_id, late))
    return ids, details + Texts.of(_detail(snapshot, slot) for slot in late)


def _detail(snapshot: Snapshot, slot: np.intp) -> str:
    record = snapshot.subject(slot)
    return json.dumps([record.name, record.metadata])
