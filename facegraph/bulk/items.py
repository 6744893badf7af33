"""What is to be enrolled: a picture, whose it is, and how both are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from facegraph.importing.enrolling import Person
from facegraph.importing.report import Rejection

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Of files that are taken for pictures."""

Fetch = Callable[[str, int], Awaitable[bytes]]
"""The body behind a URL, at most that many bytes; InvalidRequest, ImageTooLarge."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a picture is fetched from."""

    url: str


@dataclass(frozen=True, slots=True)
class File:
    """Where a picture lies; ``below``: the folder that it must not leave, links resolved."""

    path: Path
    below: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """``where`` tells the operator which one it is."""

    where: str
    person: Person
    content: bytes | File | Link


Found = Item | Rejection
"""Something of a source: to be enrolled, or left out already."""


class Source(Protocol):
    """Where items come from. It pickles, unless it reads an open file.

    Its methods raise ConfigError for what cannot be read at all.
    """

    def parts(self) -> Sequence[Source]:
        """Sources that together have the same items, to be read side by side."""
        ...

    def items(self) -> Iterator[Found]:
        """Every item, one after the other; what is broken is a Rejection with its place.

        InvalidRequest where nothing after it can be trusted.
        """
        ...

    def check(self) -> None:
        """Looks at how it begins, at little cost: raises what :meth:`items` would at once."""
        ...

    def count(self) -> int:
        """How many items there are, about; it may take a while."""
        ...


def check_begin(source: Source) -> None:
    """By reading the first item."""
    next(source.items(), None)
