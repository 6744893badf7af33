"""A whole collection at once, for building an index: COPY in PostgreSQL's binary format.

No row becomes a Python object. A sample names its subject by a 64-bit hash that the server makes
under a seed of this load's own; the hashes of the subjects are seen to be distinct, so a hash
stands for one subject.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from psycopg.sql import SQL, Composable, Literal

from facegraph.columns import Texts
from facegraph.errors import DatabaseError
from facegraph.store import changelog
from facegraph.store.connecting import BlockingConnection
from facegraph.store.copying import Ints, Malformed, Rows
from facegraph.store.samples import EMBEDDING
from facegraph.store.sharding import in_shard
from facegraph.store.silence import Heard
from facegraph.types import WHOLE, FloatArray, GalleryRecords, Shard

_SUBJECTS = SQL("""
COPY (SELECT hashtextextended(id, {seed}), id, json_build_array(name, metadata)::text
    FROM facegraph.subjects WHERE collection_id = {collection} AND {mine})
TO STDOUT (FORMAT BINARY)
""")
_SAMPLES = SQL("""
COPY (SELECT hashtextextended(subject_id, {seed}), id, embedding
    FROM facegraph.samples WHERE collection_id = {collection} AND {mine})
TO STDOUT (FORMAT BINARY)
""")
_MISFIT = """
SELECT id, octet_length(embedding) FROM facegraph.samples
WHERE collection_id = %s AND octet_length(embedding) IS DISTINCT FROM %s LIMIT 1
"""
# COPY sends text in the client's encoding, whatever the database's is.
_SETTINGS = "SET LOCAL statement_timeout = '10min'; SET LOCAL client_encoding = 'UTF8'"


@dataclass(frozen=True, slots=True, eq=False)
class _Subjects:
    """keys: (s,) int64, ascending, with ``slots`` the subject of each."""

    ids: Texts
    details: Texts
    keys: Ints
    slots: npt.NDArray[np.int32]

    def of(self, keys: Ints) -> npt.NDArray[np.int32]:
        """The subjects that samples name by ``keys``."""
        found = np.searchsorted(self.keys, keys)
        if len(keys) and not (
            len(self.keys) and (self.keys.take(found, mode="clip") == keys).all()
        ):
            raise DatabaseError("the database holds samples whose subjects are missing")
        return self.slots[found]


def load(
    connection: BlockingConnection,
    heard: Heard,
    collection_id: str,
    shard: Shard = WHOLE,
) -> GalleryRecords:
    """The shard within a snapshot; CollectionNotFound, DatabaseError. Blocks: for a thread.

    heard: is called as rows come
    """
    connection.execute(_SETTINGS)
    copying = partial(_copy, connection, heard, collection_id, shard)
    head = changelog.head_blocking(connection, collection_id)
    seed, subjects = _distinct_subjects(copying)
    keys, sample_ids, embeddings = _samples(
        connection, copying, collection_id, seed=seed, dimension=head.dimension
    )
    return GalleryRecords(
        head, subjects.ids, subjects.details, sample_ids, subjects.of(keys), embeddings
    )


def _distinct_subjects(copying: Callable[..., None]) -> tuple[int, _Subjects]:
    """The subjects and the seed under which no two of them have the same hash."""
    while True:
        seed, rows = secrets.randbits(63), Rows(fields=3)
        copying(_SUBJECTS, rows, seed, SQL("id"))
        hashes, ids, details = rows.columns()
        keys = hashes.integers()
        order = np.argsort(keys)
        keys = keys[order]
        if (keys[1:] != keys[:-1]).all():
            return seed, _Subjects(ids.texts(), details.texts(), keys, order.astype(np.int32))


def _samples(
    connection: BlockingConnection,
    copying: Callable[..., None],
    collection_id: str,
    *,
    seed: int,
    dimension: int,
) -> tuple[Ints, Texts, FloatArray]:
    """Subjects' hashes, ids and embeddings (n, dimension) float32, row by row."""
    width = dimension * EMBEDDING.itemsize
    rows = Rows(fields=3, tail_width=width)
    copying(_SAMPLES, rows, seed, SQL("subject_id"))
    try:
        hashes, ids = rows.columns()
    except Malformed as error:
        misfit = connection.execute(_MISFIT, [collection_id, width]).fetchone()
        if misfit is None:
            raise
        raise DatabaseError(
            f"sample {misfit[0]!r} of {collection_id!r} holds {misfit[1]} bytes where "
            f"{dimension} float32 numbers take {width}"
        ) from error
    embeddings = np.frombuffer(rows.tails, EMBEDDING).reshape(-1, dimension)
    return hashes.integers(), ids.texts(), embeddings.astype(np.float32, copy=False)


def _copy(
    connection: BlockingConnection,
    heard: Heard,
    collection_id: str,
    shard: Shard,
    query: SQL,
    rows: Rows,
    seed: int,
    subject_id: SQL,
) -> None:
    values: dict[str, Composable] = {
        "seed": Literal(seed),
        "collection": Literal(collection_id),
        "mine": in_shard(shard, subject_id),
    }
    with connection.cursor().copy(query.format(**values)) as copy:
        rows.read(copy, heard)
