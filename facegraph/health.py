"""When a worker is better replaced than asked again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from facegraph.errors import FacegraphError

FAILURES_IN_A_ROW = 3
"""So many runs that fail for no fault of their input make a worker unhealthy."""


class Health:
    """Counts runs that failed for no fault of their input."""

    def __init__(self) -> None:
        self._failures = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        try:
            yield
        except FacegraphError as error:
            self._failures = self._failures + 1 if error.status >= 500 else 0
            raise
        except Exception:
            self._failures += 1
            raise
        self._failures = 0

    def check(self) -> None:
        """Raises when the model fails run after run: a new process may do better."""
        if self._failures >= FAILURES_IN_A_ROW:
            raise RuntimeError(f"the model failed {self._failures} times in a row")
