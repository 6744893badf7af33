"""``dataset.json`` entry by entry, so that a file of any size takes the memory of its largest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from facegraph.dataset_entries import RawEntry, entries
from facegraph.errors import ConfigError, InvalidRequest

MAX_BYTES_PER_ENTRY = 64 * 1024
"""Of a file with ``limit`` entries, on average; 4096 numbers fit."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a first look at the whole file found. ``dimension`` is what most entries have."""

    entries: int
    dimension: int | None


def measure(path: Path, limit: int) -> Extent:
    """Reads the file once; InvalidRequest when it is no dataset, or a larger one than allowed."""
    with _opened(path) as file:
        size = path.stat().st_size
        if size > limit * MAX_BYTES_PER_ENTRY:
            raise InvalidRequest(
                f"{path} has {size} bytes, too many for {limit} entries; --limit allows more"
            )
        lengths: Counter[int] = Counter()
        count = 0
        for _, _, numbers in entries(file):
            count += 1
            if count > limit:
                raise InvalidRequest(f"{path} has more than {limit} entries; --limit allows more")
            lengths[_length(numbers)] += 1
    del lengths[0]
    return Extent(count, max(lengths, key=lambda n: (lengths[n], n)) if lengths else None)


def entries_of(path: Path) -> Iterator[RawEntry]:
    """The entries of a file, unchecked, in its order."""
    with _opened(path) as file:
        yield from entries(file)


def _opened(path: Path) -> TextIO:
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file")
    try:
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _length(numbers: Any) -> int:
    if isinstance(numbers, str):
        return numbers.count(",") + 1
    return len(numbers) if isinstance(numbers, list) else 0
