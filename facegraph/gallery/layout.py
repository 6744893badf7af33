"""Named arrays in one buffer, in memory or in a file: written once, checked when opened.

A file begins with a head (magic, JSON, checksum) that tells where each array lies and its CRC-32;
it is written last, so what was left half done is no file at all.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"FGGAL\x00\x01\n"
"""Of this version of the format."""

_HEAD_BYTES = 8192
_PAGE = 4096
_LENGTHS = struct.Struct("<II")
_CHECKED_AT_ONCE = 32 * 2**20

Shape = tuple[int, ...]
Arrays = dict[str, npt.NDArray[Any]]


class DamagedGallery(ValueError):
    """A file that is no gallery, or no longer the one that was written."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Arrays over one buffer, with what was noted beside them. ``nbytes`` is the buffer's."""

    notes: Mapping[str, Any]
    arrays: Arrays
    nbytes: int


class Draft:
    """A buffer being filled: in memory, or a file at ``path`` that must not exist yet."""

    def __init__(
        self, shapes: Mapping[str, tuple[npt.DTypeLike, Shape]], path: Path | None
    ) -> None:
        self._places, size = _places(shapes)
        self._size, self._path = size, path
        self._file = None if path is None else path.open("xb+")
        try:
            if self._file is not None:
                os.fchmod(self._file.fileno(), 0o600)
            self._buffer = _memory(size) if self._file is None else _file(self._file.fileno(), size)
        except BaseException:
            self.abandon()
            raise
        self.arrays = _views(self._buffer, self._places)

    def finish(self, notes: Mapping[str, Any]) -> Layout:
        """Seals it; of a file, every byte is on the disk then."""
        if self._file is not None:
            parts = {
                name: [*place, crc]
                for (name, place), crc in zip(
                    self._places.items(), _checksums(self.arrays.values()), strict=True
                )
            }
            head = json.dumps({"notes": notes, "parts": parts, "size": self._size}).encode()
            framed = MAGIC + _LENGTHS.pack(len(head), zlib.crc32(head)) + head
            if len(framed) > _HEAD_BYTES:
                raise ValueError("a gallery's notes are too long")
            self._buffer[: len(framed)] = framed
            self._buffer.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return Layout(notes, self.arrays, self._size)

    def abandon(self) -> None:
        """Removes the file of a draft that is not wanted."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


def open_layout(path: Path) -> Layout:
    """The arrays of a file, mapped and shared with whoever maps it; DamagedGallery, OSError."""
    with path.open("rb") as file:
        head = _head(file.read(_HEAD_BYTES))
        size = os.fstat(file.fileno()).st_size
        if size != head.get("size"):
            raise DamagedGallery(f"{size} bytes instead of {head.get('size')}")
        # Private and writable: torch takes no read-only memory. Nothing is ever written.
        buffer = mmap.mmap(
            file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    try:
        parts: dict[str, list[Any]] = head["parts"]
        arrays = _views(buffer, {name: tuple(part[:3]) for name, part in parts.items()})
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedGallery(f"its parts do not fit: {error}") from error
    for name, crc in zip(arrays, _checksums(arrays.values()), strict=True):
        if crc != parts[name][3]:
            raise DamagedGallery(f"the checksum of {name} is wrong")
    return Layout(head["notes"], arrays, size)


def _head(start: bytes) -> dict[str, Any]:
    lengths = start[len(MAGIC) : len(MAGIC) + _LENGTHS.size]
    if not start.startswith(MAGIC) or len(lengths) < _LENGTHS.size:
        raise DamagedGallery("it does not begin as a gallery of this version does")
    length, crc = _LENGTHS.unpack(lengths)
    text = start[len(MAGIC) + _LENGTHS.size :][:length]
    if len(text) < length or zlib.crc32(text) != crc:
        raise DamagedGallery("its head is damaged")
    head: dict[str, Any] = json.loads(text)
    return head


def _places(
    shapes: Mapping[str, tuple[npt.DTypeLike, Shape]],
) -> tuple[dict[str, tuple[int, str, list[int]]], int]:
    """Offset, type and shape of each array, and the size of all."""
    places, at = {}, _HEAD_BYTES
    for name, (kind, shape) in shapes.items():
        dtype = np.dtype(kind).newbyteorder("<")
        places[name] = (at, dtype.str, list(shape))
        at += -(-dtype.itemsize * int(np.prod(shape)) // _PAGE) * _PAGE
    return places, at


def _views(buffer: mmap.mmap, places: Mapping[str, Any]) -> Arrays:
    return {
        name: np.ndarray(tuple(shape), dtype, buffer, offset)
        for name, (offset, dtype, shape) in places.items()
    }


def _memory(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _file(descriptor: int, size: int) -> mmap.mmap:
    os.posix_fallocate(descriptor, 0, size)  # or a full disk would kill the process later
    return mmap.mmap(descriptor, size)


def _checksums(arrays: Any) -> list[int]:
    with ThreadPoolExecutor(2, thread_name_prefix="checksum") as pool:
        return list(pool.map(_checksum, arrays))


def _checksum(array: npt.NDArray[Any]) -> int:
    """CRC-32 of an array's bytes, in steps that let other threads in."""
    data = array.reshape(-1).view(np.uint8)
    crc = 0
    for start in range(0, len(data), _CHECKED_AT_ONCE):
        crc = zlib.crc32(data[start : start + _CHECKED_AT_ONCE].data, crc)
    return crc
