"""Where a request's time goes: what it waited for, stage by stage.

A stage is measured where it is called, so it holds the way there and back. Stages of one request
may run side by side; their times then add up to more than the request took.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Times = dict[str, float]
"""Seconds by stage, in the order in which the stages first ended."""

_times: ContextVar[Times | None] = ContextVar("facegraph_times", default=None)


@contextmanager
def collected() -> Iterator[Times]:
    """The times of all stages within, also of tasks that begin there."""
    times: Times = {}
    token = _times.set(times)
    try:
        yield times
    finally:
        _times.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the time within to stage ``name``, failed or not; nothing where nobody collects."""
    times = _times.get()
    if times is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        times[name] = times.get(name, 0.0) + time.perf_counter() - began


def server_timing(times: Times) -> str:
    """As a ``Server-Timing`` header has it, in milliseconds."""
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in times.items())
