"""Which source a path means."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

from facegraph.bulk.csvfiles import CsvSource
from facegraph.bulk.folders import FolderSource
from facegraph.bulk.items import Source
from facegraph.bulk.parquet import ParquetSource
from facegraph.bulk.patterns import PATTERN, Pattern
from facegraph.bulk.zips import ZipSource
from facegraph.errors import ConfigError

UploadKind = Literal["zip", "parquet", "csv"]


def open_path(
    path: Path,
    *,
    pattern: str = PATTERN,
    root: Path | None = None,
    below: Path | None = None,
    max_bytes: int = 16 * 2**20,
) -> Source:
    """The source at ``path``: a folder of pictures, or ``.csv``, ``.parquet``, ``.zip``.

    A folder with ``*.parquet`` in it is a table. root: what a table's paths are relative to, by
    default its folder. below: as :class:`facegraph.bulk.items.File`. ConfigError.
    """
    Pattern(pattern)
    path = path.absolute()
    root = root.absolute() if root else path if path.is_dir() else path.parent
    if path.is_dir():
        if any(path.glob("*.parquet")):
            return ParquetSource(path, root, below, max_bytes)
        return FolderSource(path, pattern, below)
    if not path.is_file():
        raise ConfigError(f"there is no file or folder {path}")
    match path.suffix.lower():
        case ".csv":
            return CsvSource(path, root, below)
        case ".parquet":
            return ParquetSource(path, root, below, max_bytes)
        case ".zip":
            return ZipSource(path, pattern, max_bytes)
        case _:
            raise ConfigError(f"{path.name} is no folder, and no .csv, .parquet or .zip")


def kind_of(file: BinaryIO) -> UploadKind:
    """What an uploaded file is, by how it begins."""
    file.seek(0)
    begin = file.read(4)
    file.seek(0)
    if begin[:2] == b"PK":
        return "zip"
    return "parquet" if begin == b"PAR1" else "csv"


def open_upload(file: BinaryIO, *, pattern: str = PATTERN, max_bytes: int = 16 * 2**20) -> Source:
    """The source in an uploaded file. It names no file of this machine. ConfigError."""
    Pattern(pattern)
    match kind_of(file):
        case "zip":
            return ZipSource(file, pattern, max_bytes)
        case "parquet":
            return ParquetSource(file, max_bytes=max_bytes)
        case "csv":
            return CsvSource(file)
