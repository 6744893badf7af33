"""The rows of samples; embeddings are float32, little endian, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg.sql import SQL

from facegraph.errors import Conflict, SampleNotFound
from facegraph.store import subjects
from facegraph.store.connecting import Connection
from facegraph.store.ids import new_id
from facegraph.store.paging import after, page
from facegraph.store.records import Page
from facegraph.store.validation import check_metadata
from facegraph.store.writing import Write
from facegraph.types import CROP_SIZE, FloatArray, NewSample, Sample

EMBEDDING = np.dtype("<f4")
"""An embedding's numbers as the database keeps them."""

_COLUMNS = SQL("id, subject_id, bbox, detection_score, metadata, created_at")
_INSERT = SQL("""
INSERT INTO facegraph.samples (collection_id, id, subject_id, embedding, bbox, detection_score,
    crop, metadata)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING {}
""").format(_COLUMNS)
_LIST = SQL("""
SELECT {} FROM facegraph.samples
WHERE collection_id = %s AND subject_id = %s AND id > %s ORDER BY id LIMIT %s
""").format(_COLUMNS)
_DELETE = """
DELETE FROM facegraph.samples WHERE collection_id = %s AND subject_id = %s AND id = %s
"""


async def insert(write: Write, subject_id: str, samples: Sequence[NewSample]) -> tuple[Sample, ...]:
    """Adds ``samples`` to a subject that counts them already; Conflict for an id in use."""
    if not samples:
        return ()
    rows = [_row(write, subject_id, sample) for sample in samples]
    cursor = write.connection.cursor()
    await cursor.executemany(_INSERT, rows, returning=True)
    made = []
    for row in rows:
        found = await cursor.fetchone()
        if found is None:
            raise Conflict(f"there is a sample {row[1]!r} in this collection already")
        made.append(_sample(found))
        write.log("sample_added", subject_id, row[1])
        cursor.nextset()
    write.samples += len(made)
    return tuple(made)


async def listed(
    connection: Connection, collection_id: str, subject_id: str, limit: int, cursor: str | None
) -> Page[Sample]:
    """A subject's samples in the order of their ids; CollectionNotFound, SubjectNotFound."""
    scope = f"samples/{collection_id}/{subject_id}"
    last = after(cursor, scope)
    await subjects.get(connection, collection_id, subject_id)
    found = await connection.execute(_LIST, [collection_id, subject_id, last, limit + 1])
    rows = [_sample(row) for row in await found.fetchall()]
    return page(rows, limit, scope, lambda item: item.id)


async def delete(write: Write, subject_id: str, sample_id: str) -> None:
    """Removes one sample; SubjectNotFound, SampleNotFound."""
    gone = await write.connection.execute(_DELETE, [write.collection_id, subject_id, sample_id])
    if not gone.rowcount:
        await subjects.get(write.connection, write.collection_id, subject_id)
        raise SampleNotFound(f"there is no sample {sample_id!r} of subject {subject_id!r}")
    await subjects.count_samples(write, subject_id, -1)
    write.samples -= 1
    write.log("sample_removed", subject_id, sample_id)


def from_bytes(stored: bytes) -> FloatArray:
    """An embedding as it was enrolled, (d,) float32."""
    return np.frombuffer(stored, EMBEDDING).astype(np.float32)


def _row(write: Write, subject_id: str, sample: NewSample) -> tuple[Any, ...]:
    keep = sample.crop is not None and write.keep_crops
    return (
        write.collection_id,
        sample.id or new_id(),
        subject_id,
        sample.embedding.astype(EMBEDDING).tobytes(),
        None if sample.bbox is None else [float(side) for side in sample.bbox],
        None if sample.detection_score is None else float(sample.detection_score),
        _crop_bytes(sample) if keep else None,
        check_metadata(sample.metadata),
    )


def _crop_bytes(sample: NewSample) -> bytes:
    assert sample.crop is not None
    assert sample.crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    return sample.crop.tobytes()


def _sample(row: tuple[Any, ...]) -> Sample:
    sample_id, subject_id, bbox, detection_score, metadata, created_at = row
    box = None if bbox is None else (bbox[0], bbox[1], bbox[2], bbox[3])
    return Sample(sample_id, subject_id, box, detection_score, metadata, created_at)
