"""Parquet: a picture a row, named by a path or URL or in the row itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from facegraph.bulk.items import File, Found, Item, Source
from facegraph.bulk.tables import COLUMNS, check_columns, item_of
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing.report import Rejection

ROWS_AT_ONCE = 16
"""In memory, each perhaps with its picture."""

MAX_GROUP_BYTES = 128 * 2**20
"""Uncompressed, of a row group of an upload."""

BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """``file``: a file, a folder of them, or the open file of an upload; else as for CSV.

    max_bytes: largest picture in the table
    """

    file: Path | BinaryIO
    root: Path | None = None
    below: Path | None = None
    max_bytes: int = 16 * 2**20

    def parts(self) -> Sequence[Source]:
        if isinstance(self.file, Path) and self.file.is_dir():
            return [replace(self, file=path) for path in sorted(self.file.glob("*.parquet"))]
        return [self]

    def items(self) -> Iterator[Found]:
        for part in self.parts():
            assert isinstance(part, ParquetSource)
            if part._leads_out():
                yield Rejection(None, part._name(), "outside_folder", "a link that leads out")
            else:
                yield from part._rows()

    def check(self) -> None:
        """By its schema: a row may be large."""
        for part in self.parts():
            assert isinstance(part, ParquetSource)
            if not part._leads_out():
                with part._opened():
                    return

    def count(self) -> int:
        rows = 0
        for part in self.parts():
            assert isinstance(part, ParquetSource)
            if not part._leads_out():
                with part._opened() as table:
                    rows += table.metadata.num_rows
        return rows

    def _leads_out(self) -> bool:
        if self.below is None or not isinstance(self.file, Path):
            return False
        return not self.file.resolve().is_relative_to(self.below)

    def _rows(self) -> Iterator[Found]:
        name, number = self._name(), 0
        with self._opened() as table:
            for batch in table.iter_batches(ROWS_AT_ONCE, use_threads=False):
                for index in range(batch.num_rows):  # each row alone: they may share one value
                    number += 1
                    row = {it: batch[it][index].as_py() for it in batch.schema.names}
                    yield self._bounded(item_of(f"{name} row {number}", row, self._resolve))

    def _bounded(self, found: Found) -> Found:
        """``found``, without a picture that is too large to be held by the dozen."""
        if not isinstance(found, Item) or not isinstance(found.content, bytes):
            return found
        if len(found.content) <= self.max_bytes:
            return found
        said = f"the picture has more than {self.max_bytes} bytes"
        return Rejection(found.person.id, found.where, "image_too_large", said)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """A ``pyarrow.parquet.ParquetFile`` of known columns, a value that comes often held once.

        ConfigError, and InvalidRequest for damage.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            file = pa.OSFile(str(self.file)) if isinstance(self.file, Path) else self.file
            metadata = parquet.read_metadata(file)
            names = metadata.schema.to_arrow_schema().names
            columns = [it for it in COLUMNS if self.root or it != "path"]
            check_columns(self._name(), names, columns)
            if not isinstance(self.file, Path):
                _check_groups(self._name(), metadata)
            with parquet.ParquetFile(
                file,
                metadata=metadata,
                read_dictionary=_texts(metadata.schema),
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
            ) as table:
                yield table
        except OSError as error:
            if error.errno is None:
                raise InvalidRequest(f"{self._name()} is damaged: {error}") from None
            raise ConfigError(f"cannot read {self._name()}: {error.strerror}") from None
        except (pa.ArrowException, ValueError, OverflowError) as error:  # values that Python lacks
            raise InvalidRequest(f"{self._name()} is no sound Parquet: {error}") from None

    def _name(self) -> str:
        return self.file.name if isinstance(self.file, Path) else "the table"

    def _resolve(self, path: str) -> File:
        assert self.root is not None, "an upload has no column path"
        return File(self.root / path, self.below)


def _texts(schema: Any) -> list[str]:
    """The columns of texts or bytes that are no lists."""
    columns = [schema.column(index) for index in range(len(schema))]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.max_repetition_level == 0
        and column.logical_type.type in {"NONE", "STRING"}
    ]


def _check_groups(name: str, metadata: Any) -> None:
    for index in range(metadata.num_row_groups):
        size = metadata.row_group(index).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise ConfigError(
                f"{name}: row group {index} has {size} bytes, at most {MAX_GROUP_BYTES} are read; "
                "write it with smaller row groups"
            )
