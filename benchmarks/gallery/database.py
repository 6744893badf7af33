"""An embedded PostgreSQL for the benchmarks, and many rows brought into it at once."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.gallery.people import People, sample_id, subject_id
from facegraph.store import EmbeddedServer, Store
from facegraph.store.samples import EMBEDDING
from facegraph.store.writing import Write

COLLECTION = "benchmark"

_SUBJECTS = """
COPY facegraph.subjects (collection_id, id, name, sample_count) FROM STDIN (FORMAT BINARY)
"""
_SAMPLES = """
COPY facegraph.samples (collection_id, id, subject_id, embedding) FROM STDIN (FORMAT BINARY)
"""
_ROWS = 8192

Column = npt.NDArray[Any]
"""(n,) bytes of one width, or (n, width) numbers; each row is a field as PostgreSQL reads it."""


class Databases:
    """A server that starts when it is first needed; ends with all it holds."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @cached_property
    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="fg-"))

    @cached_property
    def _server(self) -> EmbeddedServer:
        server = EmbeddedServer(self._folder)
        server.hold()
        return server

    def make(self) -> str:
        """The URL of a new, empty database."""
        name = f"benchmark_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return make_conninfo(self._server.url, dbname=name)

    def drop(self, url: str) -> None:
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if "_server" in self.__dict__:
            self._server.release()
        if "_folder" in self.__dict__:
            shutil.rmtree(self._folder)


async def make_collection(url: str, people: People) -> None:
    """Makes ``COLLECTION`` with everybody in it."""
    async with Store.open(url) as store:
        await store.create_collection(COLLECTION, contract=people.contract)
    await fill(url, COLLECTION, people)


async def fill(url: str, collection: str, people: People) -> None:
    """Enrols everybody in an empty collection, as one version; CollectionNotFound."""
    async with Store.open(url) as store:
        await store.write_to(collection, partial(_copy_in, people=people))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE facegraph.samples")


async def _copy_in(write: Write, people: People) -> None:
    await write.connection.execute("SET LOCAL statement_timeout = '30min'")
    counts = np.bincount(people.row_subjects)
    tables = ((_SUBJECTS, _subjects(write, counts)), (_SAMPLES, _samples(write, people)))
    for statement, columns in tables:
        async with write.connection.cursor().copy(statement) as copy:
            for block in wire(columns):
                await copy.write(block)
    write.subjects, write.samples = len(counts), people.samples
    await write.forget_log()


def _subjects(write: Write, counts: npt.NDArray[np.intp]) -> list[Column]:
    names = np.array([f"Person {number:012d}".encode() for number in range(len(counts))])
    ids = np.array([subject_id(number).encode() for number in range(len(counts))])
    collection = np.full(len(counts), write.collection_id.encode())
    return [collection, ids, names, counts.astype(">i8")[:, None]]


def _samples(write: Write, people: People) -> list[Column]:
    subjects = np.array([subject_id(number).encode() for number in range(people.subjects)])
    return [
        np.full(people.samples, write.collection_id.encode()),
        np.array([sample_id(row).encode() for row in range(people.samples)]),
        subjects[people.row_subjects],
        people.embeddings.astype(EMBEDDING, copy=False),
    ]


def wire(columns: Sequence[Column]) -> Iterator[bytes]:
    """Rows in the binary format of COPY."""
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(columns[0]), _ROWS):
        fields = [np.ascontiguousarray(column[start : start + _ROWS]) for column in columns]
        n = len(fields[0])
        parts = [_bytes(np.full((n, 1), len(columns), ">i2"))]
        for values in (_bytes(column) for column in fields):
            parts += [_bytes(np.full((n, 1), values.shape[1], ">i4")), values]
        yield np.hstack(parts).tobytes()
    yield b"\xff\xff"


def _bytes(values: Column) -> npt.NDArray[np.uint8]:
    return values.view(np.uint8).reshape(len(values), -1)
