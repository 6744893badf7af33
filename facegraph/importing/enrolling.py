"""Many subjects' samples in one transaction and one version; what is there already is skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from facegraph.importing.report import Report
from facegraph.store import Store, samples, subjects
from facegraph.store.connecting import Connection
from facegraph.store.validation import check_metadata, check_samples, check_text
from facegraph.store.writing import Write
from facegraph.types import Contract, NewSample

BATCH = 200
"""Samples in one transaction."""

_KNOWN_SAMPLES = """
SELECT id FROM facegraph.samples WHERE collection_id = %s AND id = ANY(%s)
"""
_KNOWN_SUBJECTS = """
SELECT id FROM facegraph.subjects WHERE collection_id = %s AND id = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Person:
    """A subject to be made where it is not there yet. InvalidRequest for what cannot be kept."""

    id: str
    name: str | None
    metadata: Mapping[str, Any]
    external_id: str | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_text("external_id", self.external_id)
        check_metadata(self.metadata)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A sample, with an id of its own, and whose it is."""

    person: Person
    sample_id: str
    sample: NewSample


def sample_id(source: str, old_id: str, content: bytes) -> str:
    """The same for the same content of the same person."""
    digest = hashlib.sha256(f"{len(old_id)} {old_id} ".encode() + content)
    return f"{source}-{digest.hexdigest()[:32]}"


async def enrol(
    store: Store,
    collection_id: str,
    entries: Sequence[Entry],
    contract: Contract,
    report: Report,
) -> None:
    """Adds what is not there; all or nothing. ContractMismatch, CollectionNotFound."""
    if not entries:
        return
    unique = {entry.sample_id: entry for entry in entries}
    check_samples([entry.sample for entry in unique.values()], contract)
    known = await known_samples(store, collection_id, list(unique))
    new = [entry for sample, entry in unique.items() if sample not in known]
    made: frozenset[str] = frozenset()
    added = 0
    if new:
        work = partial(_add, entries=new, contract=contract)
        (made, added), _ = await store.write_to(collection_id, work)
    report.subjects({entry.person.id for entry in entries}, made)
    report.samples(added, len(entries) - added)


async def known_samples(store: Store, collection_id: str, ids: Sequence[str]) -> set[str]:
    """Those of ``ids`` that are samples of the collection."""
    return await store.read(
        partial(_known, query=_KNOWN_SAMPLES, collection_id=collection_id, ids=ids)
    )


async def _known(
    connection: Connection, query: str, collection_id: str, ids: Sequence[str]
) -> set[str]:
    found = await connection.execute(query, [collection_id, list(ids)])
    return {row[0] for row in await found.fetchall()}


async def _add(
    write: Write, entries: Sequence[Entry], contract: Contract
) -> tuple[frozenset[str], int]:
    """The subjects made and the number of samples added.

    Looks again at what is there: this write is alone in the collection, the caller was not.
    """
    await write.bind(contract)
    here = partial(_known, write.connection, collection_id=write.collection_id)
    known = await here(query=_KNOWN_SAMPLES, ids=[entry.sample_id for entry in entries])
    people = {entry.person.id: entry.person for entry in reversed(entries)}
    held = await here(query=_KNOWN_SUBJECTS, ids=list(people))
    samples_of: dict[str, list[NewSample]] = {}
    for entry in entries:
        if entry.sample_id not in known:
            samples_of.setdefault(entry.person.id, []).append(entry.sample)
    for subject_id, new in samples_of.items():
        if subject_id in held:
            await subjects.count_samples(write, subject_id, len(new))
        else:
            person = people[subject_id]
            await subjects.insert(
                write,
                subject_id,
                name=person.name,
                external_id=person.external_id,
                metadata=check_metadata(person.metadata),
                samples=len(new),
            )
        await samples.insert(write, subject_id, new)
    return frozenset(samples_of) - held, sum(map(len, samples_of.values()))
