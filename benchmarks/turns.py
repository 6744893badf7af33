"""Turns: one contender works for a moment, then the next, then the first again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.client import Traffic, run, traffic
from benchmarks.loop import Loop
from benchmarks.peers.contender import Contender
from benchmarks.pictures import Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """What was right within a turn.

    took_s: seconds each answer took
    cpu_s, client_cpu_s: CPU seconds of the contender's processes, and of the client
    wrong: what was wrong with the others
    """

    took_s: tuple[float, ...]
    seconds: float
    cpu_s: float
    client_cpu_s: float = 0.0
    wrong: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.took_s) / self.seconds

    def each_ms(self, cpu_s: float) -> float:
        """``cpu_s`` over the answers, right or wrong."""
        answers = len(self.took_s) + len(self.wrong)
        return cpu_s / answers * 1000 if answers else math.nan


@dataclass(slots=True)
class Rounds:
    """The turns of one contender under one load, and how its rate was to the loop's beside it."""

    turns: list[Turn] = field(default_factory=list)
    of_loop: list[float] = field(default_factory=list)

    def add(self, turn: Turn, base: Turn) -> None:
        """``base`` is the loop's turn beside it."""
        self.turns.append(turn)
        self.of_loop.append(turn.rate / base.rate if base.rate else math.nan)

    @property
    def rate(self) -> float:
        return median(turn.rate for turn in self.turns)

    def percentile_ms(self, part: float) -> float:
        """Of all rounds' answers; what took longer than a turn and its warming is in none."""
        took = [each for turn in self.turns for each in turn.took_s]
        return float(np.percentile(took, part)) * 1000 if took else math.nan

    @property
    def cpu_ms(self) -> float:
        return median(turn.each_ms(turn.cpu_s) for turn in self.turns)

    @property
    def client_ms(self) -> float:
        return median(turn.each_ms(turn.client_cpu_s) for turn in self.turns)

    @property
    def wrong(self) -> list[str]:
        return [what for turn in self.turns for what in turn.wrong]


def median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def serve_turn(contender: Contender, picture: Picture, clients: int, seconds: float) -> Turn:
    requests = contender.requests(picture)
    with contender.group.awake():
        cpu = contender.group.cpu_s
        seen = run(traffic(contender.ports, requests, clients, seconds, cpu))
    return judged(seen, lambda place, answer: contender.wrong(picture, place, answer))


def judged(seen: Traffic, wrong: Callable[..., str | None]) -> Turn:
    """The traffic as a turn; ``wrong`` tells of a place and its answer what is wrong with it."""
    took, faults = [], []
    for exchange in seen.exchanges:
        fault = wrong(exchange.place, exchange.answer)
        if fault is None:
            took.append(exchange.took_s)
        else:
            faults.append(fault)
    return Turn(tuple(took), seen.seconds, seen.server_cpu_s, seen.client_cpu_s, tuple(faults))


def loop_turn(loop: Loop, picture: Picture, seconds: float) -> Turn:
    seen, cpu_s = loop.run(picture.paths, seconds)
    took, faults = [], []
    for each in seen:
        if (each.faces, each.who) == (picture.faces, picture.people[each.place]):
            took.append(each.took_s)
        else:
            faults.append(f"{each.faces} faces, {sorted(each.who)}")
    return Turn(tuple(took), seconds, cpu_s, 0.0, tuple(faults))
