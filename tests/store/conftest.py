"""One embedded server for the session; a database of its own for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from facegraph.store import EmbeddedServer, Store
from tests.store.making import CONTRACT


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's, closed to everybody else."""
    folder = Path(tempfile.mkdtemp(prefix="fg-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server_url(short_tmp: Path) -> Iterator[str]:
    server = EmbeddedServer(short_tmp / "shared")
    yield server.hold()
    server.release()


@pytest.fixture(scope="session")
def make_database(server_url: str) -> Callable[[], str]:
    """Makes an empty database and answers its URL."""
    numbers = itertools.count(1)

    def make() -> str:
        name = f"test_{next(numbers)}"
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return make_conninfo(server_url, dbname=name)

    return make


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    """A database without tables, of the test's own."""
    return make_database()


@pytest.fixture(scope="session")
def store_url(make_database: Callable[[], str]) -> str:
    """The database that the tests with a ``store`` share, one after the other."""
    return make_database()


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A store with nothing but an empty ``default``."""
    async with Store.open(store_url) as opened:
        with psycopg.connect(store_url) as connection:
            connection.execute("DELETE FROM facegraph.collections")
        await opened.ensure_default(CONTRACT)
        yield opened
