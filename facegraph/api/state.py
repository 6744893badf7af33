"""What the ASGI app holds while it serves."""

from __future__ import annotations

from dataclasses import dataclass

from facegraph.api.metrics import Metrics
from facegraph.api.parsing import FetchUrl
from facegraph.service import Service


@dataclass(slots=True)
class State:
    """The service behind the routes, its metrics, and how images by URL are fetched."""

    service: Service
    metrics: Metrics
    fetch: FetchUrl
