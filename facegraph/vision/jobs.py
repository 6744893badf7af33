"""What the workers of both vision models share: jobs, their grouping, and loading with patience."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from facegraph.config import CaptionerTuning, SegmenterTuning
from facegraph.errors import FacegraphError, ModelUnavailable, StartupError
from facegraph.images import decode
from facegraph.types import ByteArray
from facegraph.vision.base import Captioner, Segmenter

log = logging.getLogger(__name__)

O = TypeVar("O")  # noqa: E741 - options
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
M = TypeVar("M")

NONE = "none"

LOOK_AGAIN_S = 5.0
"""How long a model that could not be loaded is not tried again: reading it may take as long."""


@dataclass(frozen=True, slots=True)
class Job(Generic[O]):
    """One compressed image. ``model``: which to use; None for the configured one."""

    image: bytes
    options: O
    model: str | None = None


def in_groups(
    jobs: Sequence[Job[O]],
    key: Callable[[Job[O]], K],
    run: Callable[[K, list[ByteArray], list[O]], list[R]],
    tuning: SegmenterTuning | CaptionerTuning,
) -> list[R | FacegraphError]:
    """Each job's result, or its error: a bad picture or model fails no other's."""
    outcomes: dict[int, R | FacegraphError] = {}
    pixels: dict[int, ByteArray] = {}
    groups: dict[K, list[int]] = {}
    for row, job in enumerate(jobs):
        try:
            pixels[row] = decode(job.image, max_pixels=tuning.max_image_pixels)
        except FacegraphError as error:
            outcomes[row] = error
        else:
            groups.setdefault(key(job), []).append(row)
    for name, rows in groups.items():
        try:
            results: Sequence[R | FacegraphError] = run(
                name, [pixels[row] for row in rows], [jobs[row].options for row in rows]
            )
        except FacegraphError as error:
            results = [error] * len(rows)
        outcomes.update(zip(rows, results, strict=True))
    return [outcomes[row] for row in range(len(jobs))]


def result(outcome: R | FacegraphError) -> R:
    if isinstance(outcome, FacegraphError):
        raise outcome
    return outcome


def described(model: Segmenter | Captioner) -> dict[str, Any]:
    return {"name": model.name, **model.describe()}


class Patience:
    """Loads, and after a failure answers with that failure for a while."""

    def __init__(self) -> None:
        self._failed: dict[str | None, tuple[float, ModelUnavailable]] = {}

    def load(self, name: str | None, load: Callable[[], M]) -> M:
        """What ``load`` gives; ModelUnavailable for everything that keeps a model from loading.

        An InvalidRequest passes: the name is at fault, and nothing was read.
        """
        until, error = self._failed.get(name, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error
        try:
            loaded = load()
        except Exception as caught:
            if isinstance(caught, FacegraphError) and caught.status < 500:
                raise
            failure = _failure(caught)
            self._failed[name] = (time.monotonic() + LOOK_AGAIN_S, failure)
            raise failure from None
        self._failed.pop(name, None)
        return loaded

    def problem(self, name: str | None) -> str | None:
        """Why this one could not be loaded the last time it was tried."""
        failed = self._failed.get(name)
        return None if failed is None else str(failed[1])


def _failure(error: Exception) -> ModelUnavailable:
    if isinstance(error, ModelUnavailable):
        return error
    if isinstance(error, StartupError):
        return ModelUnavailable(str(error))
    log.error("a model could not be loaded", exc_info=error)
    return ModelUnavailable(f"the model could not be loaded ({type(error).__name__}); see the log")
