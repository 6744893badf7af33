"""What an import did, counted: every item read is a new sample, a known one, or rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from typing import TextIO

SHOWN = 20
"""Rejections kept to be shown; the report file has them all."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an item was left out. ``id`` is the old id or label, ``item`` what of it."""

    id: str | None
    item: str | None
    code: str
    detail: str


class Rejected(Exception):
    """An item that is left out; stays within the import."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Report:
    """Counts; ``file`` gets each rejection as a line of JSON, ``step`` is called for each item."""

    file: TextIO | None = None
    step: Callable[[], object] = lambda: None
    new_samples: int = 0
    known_samples: int = 0
    new_subjects: int = 0
    known_subjects: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: list[Rejection] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    @property
    def read(self) -> int:
        return self.new_samples + self.known_samples + self.rejected.total()

    def reject(self, rejection: Rejection) -> None:
        self.rejected[rejection.code] += 1
        if len(self.first) < SHOWN:
            self.first.append(rejection)
        if self.file is not None:
            self.file.write(json.dumps(asdict(rejection)) + "\n")
        self.step()

    def subjects(self, touched: AbstractSet[str], made: AbstractSet[str]) -> None:
        """Counts the subjects of a batch; one that comes in several counts once."""
        for subject_id in touched:
            mark = hash(subject_id)  # an eighth of what the id takes
            if mark in self._seen:
                continue
            self._seen.add(mark)
            self.new_subjects += subject_id in made
            self.known_subjects += subject_id not in made

    def samples(self, new: int, known: int) -> None:
        self.new_samples += new
        self.known_samples += known
        for _ in range(new + known):
            self.step()
