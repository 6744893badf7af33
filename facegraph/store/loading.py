"""A whole collection at once, for building an index: COPY in PostgreSQL's binary format."""

from __future__ import annotations

import numpy as np
from psycopg.rows import tuple_row

from facegraph.store import changelog
from facegraph.store.connecting import BlockingConnection
from facegraph.store.samples import EMBEDDING
from facegraph.types import FloatArray, GalleryRecords, SubjectRecord

_SUBJECTS = "SELECT id, name, metadata FROM facegraph.subjects WHERE collection_id = %s"
_SAMPLES = """
COPY (SELECT id, subject_id, embedding FROM facegraph.samples WHERE collection_id = %s)
TO STDOUT (FORMAT BINARY)
"""
_TIME_TO_LOAD = "SET LOCAL statement_timeout = '10min'"


def load(connection: BlockingConnection, collection_id: str) -> GalleryRecords:
    """The collection within a snapshot; CollectionNotFound. Blocks: run it in a thread."""
    connection.execute(_TIME_TO_LOAD)
    head = changelog.head_blocking(connection, collection_id)
    with connection.cursor("subjects", row_factory=tuple_row) as rows:
        rows.itersize = 10_000
        rows.execute(_SUBJECTS, [collection_id])
        subjects = tuple(SubjectRecord(*row) for row in rows)
    sample_ids, subject_ids, embeddings = _samples(connection, collection_id, head.dimension)
    return GalleryRecords(head, subjects, sample_ids, subject_ids, embeddings)


def _samples(
    connection: BlockingConnection, collection_id: str, dimension: int
) -> tuple[tuple[str, ...], tuple[str, ...], FloatArray]:
    """Ids, subject ids and embeddings (n, dimension) float32, row by row."""
    sample_ids: list[str] = []
    subject_ids: list[str] = []
    vectors = bytearray()
    with connection.cursor().copy(_SAMPLES, [collection_id]) as copy:
        copy.set_types(["text", "text", "bytea"])
        for sample_id, subject_id, embedding in copy.rows():
            sample_ids.append(sample_id)
            subject_ids.append(subject_id)
            vectors += embedding
    embeddings = np.frombuffer(vectors, EMBEDDING).reshape(-1, dimension)
    return tuple(sample_ids), tuple(subject_ids), embeddings.astype(np.float32, copy=False)
