"""CSV: a header line, then a picture a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from facegraph.bulk.items import File, Found, Source, check_begin
from facegraph.bulk.tables import COLUMNS, Resolve, check_columns, item_of
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing.report import Rejection

_COLUMNS = tuple(name for name in COLUMNS if name != "image")
_OF_UPLOADS = tuple(name for name in _COLUMNS if name != "path")
"""A table that is sent names no files of the machine that reads it."""

MAX_ROW = 2**20
"""Characters of a row, with the line breaks in its values."""


@dataclass(frozen=True, slots=True)
class CsvSource:
    """``file``: its path, or the open file of an upload.

    root: what a row's path is relative to; None: a row may name no file
    below: the folder that no row may lead out of
    """

    file: Path | BinaryIO
    root: Path | None = None
    below: Path | None = None

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        with self._opened() as file:
            columns = _COLUMNS if self.root else _OF_UPLOADS
            yield from csv_items(file, self._name(), self._resolve, columns)

    def check(self) -> None:
        check_begin(self)

    def count(self) -> int:
        """By the line breaks: exact where no value has one."""
        with self._opened() as file:
            return count_rows(file)

    def _name(self) -> str:
        return self.file.name if isinstance(self.file, Path) else "the table"

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if not isinstance(self.file, Path):
            self.file.seek(0)
            yield self.file
            return
        try:
            with self.file.open("rb") as file:
                yield file
        except OSError as error:
            raise ConfigError(f"cannot read {self._name()}: {error.strerror}") from None

    def _resolve(self, path: str) -> File:
        assert self.root is not None, "an upload has no column path"
        return File(self.root / path, self.below)


def csv_items(
    file: BinaryIO, name: str, resolve: Resolve, columns: Sequence[str] = _COLUMNS
) -> Iterator[Found]:
    """The rows of an open CSV in UTF-8; ConfigError for its header.

    InvalidRequest, with the line, where quotes or characters are broken or a row is too long: what
    follows may be cut in the wrong places.
    """
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    lines = _Lines(text)
    rows = csv.reader(lines, strict=True)
    try:
        header = next(rows, [])
        check_columns(name, header, columns)
        begin = rows.line_num + 1
        for row in rows:
            where, begin = f"line {begin}", rows.line_num + 1
            lines.room = MAX_ROW
            if len(row) == len(header):
                yield item_of(where, dict(zip(header, row, strict=True)), resolve)
            elif row:
                said = f"has {len(row)} values, the header {len(header)}"
                yield Rejection(None, where, "invalid_row", said)
    except csv.Error as error:
        raise InvalidRequest(f"{name}, line {rows.line_num}: no CSV ({error})") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name}, after line {rows.line_num}: no UTF-8") from None
    finally:
        text.detach()


class _Lines:
    """A text's lines; csv.Error where one, or the rest of a row, has more than ``room``."""

    def __init__(self, text: TextIO) -> None:
        self.room = MAX_ROW
        self._text = text

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self.room + 1)
        if len(line) > self.room:
            raise csv.Error(f"a row has more than {MAX_ROW} characters")
        if not line:
            raise StopIteration
        self.room -= len(line)
        return line


def count_rows(file: BinaryIO) -> int:
    """Lines that are not empty, without the header; a very long one counts more than once."""
    lines = iter(partial(file.readline, MAX_ROW), b"")
    return max(0, sum(1 for line in lines if line.strip()) - 1)
