"""How busy a worker is and how long what comes to it waits: what says that there are too few."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Load:
    """Measures a worker that runs at most ``workers`` batches at a time; one event loop.

    Runs beyond ``workers`` share them, so a part of their items counts as waiting. ``workers``
    may be a function that is asked each time.
    ``clock`` counts seconds.
    """

    def __init__(
        self,
        workers: int | Callable[[], int] = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._present = self._running = self._runs = 0
        self._since = self._until = clock()
        self._busy_s = self._waited_s = 0.0
        self._begun = 0

    @contextmanager
    def item(self, weight: int = 1) -> Iterator[None]:
        """Around an item, from its arrival to its answer."""
        self._advance()
        self._present += weight
        try:
            yield
        finally:
            self._advance()
            self._present -= weight

    @contextmanager
    def run(self, weight: int) -> Iterator[None]:
        """Around the run of a batch whose items weigh that much together."""
        self._advance()
        self._runs += 1
        self._running += weight
        self._begun += weight
        try:
            yield
        finally:
            self._advance()
            self._runs -= 1
            self._running -= weight

    def read(self) -> dict[str, float]:
        """What happened since the last reading; for one reader.

        busy: share of the worker's time that it ran, 0..1
        wait_s: mean wait of an item, seconds (Little's law: time waited in all by items begun)
        """
        self._advance()
        passed = self._until - self._since
        busy = self._busy_s / passed if passed else 0.0
        wait_s = self._waited_s / max(self._begun, 1)
        self._since = self._until
        self._busy_s = self._waited_s = 0.0
        self._begun = 0
        return {"busy": busy, "wait_s": wait_s}

    def _advance(self) -> None:
        """Takes in the time since something last changed."""
        now = self._clock()
        passed, self._until = now - self._until, now
        workers = self._workers if isinstance(self._workers, int) else self._workers()
        at_work = min(self._runs, workers)
        served = self._running * at_work / self._runs if self._runs else 0.0
        self._busy_s += passed * at_work / workers
        self._waited_s += passed * max(self._present - served, 0.0)
