"""What the ASGI app holds while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from facegraph.api.events import EventStreams, Slots
from facegraph.api.metrics import Metrics
from facegraph.api.parsing import FetchUrl
from facegraph.service import Service


@dataclass(slots=True)
class State:
    """The service behind the routes, its metrics, how images by URL are fetched, and the streams
    of events that are open."""

    service: Service
    metrics: Metrics
    fetch: FetchUrl
    streams: EventStreams = field(default_factory=EventStreams)
    downloads: Slots = field(default_factory=lambda: Slots("downloads"))


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place among ``max_concurrent_requests``; ``request.state.place``.

    leave: makes it free before the answer ends; calling it again does nothing
    """

    leave: Callable[[], None]


@dataclass(slots=True)
class TimeLimit:
    """How long a request may take from its begin on; ``request.state.time_limit``."""

    seconds: float
    timeout: asyncio.Timeout

    def extend(self, seconds: float) -> None:
        """To ``seconds`` from the begin, where that is later."""
        when = self.timeout.when()
        if seconds > self.seconds and when is not None and not self.timeout.expired():
            self.timeout.reschedule(when + seconds - self.seconds)
            self.seconds = seconds
