"""One version of a gallery, which never changes: what a search reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from facegraph.decisions import pair_similarities
from facegraph.gallery.approximation import Approximation
from facegraph.gallery.base import Base
from facegraph.types import FloatArray, Match, SubjectRecord

T = TypeVar("T", bound=np.generic)

Rows = npt.NDArray[np.intp]

_PAIRS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Additions:
    """What came after the base: rows behind its rows, subjects behind its subjects.

    embeddings: (m, dimension) float32; row_subjects: (m,) int32; longest: the length of the
        longest row
    died: (m,) int64, the version at which each was removed; 0 while it is there
    born: (m,) int64, the version at which each was added
    sample_ids, subjects: may be longer than this version needs; newer versions share them
    """

    embeddings: FloatArray
    row_subjects: npt.NDArray[np.int32]
    died: npt.NDArray[np.int64]
    born: npt.NDArray[np.int64]
    sample_ids: Sequence[str]
    subjects: Sequence[SubjectRecord]
    longest: float


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The samples of one collection at one version: a base, what came after, what went.

    Rows count through the base and then the additions, and so do subjects.

    died: (base.rows,) int64, the version at which each row was removed; 0 while it is there.
        Newer versions write into it, with newer numbers.
    renamed: what subjects became, each with the version since which
    live: samples that are enrolled
    approximation: an approximate index of the base, where there is one
    """

    incarnation: str
    version: int
    stamp: str
    contract_id: str
    base: Base
    died: npt.NDArray[np.int64]
    added: Additions
    renamed: Mapping[int, Sequence[tuple[int, SubjectRecord]]]
    live: int
    approximation: Approximation | None = None

    @property
    def rows(self) -> int:
        """Samples here, those that were removed included."""
        return self.base.rows + len(self.added.embeddings)

    def at(self, version: int) -> Snapshot | None:
        """The same as it was at an earlier version; None before the base."""
        if not self.base.head.version <= version <= self.version:
            return None
        if version == self.version:
            return self
        rows = int(np.searchsorted(self.added.born, version, side="right"))
        added = replace(
            self.added,
            embeddings=self.added.embeddings[:rows],
            row_subjects=self.added.row_subjects[:rows],
            died=self.added.died[:rows],
            born=self.added.born[:rows],
        )
        gone = sum(
            np.count_nonzero((died > 0) & (died <= version)) for died in (self.died, added.died)
        )
        live = self.base.rows + rows - int(gone)
        return replace(self, version=version, stamp="", added=added, live=live)

    def alive(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which of ``rows`` are enrolled at this version."""
        died = self._gather(rows, self.died, self.added.died)
        alive: npt.NDArray[np.bool_] = (died == 0) | (died > self.version)
        return alive

    def subjects_of(self, rows: Rows) -> npt.NDArray[np.int32]:
        """The index of each row's subject."""
        return self._gather(rows, self.base.row_subjects, self.added.row_subjects)

    def embeddings(self, rows: Rows) -> FloatArray:
        """(n, dimension) float32, the embedding of each of ``rows``."""
        return self._gather(rows, self.base.embeddings, self.added.embeddings)

    def similarities(self, rows: Rows, probes: FloatArray) -> FloatArray:
        """Raw cosine of each of ``rows`` with its probe of (n, d), as (n,) float32."""
        exact = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            exact[part] = pair_similarities(self.embeddings(rows[part]), probes[part])
        return exact

    def sample_id(self, row: int | np.integer) -> str:
        """The id of that row's sample."""
        at = int(row) - self.base.rows
        return self.base.sample_ids[row] if at < 0 else self.added.sample_ids[at]

    def subject_id(self, subject: int | np.integer) -> str:
        """The id of the subject of that index."""
        at = int(subject) - self.base.subjects
        return self.base.subject_ids[subject] if at < 0 else self.added.subjects[at].id

    def subject(self, subject: int | np.integer) -> SubjectRecord:
        """The subject of that index, as it is at this version."""
        for version, record in reversed(self.renamed.get(int(subject), ())):
            if version <= self.version:
                return record
        at = int(subject) - self.base.subjects
        return self.base.subject(subject) if at < 0 else self.added.subjects[at]

    def matches(
        self, rows: Rows, subjects: npt.NDArray[np.int32], similarities: FloatArray
    ) -> list[Match]:
        """A match for each of ``rows``, which belong to ``subjects``."""
        records = self._records(subjects)
        sample_ids = self._sample_ids(rows)
        return [
            Match(record.id, sample_id, similarity, record.name, record.metadata)
            for record, sample_id, similarity in zip(
                records, sample_ids, similarities.tolist(), strict=True
            )
        ]

    def _records(self, subjects: npt.NDArray[np.int32]) -> list[SubjectRecord]:
        if self.renamed or (len(subjects) and subjects.max() >= self.base.subjects):
            return [self.subject(subject) for subject in subjects]
        details = map(json.loads, self.base.subject_details.at(subjects))
        return [
            SubjectRecord(subject_id, name, metadata)
            for subject_id, (name, metadata) in zip(
                self.base.subject_ids.at(subjects), details, strict=True
            )
        ]

    def _sample_ids(self, rows: Rows) -> list[str]:
        if len(rows) and rows.max() >= self.base.rows:
            return [self.sample_id(row) for row in rows.tolist()]
        return self.base.sample_ids.at(rows)

    def _gather(self, rows: Rows, below: npt.NDArray[T], above: npt.NDArray[T]) -> npt.NDArray[T]:
        """Rows of two arrays, of which the second continues the first."""
        edge = self.base.rows
        if not len(rows) or rows.max() < edge:
            return below[rows]
        late = rows >= edge
        out = np.empty((len(rows), *above.shape[1:]), above.dtype)
        out[~late] = below[rows[~late]]
        out[late] = above[rows[late] - edge]
        return out
