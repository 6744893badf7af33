"""A fake store that counts, waits and fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from facegraph.errors import CollectionNotFound, StoreUnavailable
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.types import (
    WHOLE,
    Change,
    Consistency,
    FloatArray,
    GalleryRecords,
    Head,
    Shard,
    SubjectRecord,
)

EYE = np.eye(8, dtype=np.float32)


class FakeRecords:
    """A store of people: sample ``f<n>`` of subject ``p<n>`` is ``vector(n)``.

    A shard is the people whose number leaves its index when divided by its count. ``loads`` and
    ``asked_for`` tell which collections were loaded, and asked for changes; a load waits for
    ``gate``, and ``loading`` tells that one has begun. ``page`` versions are told at a time;
    ``meanwhile`` happens before each page.
    """

    def __init__(self, vectors: FloatArray = EYE) -> None:
        self.vectors = vectors
        self.people: dict[str, list[int]] = {}
        self.heads_by_id: dict[str, Head] = {}
        self.log: dict[str, list[Change]] = {}
        self.stamps: dict[str, dict[int, str]] = {}
        self.loads: list[str] = []
        self.asked_for: list[str] = []
        self.page = 1_000_000
        self.meanwhile: Callable[[], object] = lambda: None
        self.down = False
        self.delay_s = 0.0
        self.asked = asyncio.Event()
        self.loading = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._drawn = 0
        self.make("default")

    def make(
        self, collection: str, *people: int, incarnation: str = "i1", contract_id: str = "c1"
    ) -> None:
        """A collection as if newly created, with these people."""
        dimension = self.vectors.shape[1]
        self.people[collection], self.log[collection] = [], []
        self.stamps[collection] = {0: self._stamp()}
        self.heads_by_id[collection] = Head(
            incarnation, 0, 0, contract_id, dimension, stamp=self.stamps[collection][0]
        )
        for person in people:
            self.enrol(person, collection)

    def enrol(self, person: int, collection: str = "default") -> None:
        name = f"p{person}"
        version = self._next(collection)
        self.people[collection].append(person)
        self.log[collection] += [
            Change(version, "subject_upserted", name, subject=SubjectRecord(name, name, {})),
            Change(version, "sample_added", name, f"f{person}", embedding=self.vectors[person]),
        ]
        self._count(collection)

    def remove(self, person: int, collection: str = "default") -> None:
        name = f"p{person}"
        version = self._next(collection)
        self.people[collection].remove(person)
        # What is gone when the log is read is told by its removal alone.
        self.log[collection] = [c for c in self.log[collection] if c.subject_id != name]
        self.log[collection] += [
            Change(version, "sample_removed", name, f"f{person}"),
            Change(version, "subject_removed", name),
        ]
        self._count(collection)

    def change(self, collection: str = "default", **changes: object) -> None:
        """Changes the head in passing, as an operator does; the version stays."""
        self.heads_by_id[collection] = replace(
            self.heads_by_id[collection],
            **changes,  # type: ignore[arg-type]
        )

    def delete(self, collection: str) -> None:
        del self.heads_by_id[collection], self.people[collection], self.log[collection]

    def _stamp(self) -> str:
        self._drawn += 1
        return f"s{self._drawn}"

    def _next(self, collection: str) -> int:
        version = self.heads_by_id[collection].version + 1
        self.stamps[collection][version] = self._stamp()
        self.change(collection, version=version, stamp=self.stamps[collection][version])
        return version

    def _count(self, collection: str) -> None:
        self.change(collection, sample_count=len(self.people[collection]))

    async def _answer(self, collection_id: str | None = None) -> None:
        self.asked.set()
        self.asked = asyncio.Event()
        await asyncio.sleep(self.delay_s)
        if self.down:
            raise StoreUnavailable("the fake store is down")
        if collection_id is not None and collection_id not in self.heads_by_id:
            raise CollectionNotFound(collection_id)

    async def head(self, collection_id: str) -> Head:
        await self._answer(collection_id)
        return self.heads_by_id[collection_id]

    async def heads(self) -> dict[str, Head]:
        await self._answer()
        return dict(self.heads_by_id)

    async def load(self, collection_id: str, shard: Shard = WHOLE) -> GalleryRecords:
        self.loading.set()
        await self.gate.wait()
        await self._answer(collection_id)
        self.loads.append(collection_id)
        people = [n for n in self.people[collection_id] if n % shard.count == shard.index]
        return GalleryRecords.of(
            self.heads_by_id[collection_id],
            [SubjectRecord(f"p{n}", f"p{n}", {}) for n in people],
            [(f"f{n}", f"p{n}", self.vectors[n]) for n in people],
        )

    async def changes(
        self,
        collection_id: str,
        *,
        since: int,
        incarnation: str,
        stamp: str,
        shard: Shard = WHOLE,
    ) -> tuple[Head, Sequence[Change]] | None:
        await self._answer(collection_id)
        self.asked_for.append(collection_id)
        self.meanwhile()
        head = self.heads_by_id[collection_id]
        known = self.stamps[collection_id].get(since) == stamp
        if head.incarnation != incarnation or since < head.log_floor or not known:
            return None
        last = min(since + self.page, head.version)
        if last < head.version:
            stamp_there = self.stamps[collection_id][last]
            head = replace(head, version=last, stamp=stamp_there, more=True)
        told = [c for c in self.log[collection_id] if since < c.version <= last]
        return head, [c for c in told if int(c.subject_id[1:]) % shard.count == shard.index]


async def who(
    matcher: Matcher,
    records: FakeRecords,
    person: int,
    collection: str = "default",
    consistency: Consistency = "strong",
) -> list[str]:
    """Who looks like that person, of the best three."""
    probe = records.vectors[person : person + 1]
    found = await matcher.match(collection, "c1", probe, Query(3, consistency))
    return [match.subject_id for match in found.matches[0] if match.similarity > 0.5]
