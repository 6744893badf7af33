"""Prometheus metrics of one ingress process; ``GET /metrics`` shows them.

Labels hold route templates, codes and decisions: never an id, so their number is bounded.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry per app, so that several apps live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "facegraph_http_request_duration_seconds",
            "Time from the request's first byte to the answer's last.",
            ["method", "route", "status"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "facegraph_stage_duration_seconds",
            "What a request waited for: detect, embed, match, recognize, caption, segment; hops "
            "included.",
            ["stage"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.in_flight = Gauge(
            "facegraph_http_requests_in_flight",
            "Requests being answered now.",
            registry=self.registry,
        )
        self.event_streams = Gauge(
            "facegraph_event_streams",
            "Streams of events open now; they are no requests in flight.",
            registry=self.registry,
        )
        self.errors = Counter(
            "facegraph_errors_total", "Answers by problem code.", ["code"], registry=self.registry
        )
        self.decisions = Counter(
            "facegraph_decisions_total",
            "Decisions of searches, verifications and recognizers.",
            ["decision"],
            registry=self.registry,
        )
        self.partial = Counter(
            "facegraph_partial_searches_total",
            "Searches answered without the subjects of a lost shard.",
            registry=self.registry,
        )
        self.samples = Counter(
            "facegraph_samples_enrolled_total", "Samples committed.", registry=self.registry
        )

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
