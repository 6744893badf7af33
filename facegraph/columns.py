"""Many short texts in two arrays: they cost their bytes, and lie in a file as they are."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A column of texts; ``column[i]`` is the i-th.

    offsets: (n + 1,) int64, where each begins in ``data``, and where the last ends
    data: (bytes,) uint8, UTF-8
    """

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """The column of ``texts``."""
        encoded = [text.encode() for text in texts]
        offsets = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64, len(encoded) + 1)
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int | np.integer) -> str:
        return self.bytes_at(index).decode()

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def bytes_at(self, index: int | np.integer) -> bytes:
        """The i-th text as UTF-8."""
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def at(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """The texts of ``rows``, faster than one by one."""
        data = self.data.data
        edges = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [str(data[start:end], "utf-8") for start, end in edges]

    def __add__(self, other: Texts) -> Texts:
        """The texts of this column, then those of ``other``."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Texts(offsets, np.concatenate([self.data, other.data]))

    def take(self, rows: npt.NDArray[np.integer]) -> Texts:
        """The texts of ``rows``, which ascend."""
        keep = np.zeros(len(self), np.bool_)
        keep[rows] = True
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        return Texts(offsets, self.data[np.repeat(keep, lengths)])

    def replaced(self, texts: Mapping[int, str]) -> Texts:
        """The column with those of ``texts`` in the place of its own."""
        lengths, pieces, at = np.diff(self.offsets), [], 0
        for row in sorted(texts):
            text = np.frombuffer(texts[row].encode(), np.uint8)
            pieces += [self.data[self.offsets[at] : self.offsets[row]], text]
            lengths[row], at = len(text), row + 1
        pieces.append(self.data[self.offsets[at] :])
        return Texts(np.concatenate([[0], np.cumsum(lengths)]), np.concatenate(pieces))


@dataclass(frozen=True, slots=True, eq=False)
class TextIndex:
    """Where a text stands in its column, by its CRC-32.

    keys: (n,) uint32, ascending
    rows: (n,) int32, the row of each key
    """

    keys: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, texts: Texts) -> TextIndex:
        """The index of ``texts``."""
        keys = np.fromiter(_checksums(texts), np.uint32, len(texts))
        rows = np.argsort(keys, kind="stable").astype(np.int32)
        return cls(keys[rows], rows)

    def find(self, texts: Texts, text: str) -> int | None:
        """The row of ``text`` in ``texts``, the column this is the index of."""
        wanted = text.encode()
        key = np.uint32(zlib.crc32(wanted))
        first, last = np.searchsorted(self.keys, key), np.searchsorted(self.keys, key, "right")
        for row in self.rows[first:last]:
            if texts.bytes_at(row) == wanted:
                return int(row)
        return None


def _checksums(texts: Texts) -> Iterator[int]:
    data, edges = texts.data.tobytes(), texts.offsets.tolist()
    return (zlib.crc32(data[start:end]) for start, end in pairwise(edges))
