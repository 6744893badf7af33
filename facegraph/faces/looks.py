"""Looking at a picture is a conversation: what to look at next depends on what was seen.

A ``Looking`` yields lists of network inputs and is sent what the network saw in each; in the end it
returns what became of it. It runs no network itself, so whoever drives it may run the inputs of
many pictures together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from facegraph.faces.heads import Candidates
from facegraph.types import ByteArray

T = TypeVar("T")

AT_ONCE = 32
"""Faces of one picture that are looked at together; each takes 0.2 MB of pixels."""


class Look(NamedTuple):
    """A network input that is wanted.

    pixels: (h, w, 3) uint8 RGB
    min_score: candidates below it are not
    """

    pixels: ByteArray
    min_score: float


Looking = Generator[Sequence[Look], Sequence[Candidates], T]
"""What is sent has one entry per look, in its pixels and its order."""


def answered(looking: Looking[T], see: Callable[[Sequence[Look]], Sequence[Candidates]]) -> T:
    """What ``looking`` comes to when ``see`` answers every list of looks."""
    try:
        looks = next(looking)
        while True:
            looks = looking.send(see(looks))
    except StopIteration as end:
        result: T = end.value
        return result


def together(lookings: Sequence[Looking[T]]) -> Looking[list[T]]:
    """All of them as one: what they want next is asked for in one list. Results in their order."""
    results: dict[int, T] = {}
    answers: dict[int, Sequence[Candidates] | None] = dict.fromkeys(range(len(lookings)))
    while answers:
        asked: dict[int, Sequence[Look]] = {}
        for row, answer in answers.items():
            try:
                asked[row] = next(lookings[row]) if answer is None else lookings[row].send(answer)
            except StopIteration as end:
                results[row] = end.value
        answers = {}
        if asked:
            seen = iter((yield [look for looks in asked.values() for look in looks]))
            answers = {row: [next(seen) for _ in looks] for row, looks in asked.items()}
    return [results[row] for row in range(len(lookings))]


def in_turns(lookings: Sequence[Looking[T]]) -> Looking[list[T]]:
    """As :func:`together`, ``AT_ONCE`` of them at a time."""
    results: list[T] = []
    for start in range(0, len(lookings), AT_ONCE):
        results += yield from together(lookings[start : start + AT_ONCE])
    return results
