"""A zip: pictures whose names say whose they are, or a ``*.csv`` in it that does.

Nothing is ever unpacked to a file: names in it are only compared.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from facegraph.bulk.csvfiles import count_rows, csv_items
from facegraph.bulk.folders import item_at, shown
from facegraph.bulk.items import SUFFIXES, Found, Source, check_begin
from facegraph.bulk.patterns import PATTERN, Pattern, check_layout
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing.report import Rejected, Rejection

MAX_DIRECTORY_BYTES = 16 * 2**20
"""Of an upload's list of members, which is read whole; about 150,000 names."""

MAX_TABLE_BYTES = 512 * 2**20
"""Of a table in it, unpacked."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""What zipfile raises over damage; it says no more of it."""

_SIZE = 5
"""Of the list, in what zipfile finds at the end."""

_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class ZipSource:
    """``file``: its path, or the open file of an upload."""

    file: Path | BinaryIO
    pattern: str = PATTERN
    max_bytes: int = 16 * 2**20

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        with self._opened() as archive:
            if (table := _table(archive)) is not None:
                with archive.open(table) as rows:
                    name = shown(table.filename)
                    yield from csv_items(cast(BinaryIO, rows), name, self._resolver(archive))
                return
            pattern = Pattern(self.pattern)
            check_layout(self.pattern, (member.filename for member in _pictures(archive)))
            for member in _pictures(archive):
                try:
                    content = self._read(archive, member)
                except Rejected as why:
                    yield Rejection(None, shown(member.filename), why.code, why.detail)
                else:
                    yield item_at(pattern, member.filename, content)

    def check(self) -> None:
        check_begin(self)

    def count(self) -> int:
        with self._opened() as archive:
            if (table := _table(archive)) is None:
                return sum(1 for _ in _pictures(archive))
            with archive.open(table) as rows:
                return count_rows(cast(BinaryIO, rows))

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            if not isinstance(self.file, Path):
                _check_directory(self.file)
            with zipfile.ZipFile(self.file) as archive:
                yield archive
        except OSError as error:
            name = self.file.name if isinstance(self.file, Path) else "the zip"
            raise ConfigError(f"cannot read {name}: {error.strerror or error}") from None
        except _DAMAGE as error:
            raise InvalidRequest(f"the zip is damaged: {error}") from None

    def _resolver(self, archive: zipfile.ZipFile) -> _Members:
        return _Members(self, archive)

    def _read(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        if member.compress_type not in METHODS:
            raise Rejected("unreadable", "packed in another way than deflate")
        if member.flag_bits & _ENCRYPTED:
            raise Rejected("unreadable", "it is encrypted")
        try:
            with archive.open(member) as file:
                data = _bounded(file, self.max_bytes)
        except (*_DAMAGE, OSError) as error:
            raise Rejected("unreadable", f"damaged in the zip: {error}") from None
        if data is None:
            raise Rejected("image_too_large", f"the file has more than {self.max_bytes} bytes")
        return data


@dataclass(frozen=True, slots=True)
class _Members:
    """A row's path is a member's name."""

    source: ZipSource
    archive: zipfile.ZipFile

    def __call__(self, path: str) -> bytes:
        try:
            member = self.archive.getinfo(str(PurePosixPath(path)))
        except KeyError:
            raise Rejected("no_file", "the zip has no such member") from None
        return self.source._read(self.archive, member)


def _bounded(file: IO[bytes], limit: int) -> bytes | None:
    data = file.read(limit + 1)
    return data if len(data) <= limit else None


def _table(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """The one ``*.csv`` beside the pictures' folders, if there is one; ConfigError."""
    members = archive.infolist()
    tables = [it for it in members if "/" not in it.filename and it.filename.endswith(".csv")]
    if len(tables) > 1:
        names = ", ".join(shown(table.filename) for table in tables[:5])
        raise ConfigError(f"the zip has {len(tables)} tables, not one: {names}")
    if not tables:
        return None
    if tables[0].compress_type not in METHODS:
        raise ConfigError("the zip's table is packed in another way than deflate")
    if tables[0].file_size > MAX_TABLE_BYTES:
        raise ConfigError(f"the zip's table has more than {MAX_TABLE_BYTES} bytes")
    return tables[0]


def _pictures(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        hidden = any(part.startswith(".") for part in path.parts)
        if not member.filename.endswith("/") and not hidden and path.suffix.lower() in SUFFIXES:
            yield member


def _check_directory(file: BinaryIO) -> None:
    """ConfigError where the list of members would take too much memory; BadZipFile."""
    # What zipfile itself finds, and believes: another reading of the end could be misled.
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not end:
        raise zipfile.BadZipFile("it has no end")
    if end[_SIZE] > MAX_DIRECTORY_BYTES:
        raise ConfigError(f"the zip's list of members has more than {MAX_DIRECTORY_BYTES} bytes")
