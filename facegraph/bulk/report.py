"""What a bulk enrolment did, counted, with every item that was left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from facegraph.ids import is_id
from facegraph.importing.report import Rejection, Report

MAX_LISTED = 1000
"""Rejected items that a job's result lists; their number is always told."""

_MAX_TEXT = 300

Write = Callable[[Rejection], object]


@dataclass
class BulkReport(Report):
    """``write`` is given every rejection; the first ``keep`` are kept, too."""

    write: Write = lambda _: None
    keep: int = MAX_LISTED
    kept: list[Rejection] = field(default_factory=list)

    def reject(self, rejection: Rejection) -> None:
        if len(self.kept) < self.keep:
            self.kept.append(rejection)
        self.write(rejection)
        Report.reject(self, rejection)

    def answer(self) -> dict[str, Any]:
        """The counts and the rejected items, as JSON."""
        return {
            "read": self.read,
            "enrolled": self.new_samples,
            "already_there": self.known_samples,
            "subjects": {"new": self.new_subjects, "already_there": self.known_subjects},
            "rejected": self.rejected.total(),
            "rejected_by_code": dict(self.rejected.most_common()),
            "rejected_items": [told(one) for one in self.kept],
        }


def told(rejection: Rejection) -> dict[str, Any]:
    """Text that PostgreSQL and UTF-8 can hold; ``subject_id`` is an id, or None."""
    return {
        "item": _text(rejection.item or ""),
        "subject_id": rejection.id if rejection.id and is_id(rejection.id) else None,
        "code": rejection.code,
        "detail": _text(rejection.detail),
    }


def _text(told: str) -> str:
    return told[:_MAX_TEXT].encode(errors="replace").decode().replace("\0", "?")


def writer(file: TextIO, *, as_csv: bool) -> Write:
    """Writes rejections as lines of JSON, or of CSV under a header."""
    if not as_csv:
        return lambda one: file.write(json.dumps(told(one), ensure_ascii=False) + "\n")
    columns = ["item", "subject_id", "code", "detail"]
    rows = csv.DictWriter(file, columns)
    rows.writeheader()
    return lambda one: rows.writerow(told(one))
