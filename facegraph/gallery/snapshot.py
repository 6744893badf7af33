"""One version of a gallery, which never changes: what a search reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray, SubjectRecord


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The samples of one collection at one version.

    embeddings: (rows, dimension) float32, L2-normalised, dead rows included
    row_subjects: (rows,) int32, index of each row's subject in ``subjects``
    dead: (m,) rows that are no longer enrolled
    sample_ids, subjects: may be longer than this version needs; newer versions share them
    """

    incarnation: str
    version: int
    contract_id: str
    embeddings: FloatArray
    row_subjects: npt.NDArray[np.int32]
    dead: npt.NDArray[np.intp]
    sample_ids: Sequence[str]
    subjects: Sequence[SubjectRecord]

    @property
    def rows(self) -> int:
        return len(self.embeddings)

    @property
    def live(self) -> int:
        return len(self.embeddings) - len(self.dead)

    def subject(self, row: int | np.intp) -> SubjectRecord:
        """The subject that row belongs to."""
        return self.subjects[int(self.row_subjects[row])]
