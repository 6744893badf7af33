"""A collection's in-memory index: an immutable base, what came after it, and what went.

One writer calls :meth:`Gallery.apply`; any number of threads search ``gallery.snapshot``.
Everything a writer changes carries the version at which it changed: new rows go behind the last
row of every snapshot there is, a removed row is marked with the version of its removal. So a
snapshot is little more than a number, and stays true while later ones are made. When the additions
or the removals have grown, all that lives is merged into a new base.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from facegraph.gallery.approximation import Approximation
from facegraph.gallery.base import Base
from facegraph.gallery.codes import Storage
from facegraph.gallery.merging import MergedRecords, merged
from facegraph.gallery.snapshot import Additions, Snapshot
from facegraph.types import Change, FloatArray, GalleryRecords, Head, SubjectRecord

_SPARE_ROWS = 64
_FEW_ADDED = 16_384
_FEW_GONE = 1024


class WithinPages(Exception):
    """The log goes on after the page that was applied last: this is the state of no version."""


class Gallery:
    """The index of one collection, built on a base and kept current by changes."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._died = np.zeros(base.rows, np.int64)
        self._dead = 0
        self._embeddings: FloatArray = np.empty((0, base.head.dimension), np.float32)
        self._row_subjects: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._added_died: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._born: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._longest = 0.0
        self._sample_ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._subjects: list[SubjectRecord] = []
        self._slots: dict[str, int] = {}
        self._gone: set[int] = set()
        self._renamed: dict[int, list[tuple[int, SubjectRecord]]] = {}
        self._approximation: Approximation | None = None
        self._since_merge: list[tuple[Head, list[Change]]] | None = None
        self._merging = -1
        self._lock = threading.Lock()
        self.snapshot = self._freeze(base.head)

    @classmethod
    def of(cls, records: GalleryRecords, storage: Storage | str = "auto") -> Gallery:
        """A gallery of ``records``, in memory."""
        return cls(Base.build(records, storage))

    @property
    def nbytes(self) -> int:
        """What it takes, the base included, be it in memory or in a file."""
        added = self._embeddings.nbytes + self._row_subjects.nbytes + self._added_died.nbytes
        near = 0 if self._approximation is None else self._approximation.index.nbytes
        return self._base.nbytes + self._died.nbytes + added + self._born.nbytes + near

    @property
    def merge_due(self) -> bool:
        """Whether the additions or removals have grown enough to cost searches something."""
        base = self._base
        return (
            len(self._sample_ids) > max(_FEW_ADDED, base.rows // 16)
            or self._dead > max(_FEW_GONE, base.rows // 4)
            or len(self._subjects) + len(self._renamed) > max(_FEW_ADDED, base.subjects // 4)
        )

    def apply(self, head: Head, changes: Iterable[Change]) -> Snapshot:
        """Takes in ``changes``, oldest first, which lead to ``head``; swaps the snapshot.

        Applying a change twice leaves the same index as applying it once.
        """
        with self._lock:
            news = [change for change in changes if change.version > self.snapshot.version]
            for change in news:
                getattr(self, f"_{change.kind}")(change)
            if self._since_merge is not None:
                self._since_merge.append((head, news))
            self.snapshot = self._freeze(head)
            return self.snapshot

    def equip(self, approximation: Approximation | None) -> Snapshot:
        """Searches may choose candidates by it from now on; it is of this gallery's base."""
        with self._lock:
            self._approximation = approximation
            self.snapshot = self._freeze(self._head)
            return self.snapshot

    def merged_records(self) -> MergedRecords:
        """All that lives now, for a new base; may run in a thread while ``apply`` goes on.

        WithinPages before the last page of the log: it tells objects as they became later, so that
        a base of it would be taken for the true state, were the store ever set back to there.
        """
        with self._lock:
            if self._head.more:
                raise WithinPages
            snapshot, self._since_merge = self.snapshot, []
            self._merging = snapshot.version
            head, gone = self._head, set(self._gone)
            count = len(self._subjects)
        return merged(snapshot, head, gone, count)

    def rebased(self, base: Base) -> Gallery:
        """The gallery on ``base``, made of this one's last ``merged_records``, as current as this.

        ValueError for another base: what came in between would be lost.
        """
        fresh = Gallery(base)
        with self._lock:
            if self._since_merge is None or self._merging != base.head.version:
                raise ValueError("this base is not of the gallery's last merge")
            for head, changes in self._since_merge:
                fresh.apply(head, changes)
            self._since_merge = None
        return fresh

    def abandon(self) -> None:
        """There will be no base of the last ``merged_records``."""
        with self._lock:
            self._since_merge = None

    @property
    def approximated(self) -> bool:
        """Whether it has an approximate index."""
        return self._approximation is not None

    @property
    def outdated(self) -> bool:
        """Whether the base holds what was removed or renamed since."""
        return bool(self._dead or self._gone or self._renamed)

    def _subject_upserted(self, change: Change) -> None:
        assert change.subject is not None
        slot = self._slot(change.subject_id)
        if slot is None:
            self._slots[change.subject_id] = self._base.subjects + len(self._subjects)
            self._subjects.append(change.subject)
        else:
            self._renamed.setdefault(slot, []).append((change.version, change.subject))

    def _subject_removed(self, change: Change) -> None:
        slot = self._slot(change.subject_id)
        if slot is None:
            return
        self._gone.add(slot)
        self._slots.pop(change.subject_id, None)
        for row in np.flatnonzero(self._base.row_subjects == slot).tolist():
            self._bury(row, change.version)
        added = self._row_subjects[: len(self._sample_ids)]
        for row in np.flatnonzero(added == slot).tolist():
            self._bury(self._base.rows + row, change.version)

    def _sample_added(self, change: Change) -> None:
        assert change.sample_id is not None
        assert change.embedding is not None
        slot = self._slot(change.subject_id)
        if slot is None or self._row(change.sample_id) is not None:
            return  # of a subject whose removal follows in the log, or known already
        row = len(self._sample_ids)
        self._reserve(row + 1)
        self._embeddings[row] = change.embedding
        self._row_subjects[row], self._born[row] = slot, change.version
        self._longest = max(self._longest, float(np.linalg.norm(change.embedding)) * 1.0001)
        self._rows[change.sample_id] = self._base.rows + row
        self._sample_ids.append(change.sample_id)

    def _sample_removed(self, change: Change) -> None:
        assert change.sample_id is not None
        row = self._row(change.sample_id)
        if row is not None:
            self._bury(row, change.version)

    def _slot(self, subject_id: str) -> int | None:
        """The index of the subject that has this id now."""
        slot = self._slots.get(subject_id)
        if slot is None:
            slot = self._base.subject_index.find(self._base.subject_ids, subject_id)
            if slot in self._gone:
                return None
        return slot

    def _row(self, sample_id: str) -> int | None:
        """The row of the sample that has this id now."""
        row = self._rows.get(sample_id)
        if row is None:
            row = self._base.sample_index.find(self._base.sample_ids, sample_id)
            if row is not None and self._died[row]:
                return None
        return row

    def _bury(self, row: int, version: int) -> None:
        at = row - self._base.rows
        died, index = (self._died, row) if at < 0 else (self._added_died, at)
        if not died[index]:
            died[index] = version
            self._dead += 1
            if at >= 0:
                del self._rows[self._sample_ids[at]]

    def _reserve(self, rows: int) -> None:
        held = rows - 1
        if rows <= len(self._embeddings):
            return
        capacity = max(_SPARE_ROWS, 2 * rows)
        embeddings = np.empty((capacity, self._embeddings.shape[1]), np.float32)
        row_subjects, died = np.empty(capacity, np.int32), np.zeros(capacity, np.int64)
        born = np.empty(capacity, np.int64)
        embeddings[:held] = self._embeddings[:held]
        row_subjects[:held], died[:held] = self._row_subjects[:held], self._added_died[:held]
        born[:held] = self._born[:held]
        self._embeddings, self._row_subjects = embeddings, row_subjects
        self._added_died, self._born = died, born

    def _freeze(self, head: Head) -> Snapshot:
        self._head = head
        rows = len(self._sample_ids)
        return Snapshot(
            incarnation=head.incarnation,
            version=head.version,
            stamp=head.stamp,
            contract_id=head.contract_id,
            base=self._base,
            died=self._died,
            added=Additions(
                self._embeddings[:rows],
                self._row_subjects[:rows],
                self._added_died[:rows],
                self._born[:rows],
                self._sample_ids,
                self._subjects,
                self._longest,
            ),
            renamed=self._renamed,
            live=self._base.rows + rows - self._dead,
            approximation=self._approximation,
        )
