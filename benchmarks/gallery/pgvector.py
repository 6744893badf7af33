"""pgvector on the embedded server: what a database does by itself with the same rows.

Its vectors lie in the row (a vector of 512 would move out of it, and be read far more slowly).
It knows no batches: several probes are several statements, one to a core at a time.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import psycopg

from benchmarks.gallery.database import wire
from benchmarks.gallery.engines import HNSW_BUILD, HNSW_LINKS, HNSW_SEARCH, Engine, engine_of
from benchmarks.gallery.people import IntArray, People
from benchmarks.gallery.turns import cores
from facegraph.types import FloatArray

_QUERY = "SELECT id FROM rows ORDER BY embedding <#> %s::vector LIMIT %s"
_EXACT = (
    f"SET max_parallel_workers_per_gather = {cores() - 1}",
    "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0",
    "SET enable_indexscan = off",
)
_HNSW = (f"SET hnsw.ef_search = {HNSW_SEARCH}", "SET max_parallel_workers_per_gather = 0")


@contextmanager
def exact_scan(people: People, url: str) -> Iterator[Engine]:
    """One statement at a time, over all cores."""
    ensure_rows(url, people)
    with _engine(people, url, _EXACT, connections=1) as engine:
        yield engine


@contextmanager
def hnsw(people: People, url: str) -> Iterator[Engine]:
    """A statement is one core's work, so as many at a time as there are cores."""
    ensure_rows(url, people)
    ensure_index(url)
    with _engine(people, url, _HNSW, connections=cores()) as engine:
        yield engine


def ensure_rows(url: str, people: People) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('rows')").fetchone() != (None,):
            return
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        with connection.transaction():
            connection.execute(
                f"CREATE TABLE rows (id int, embedding vector({people.dimension}))".encode()
            )
            connection.execute("ALTER TABLE rows ALTER embedding SET STORAGE PLAIN")
            head = np.tile(np.array([people.dimension, 0], ">i2"), (people.samples, 1))
            numbers = people.embeddings.astype(">f4")
            vectors = np.hstack([head.view(np.uint8), numbers.view(np.uint8)])
            ids = np.arange(people.samples, dtype=">i4")[:, None]
            with connection.cursor().copy("COPY rows FROM STDIN (FORMAT BINARY)") as copy:
                for block in wire([ids, vectors]):
                    copy.write(block)
        connection.execute("VACUUM ANALYZE rows")


def ensure_index(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '2GB'")
        connection.execute(f"SET max_parallel_maintenance_workers = {cores() - 1}".encode())
        connection.execute(
            f"CREATE INDEX IF NOT EXISTS by_vector ON rows USING hnsw (embedding vector_ip_ops) "
            f"WITH (m = {HNSW_LINKS}, ef_construction = {HNSW_BUILD})".encode()
        )


@contextmanager
def _engine(
    people: People, url: str, settings: tuple[str, ...], connections: int
) -> Iterator[Engine]:
    free: queue.SimpleQueue[psycopg.Connection[tuple[Any, ...]]] = queue.SimpleQueue()

    def one(probe: FloatArray, k: int) -> list[int]:
        connection = free.get()
        try:
            text = str(probe.tolist())
            found = [row[0] for row in connection.execute(_QUERY, [text, k], prepare=True)]
            return found + found[-1:] * (k - len(found))  # an index may find fewer
        finally:
            free.put(connection)

    with ExitStack() as stack:
        for _ in range(connections):
            connection = psycopg.connect(url, autocommit=True)
            free.put(stack.enter_context(connection))
            for setting in settings:
                connection.execute(setting.encode())
        pool = stack.enter_context(ThreadPoolExecutor(connections))

        def search(probes: FloatArray, k: int) -> IntArray:
            return np.array(list(pool.map(one, probes, [k] * len(probes))))

        yield engine_of(search, people, batches=False)
