"""Pictures that kill the process that looks at them: found out, and left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from facegraph.bulk.items import Found, Item
from facegraph.bulk.sampling import Outcome, Sampler
from facegraph.importing.report import Rejection

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of an :class:`Attempts` elsewhere: its name, then what it takes."""


@dataclass(slots=True)
class _Attempt:
    alone: int | None = None
    lost: set[int] = field(default_factory=set)


class Attempts:
    """What workers are doing, in a process that outlives them."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}

    def begin(self, block: str) -> set[int] | None:
        """None the first time; then the places of what lost its worker when it was alone."""
        attempt = self._attempts.get(block)
        if attempt is None:
            self._attempts[block] = _Attempt()
            return None
        if attempt.alone is not None:
            attempt.lost.add(attempt.alone)
            attempt.alone = None
        return attempt.lost

    def alone(self, block: str, place: int) -> None:
        """Only what is at this place of the block is looked at from now on."""
        self._attempts.setdefault(block, _Attempt()).alone = place

    def end(self, block: str) -> None:
        self._attempts.pop(block, None)


async def attempted(
    ask: Ask, sampler: Sampler, block: str, found: Sequence[Found]
) -> list[Outcome]:
    """The outcomes of a block, in order.

    Where a worker was lost over it before, one item after the other, so that the one that loses
    the next is known; that one is a rejection then.
    """
    lost = await ask("begin", block)
    if lost is None:
        outcomes = await sampler.outcomes(found)
    else:
        outcomes = []
        for place, one in enumerate(found):
            if place in lost:
                outcomes.append(_lost(one))
            else:
                await ask("alone", block, place)
                outcomes.append(await sampler.outcome(one))
    await ask("end", block)
    return outcomes


def _lost(found: Found) -> Outcome:
    if isinstance(found, Rejection):
        return found
    assert isinstance(found, Item)
    return Rejection(found.person.id, found.where, "internal", "a process was lost over it")
