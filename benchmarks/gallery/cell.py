"""One size at a time: its people, what is true of them, and its database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmarks.gallery import truth
from benchmarks.gallery.database import Databases, make_collection
from benchmarks.gallery.people import People
from benchmarks.gallery.report import Report
from benchmarks.gallery.turns import cores, seconds_a_call, torch_threads


@dataclass(frozen=True, slots=True)
class Options:
    """seconds: of a turn; rounds: how often turns are taken; engines: names of peers"""

    engines: Sequence[str]
    seconds: float
    rounds: int
    per_subject: int = 4
    seed: int = 0


@dataclass(eq=False)
class Cell:
    """last: of its dimension, the most samples there are; largest: of all"""

    samples: int
    dimension: int
    last: bool
    largest: bool
    options: Options
    report: Report
    databases: Databases

    def __str__(self) -> str:
        return f"{self.samples:,} × {self.dimension}"

    def say(self, what: str) -> None:
        """Tells who waits."""
        print(f"{self}: {what}", file=sys.stderr, flush=True)

    @cached_property
    def people(self) -> People:
        self.say("making people")
        options = self.options
        return People.of(
            self.samples, self.dimension, per_subject=options.per_subject, seed=options.seed
        )

    @cached_property
    def truth(self) -> list[list[int]]:
        self.say("brute force")
        return truth.best_subjects(self.people)

    @cached_property
    def database(self) -> str:
        """The URL of a database that holds everybody."""
        url = self.empty_database
        self.say("filling a collection")
        asyncio.run(make_collection(url, self.people))
        return url

    @cached_property
    def empty_database(self) -> str:
        """The same database; it may hold nobody yet."""
        return self.databases.make()

    @cached_property
    def reader(self) -> Callable[[float], float]:
        return reader(self.samples, self.dimension)

    def read_seconds(self) -> float:
        """How long the int8 matrix takes to be read now, by all cores."""
        return self.reader(self.options.seconds / 2)

    def close(self) -> None:
        if "empty_database" in self.__dict__:
            self.databases.drop(self.empty_database)


def reader(samples: int, dimension: int) -> Callable[[float], float]:
    """Reads as many bytes as ``samples`` have as int8: a sum of them as int64 words."""
    import torch

    data: npt.NDArray[np.int8] = np.ones(samples * dimension // 8 * 8, np.int8)
    words = torch.from_numpy(data).view(torch.int64)

    def read(seconds: float) -> float:
        torch_threads(cores())
        return seconds_a_call(lambda _: words.sum(), seconds)

    return read
