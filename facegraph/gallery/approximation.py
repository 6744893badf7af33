"""An approximate index of a gallery's base, and how good it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from facegraph.gallery.approximate import Approximate
from facegraph.gallery.recall import Recall


@dataclass(frozen=True, slots=True, eq=False)
class Approximation:
    """``recall`` was measured on the base's own samples; None before."""

    index: Approximate
    recall: Recall | None = None

    def describe(self) -> dict[str, Any]:
        recall = None if self.recall is None else asdict(self.recall)
        return {**self.index.description, "recall": recall}
