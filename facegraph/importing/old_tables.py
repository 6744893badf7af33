"""The tables of smartav_api and face_recognition_v2, read in one read-only snapshot, in streams.

Nothing is known of the columns but their names, so every id and vector is read as text. What is
longer than can be kept is cut where it is read, and then refused for its length.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from facegraph.errors import ConfigError, DatabaseError
from facegraph.store.connecting import Connection, connection_string
from facegraph.store.failures import one_line

MAX_VECTOR = 200_000
"""Characters of a vector's text."""

MAX_DIMENSION = 4096
_MAX_ID = 300
_MAX_NAME = 5_000
_MAX_JSON = 20_000
_ROWS_PER_FETCH = 200

_SESSION = (
    "SET LOCAL statement_timeout = '10min'; SET LOCAL idle_in_transaction_session_timeout = 0"
)


@dataclass(frozen=True, slots=True)
class OldFace:
    """A face's row, texts as they were; ``id`` is None where it had none."""

    id: str | None
    name: str | None
    metadata: Any
    action: Any


@dataclass(frozen=True, slots=True)
class OldVector:
    """A vector's row with its face's; either may be missing. ``text`` None: it was NULL."""

    face: OldFace
    has_face: bool
    has_vector: bool
    text: str | None


@dataclass(frozen=True, slots=True)
class System:
    """Where an old system kept its faces and its vectors."""

    name: str
    faces: str
    vectors: str
    joined: str


def _json(column: str) -> str:
    """A text becomes a JSON string, a JSON column stays what it is; NULL stays NULL."""
    text = f"{column}::text"
    return (
        f"CASE WHEN octet_length({text}) > {_MAX_JSON} THEN to_jsonb(left({text}, {_MAX_JSON})) "
        f"ELSE to_jsonb({column}) END"
    )


def _face(metadata: str) -> str:
    return (
        f"left(sample_id::text, {_MAX_ID}) AS id, left(name::text, {_MAX_NAME}) AS name, "
        f"{_json(metadata)} AS metadata, {_json('action')} AS action, true AS present"
    )


_VECTOR = f"left(vector::text, {MAX_VECTOR}) AS vector"

SMARTAV = System(
    "smartav",
    faces=f"SELECT {_face('meta_data')} FROM sample_faces",
    vectors=f"SELECT {_VECTOR} FROM feature_vectors",
    joined=f"""
SELECT coalesce(f.id, v.id) AS id, f.name, f.metadata, f.action, f.present, v.present, v.vector
FROM (SELECT {_face("meta_data")} FROM sample_faces) f
FULL JOIN (SELECT left(face_id::text, {_MAX_ID}) AS id, {_VECTOR}, true AS present
    FROM feature_vectors) v ON f.id = v.id
ORDER BY 1, 2
""",
)
FRV2 = System(
    "frv2",
    faces=f"SELECT {_face('metadata')} FROM sample_face_vectors",
    vectors=f"SELECT {_VECTOR} FROM sample_face_vectors",
    joined=f"""
SELECT id, name, metadata, action, present, vector IS NOT NULL, vector
FROM (SELECT {_face("metadata")}, {_VECTOR} FROM sample_face_vectors) f
ORDER BY 1, 2
""",
)
SYSTEMS = {system.name: system for system in (SMARTAV, FRV2)}


@asynccontextmanager
async def open_old(url: str, system: System) -> AsyncIterator[OldTables]:
    """The tables at ``url``; DatabaseError where they cannot be read, now or later.

    Only SELECT is needed, and nothing can be written.
    """
    target = checked_url(url)
    try:
        async with await psycopg.AsyncConnection.connect(target) as connection:
            await connection.set_read_only(True)
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.execute(_SESSION)
            yield OldTables(connection, system)
    except (psycopg.Error, UnicodeDecodeError) as error:
        raise DatabaseError(
            f"the tables of {system.name} cannot be read: {one_line(error)}"
        ) from None


def checked_url(url: str) -> str:
    """What libpq is given; ConfigError for what it would misread and quote in its error.

    A password with an unescaped sign would be taken for a host, a port or a database.
    """
    login = url.partition("://")[2].rpartition("@")[0]
    try:
        if set(login) & set("@/?#"):
            raise ConfigError("")
        return make_conninfo(connection_string(url), client_encoding="utf8")
    except (ConfigError, DatabaseError):
        raise ConfigError(
            "the old database's URL is not one PostgreSQL understands; write "
            "postgresql://user:password@host/database, the password's @ / ? # percent-encoded"
        ) from None


class OldTables:
    """One snapshot of the tables, for one reader at a time."""

    def __init__(self, connection: Connection, system: System) -> None:
        self._connection = connection
        self.system = system

    async def dimension(self) -> int:
        """How many numbers most vectors have; 512 where nothing looks like a list of some."""
        listed = await self._connection.execute(
            "SELECT length(vector) - length(replace(vector, ',', '')) + 1, count(*) "
            f"FROM ({self.system.vectors}) v WHERE length(vector) < {MAX_VECTOR} "
            "AND ltrim(vector) LIKE '[%,%' GROUP BY 1 ORDER BY 2 DESC, 1 DESC LIMIT 1"
        )
        row = await listed.fetchone()
        return 512 if row is None else min(int(row[0]), MAX_DIMENSION)

    async def count(self, query: str) -> int:
        """How many rows ``query`` has."""
        counted = await self._connection.execute(f"SELECT count(*) FROM ({query}) q")
        row = await counted.fetchone()
        assert row is not None
        return int(row[0])

    async def vectors(self) -> AsyncGenerator[OldVector]:
        """Every vector and every face without one, in the order of their ids."""
        async for row in self._stream(self.system.joined):
            *face, has_face, has_vector, text = row
            yield OldVector(OldFace(*face), bool(has_face), bool(has_vector), text)

    async def ids(self) -> AsyncGenerator[str]:
        """Every face's id, in no order, perhaps more than once."""
        query = f"SELECT id FROM ({self.system.faces}) f WHERE id IS NOT NULL"
        async for (old_id,) in self._stream(query):
            yield old_id

    async def faces(self) -> AsyncGenerator[OldFace]:
        """Every face in the order of the ids; of several with one id the first."""
        query = f"SELECT id, name, metadata, action FROM ({self.system.faces}) f ORDER BY 1, 2"
        last: str | None = None
        async for row in self._stream(query):
            face = OldFace(*row)
            if face.id is None or face.id != last:
                last = face.id
                yield face

    async def _stream(self, query: str) -> AsyncGenerator[tuple[Any, ...]]:
        async with self._connection.cursor("facegraph_import") as cursor:
            cursor.itersize = _ROWS_PER_FETCH
            await cursor.execute(query)
            async for row in cursor:
                yield row
