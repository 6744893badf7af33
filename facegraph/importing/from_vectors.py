"""An old system's vectors, kept as they are in a collection of their own."""

from __future__ import annotations

import json
from contextlib import aclosing

from facegraph.datasets import unit_row
from facegraph.errors import InvalidRequest
from facegraph.ids import to_subject_id
from facegraph.importing.enrolling import BATCH, Entry, Person, enrol, sample_id
from facegraph.importing.old_tables import MAX_VECTOR, OldFace, OldTables, OldVector
from facegraph.importing.report import Rejected, Rejection, Report
from facegraph.store import Store
from facegraph.types import Contract, FloatArray, NewSample


async def import_vectors(
    old: OldTables, store: Store, collection_id: str, contract: Contract, report: Report
) -> None:
    """Every vector that has a face and can be kept, into a collection bound to ``contract``."""
    batch: list[Entry] = []
    async with aclosing(old.vectors()) as rows:
        async for row in rows:
            try:
                batch.append(_entry(old.system.name, row, contract.dimension))
            except Rejected as why:
                report.reject(Rejection(row.face.id, "vector", why.code, why.detail))
            if len(batch) == BATCH:
                await enrol(store, collection_id, batch, contract, report)
                batch = []
    await enrol(store, collection_id, batch, contract, report)


def person_of(face: OldFace) -> Person:
    """The subject an old face becomes, as smartav's dialect makes one; Rejected."""
    if face.id is None:
        raise Rejected("no_id", "the row has no id")
    try:
        subject_id = to_subject_id(face.id)
    except InvalidRequest as error:
        raise Rejected("invalid_id", str(error)) from None
    try:
        metadata = {"metadata": face.metadata, "action": face.action}
        return Person(subject_id, face.name or "", metadata)
    except InvalidRequest as error:
        raise Rejected("invalid_text", str(error)) from None


def _entry(source: str, row: OldVector, dimension: int) -> Entry:
    person = person_of(row.face)
    if not row.has_face:
        raise Rejected("no_face_row", "the vector belongs to no face")
    if not row.has_vector:
        raise Rejected("no_vector", "the face has no vector")
    vector = _vector(row.text, dimension)
    name = sample_id(source, row.face.id or "", (row.text or "").encode())
    return Entry(person, name, NewSample(vector, id=name))


def _vector(text: str | None, dimension: int) -> FloatArray:
    """(dimension,) float32, L2-normalised; Rejected."""
    if text is None:
        raise Rejected("no_vector", "the vector is NULL")
    if len(text) >= MAX_VECTOR:
        raise Rejected("invalid_vector", f"the vector's text has {MAX_VECTOR} characters or more")
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected("invalid_vector", "the vector is no JSON") from None
    if not isinstance(numbers, list) or any(isinstance(n, bool | str) for n in numbers):
        raise Rejected("invalid_vector", "the vector is no list of numbers")
    try:
        return unit_row(numbers, dimension)
    except InvalidRequest as error:
        raise Rejected("invalid_vector", f"the vector {error}") from None
