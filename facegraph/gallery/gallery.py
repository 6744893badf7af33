"""A collection's in-memory index: append-only rows, tombstones, versions swapped atomically.

One writer calls :meth:`Gallery.apply`; any number of threads search ``gallery.snapshot``. New
rows go behind the last row of every snapshot there is, into spare capacity that doubles; a
removed row becomes a tombstone in the next snapshot only. Past a quarter of tombstones the
gallery is rewritten without them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from facegraph.gallery.snapshot import Snapshot
from facegraph.types import Change, FloatArray, GalleryRecords, Head, SubjectRecord

_SPARE_ROWS = 64


class Gallery:
    """The index of one collection, built from records and kept current by changes."""

    def __init__(self, records: GalleryRecords) -> None:
        self._subjects: list[SubjectRecord] = list(records.subjects)
        self._slots = {subject.id: slot for slot, subject in enumerate(self._subjects)}
        self._sample_ids: list[str] = list(records.sample_ids)
        self._embeddings: FloatArray = records.embeddings
        self._row_subjects: npt.NDArray[np.int32] = np.array(
            [self._slots[subject_id] for subject_id in records.subject_ids], np.int32
        )
        self._rows: dict[str, int] = {sample: row for row, sample in enumerate(self._sample_ids)}
        self._rows_of: dict[str, set[int]] = {}
        for row, subject_id in enumerate(records.subject_ids):
            self._rows_of.setdefault(subject_id, set()).add(row)
        self._dead: set[int] = set()
        self.snapshot = self._freeze(records.head)

    def apply(self, head: Head, changes: Iterable[Change]) -> Snapshot:
        """Takes in ``changes``, oldest first, which lead to ``head``; swaps the snapshot.

        Applying a change twice leaves the same index as applying it once.
        """
        for change in changes:
            getattr(self, f"_{change.kind}")(change)
        if _wasteful(len(self._dead), len(self._sample_ids)) or _wasteful(
            len(self._subjects) - len(self._slots), len(self._subjects)
        ):
            self._compact()
        self.snapshot = self._freeze(head)
        return self.snapshot

    def _subject_upserted(self, change: Change) -> None:
        assert change.subject is not None
        slot = self._slots.get(change.subject_id)
        if slot is None:
            self._slots[change.subject_id] = len(self._subjects)
            self._subjects.append(change.subject)
        else:
            self._subjects[slot] = change.subject

    def _subject_removed(self, change: Change) -> None:
        for row in self._rows_of.pop(change.subject_id, set()):
            self._bury(row)
        self._slots.pop(change.subject_id, None)

    def _sample_added(self, change: Change) -> None:
        assert change.sample_id is not None
        assert change.embedding is not None
        slot = self._slots.get(change.subject_id)
        if change.sample_id in self._rows or slot is None:
            return  # known already, or of a subject whose removal follows in the log
        row = len(self._sample_ids)
        self._reserve(row + 1)
        self._embeddings[row] = change.embedding
        self._row_subjects[row] = slot
        self._sample_ids.append(change.sample_id)
        self._rows[change.sample_id] = row
        self._rows_of.setdefault(change.subject_id, set()).add(row)

    def _sample_removed(self, change: Change) -> None:
        assert change.sample_id is not None
        row = self._rows.get(change.sample_id)
        if row is not None:
            self._rows_of[change.subject_id].discard(row)
            self._bury(row)

    def _bury(self, row: int) -> None:
        del self._rows[self._sample_ids[row]]
        self._dead.add(row)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._embeddings):
            return
        capacity = max(_SPARE_ROWS, 2 * rows)
        embeddings = np.empty((capacity, self._embeddings.shape[1]), np.float32)
        embeddings[: rows - 1] = self._embeddings[: rows - 1]
        row_subjects = np.empty(capacity, np.int32)
        row_subjects[: rows - 1] = self._row_subjects[: rows - 1]
        self._embeddings, self._row_subjects = embeddings, row_subjects

    def _compact(self) -> None:
        keep = np.array(sorted(self._rows.values()), np.intp)
        subjects = [self._subjects[slot] for slot in self._slots.values()]
        self._slots = {subject.id: slot for slot, subject in enumerate(subjects)}
        owners = {row: subject_id for subject_id, rows in self._rows_of.items() for row in rows}
        self._subjects = subjects
        self._sample_ids = [self._sample_ids[row] for row in keep]
        self._embeddings = self._embeddings[keep]
        self._row_subjects = np.array([self._slots[owners[row]] for row in keep], np.int32)
        self._rows = {sample: row for row, sample in enumerate(self._sample_ids)}
        self._rows_of = {}
        for new, old in enumerate(keep):
            self._rows_of.setdefault(owners[int(old)], set()).add(new)
        self._dead = set()

    def _freeze(self, head: Head) -> Snapshot:
        rows = len(self._sample_ids)
        return Snapshot(
            incarnation=head.incarnation,
            version=head.version,
            contract_id=head.contract_id,
            embeddings=self._embeddings[:rows],
            row_subjects=self._row_subjects[:rows],
            dead=np.fromiter(self._dead, np.intp, len(self._dead)),
            sample_ids=self._sample_ids,
            subjects=self._subjects,
        )


def _wasteful(unused: int, total: int) -> bool:
    return unused > max(_SPARE_ROWS, total // 4)
