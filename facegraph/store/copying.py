"""Rows as ``COPY … TO STDOUT (FORMAT binary)`` sends them, decoded column by column.

The server sends one message per row: the number of fields, then each field's length and bytes,
all numbers big endian. The first message begins with a header, the last is a trailer.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from psycopg import Copy
from psycopg.abc import Buffer

from facegraph.columns import Texts
from facegraph.errors import DatabaseError
from facegraph.store.silence import Heard

Ints = npt.NDArray[np.int64]

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = len(_SIGNATURE) + 8
_TRAILER = 2
_HEARD_EVERY = 1024


class Malformed(DatabaseError):
    """Rows that are not of the fields asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of every row: row i's is ``data[starts[i] : starts[i] + lengths[i]]``."""

    data: npt.NDArray[np.uint8]
    starts: Ints
    lengths: Ints

    def texts(self) -> Texts:
        """The fields as they are, which must be UTF-8."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        steps = np.zeros(len(self.data) + 1, np.int8)
        steps[self.starts] += 1
        steps[self.starts + self.lengths] -= 1
        inside = np.cumsum(steps, dtype=np.int8).view(bool)[:-1]
        return Texts(offsets, self.data[inside])

    def integers(self) -> Ints:
        """The fields as ``bigint``."""
        if (self.lengths != 8).any():
            raise Malformed("expected 8 bytes")
        return _numbers(self.data, self.starts, ">i8")


class Rows:
    """Rows of a known number of fields, of which the last may be kept apart.

    tail_width: bytes of the last field, the same in every row; None where it is no different
        from the others
    """

    def __init__(self, fields: int, tail_width: int | None = None) -> None:
        self._fields = fields
        self._tail_width = tail_width
        self._heads = bytearray()
        self._ends = array("q", [0])
        self.tails = bytearray()

    def read(self, copy: Copy, heard: Heard = lambda: None) -> None:
        """Takes every row, in two copies of a run of bytes each; ``heard`` is called at times."""
        heads, ends, tails = self._heads, self._ends, self.tails
        cut = self._tail_width
        for row in _messages(copy):
            heads += row if cut is None else row[:-cut]
            ends.append(len(heads))
            if not len(ends) % _HEARD_EVERY:
                heard()
            if cut is not None:
                tails += row[-cut:]

    def columns(self) -> list[Field]:
        """The fields, without the one kept apart; Malformed where one row is not as expected.

        A row's parts must fill it to its last byte, so no row can be read shifted.
        """
        data = np.frombuffer(self._heads, np.uint8)
        edges = np.frombuffer(self._ends, np.int64)
        at, ends = edges[:-1], edges[1:]
        _require(ends - at >= 2, "a row without fields")
        _require(_numbers(data, at, ">i2") == self._fields, f"expected {self._fields} fields")
        at, found = at + 2, []
        for number in range(self._fields):
            _require(at + 4 <= ends, "a row ends early")
            lengths = _numbers(data, at, ">i4")
            at = at + 4
            if number == self._fields - 1 and self._tail_width is not None:
                _require(lengths == self._tail_width, "a last field of another width")
                break
            _require((lengths >= 0) & (at + lengths <= ends), "NULL, or a row ends early")
            found.append(Field(data, at, lengths))
            at = at + lengths
        _require(at == ends, "a row does not end with its last field")
        return found


def _messages(copy: Copy) -> Iterator[Buffer]:
    """Each row's bytes, without header and trailer."""
    first = memoryview(copy.read())
    if bytes(first[: len(_SIGNATURE)]) != _SIGNATURE:
        raise Malformed("not the binary format of COPY")
    extension = int.from_bytes(first[_HEADER - 4 : _HEADER], "big")
    for message in chain([first[_HEADER + extension :]], copy):
        if len(message) > _TRAILER:
            yield message


def _numbers(data: npt.NDArray[np.uint8], starts: Ints, kind: str) -> Ints:
    """The big-endian numbers that begin at ``starts``."""
    wide = starts[:, None] + np.arange(np.dtype(kind).itemsize)
    numbers: Ints = data[wide].view(kind)[:, 0].astype(np.int64)
    return numbers


def _require(fits: npt.NDArray[np.bool_], why: str) -> None:
    if not fits.all():
        raise Malformed(f"row {int(np.argmin(fits))}: {why}")
