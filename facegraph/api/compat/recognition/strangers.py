"""Looking faces up, and enrolling those nobody matches, each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facegraph.api.compat.recognition.policy import COLLECTION
from facegraph.api.state import State
from facegraph.errors import Overloaded, PreconditionFailed, SubjectExists
from facegraph.service import Embedded
from facegraph.types import FloatArray, Match, NewSample

_TRIES = 20


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The subject over the bar for each face, or None, at one version of the gallery.

    nobody: there was not a single sample to compare with
    """

    best: Sequence[Match | None]
    version: int
    nobody: bool


async def look_up(state: State, embeddings: FloatArray, bar: float) -> LookedUp:
    """embeddings: (n, d) float32, L2-normalised, n ≥ 1; a match must exceed ``bar``."""
    found = await state.service.identify(
        COLLECTION, embeddings, limit=1, include_below=True, exact=True
    )
    nearest = [probe.matches[0] if probe.matches else None for probe in found.probes]
    best = [match if match is not None and match.similarity > bar else None for match in nearest]
    return LookedUp(best, found.version, nobody=not any(nearest))


async def enrol_strangers(
    state: State, embedded: Embedded, best: Sequence[Match | None], bar: float
) -> list[Match]:
    """``best`` with a subject for every face; strangers one request and one face at a time."""
    if None not in best:
        return [match for match in best if match is not None]
    async with state.service.store.exclusive(COLLECTION, "strangers"):
        return [
            await _match_or_enrol(state, embedded, row, bar) if match is None else match
            for row, match in enumerate(best)
        ]


async def _match_or_enrol(state: State, embedded: Embedded, row: int, bar: float) -> Match:
    """The face's subject; a stranger is enrolled only if nobody was since the search.

    The lock keeps strangers apart, the version keeps everybody else: it holds even where the
    database, and the lock with it, was lost in between.
    """
    for _ in range(_TRIES):
        found = await look_up(state, embedded.embeddings[[row]], bar)
        (match,) = found.best
        if match is not None:
            return match
        try:
            return await _enrol(state, embedded, row, found.version)
        except (SubjectExists, PreconditionFailed):
            continue  # an id somebody chose by hand, or somebody enrolled: look again
    raise Overloaded("the collection changes too fast to enrol a stranger")


async def _enrol(state: State, embedded: Embedded, row: int, version: int) -> Match:
    service = state.service
    x1, y1, x2, y2 = embedded.detection.faces.boxes[row].tolist()
    sample = NewSample(
        embedding=embedded.embeddings[row],
        bbox=(x1, y1, x2, y2),
        detection_score=float(embedded.detection.faces.detection_scores[row]),
        crop=embedded.detection.crops[row],
    )
    name = f"unknown_person_{await service.store.next_stranger(COLLECTION)}"
    enrolled = await service.store.create_subject(
        COLLECTION,
        name,
        name=name,
        samples=[sample],
        contract=service.contract,
        if_version=version,
    )
    return Match(name, enrolled.samples[0].id, 1.0, name, {})
