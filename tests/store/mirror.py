"""The plainest index there is: what changes make of it must equal what a fresh load gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from facegraph.store import Store
from facegraph.store.connecting import Connection
from facegraph.types import WHOLE, Change, GalleryRecords, Shard

_STAMP = """
SELECT stamp::text FROM facegraph.collections WHERE id = %(id)s AND version = %(version)s
UNION ALL
SELECT stamp::text FROM facegraph.past_versions
WHERE collection_id = %(id)s AND version = %(version)s
"""


async def stamp_at(store: Store, version: int, collection_id: str = "default") -> str:
    """What an index that took in that version knows it by; of a version that is gone: "gone"."""

    async def read(connection: Connection) -> str:
        asked = {"id": collection_id, "version": version}
        row = await (await connection.execute(_STAMP, asked)).fetchone()
        return "gone" if row is None else str(row[0])

    return await store.read(read)


class Mirror:
    """``subjects``: id → (name, metadata); ``samples``: id → (subject id, embedding's bytes)."""

    def __init__(self, records: GalleryRecords, shard: Shard = WHOLE) -> None:
        self.shard = shard
        self.head = records.head
        subjects = [records.subject(slot) for slot in range(len(records.subject_ids))]
        self.subjects: dict[str, tuple[str | None, Any]] = {
            subject.id: (subject.name, subject.metadata) for subject in subjects
        }
        self.samples: dict[str, tuple[str, bytes]] = {
            sample_id: (subjects[slot].id, row.tobytes())
            for sample_id, slot, row in zip(
                records.sample_ids, records.row_subjects, records.embeddings, strict=True
            )
        }
        self.loads = 1

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change.kind:
                case "subject_upserted":
                    assert change.subject is not None
                    self.subjects[change.subject_id] = (
                        change.subject.name,
                        change.subject.metadata,
                    )
                case "subject_removed":
                    self.subjects.pop(change.subject_id, None)
                    self.samples = {
                        key: held
                        for key, held in self.samples.items()
                        if held[0] != change.subject_id
                    }
                case "sample_added":
                    assert change.sample_id is not None
                    assert change.embedding is not None
                    held = (change.subject_id, change.embedding.tobytes())
                    self.samples[change.sample_id] = held
                case "sample_removed":
                    assert change.sample_id is not None
                    self.samples.pop(change.sample_id, None)

    async def catch_up(self, store: Store, collection_id: str, limit: int = 1000) -> None:
        """To the store's head, by the log where it reaches, else by loading."""
        target = await store.head(collection_id)
        while self.head.stamp != target.stamp:
            news = await store.changes(
                collection_id,
                since=self.head.version,
                incarnation=self.head.incarnation,
                stamp=self.head.stamp,
                shard=self.shard,
                limit=limit,
            )
            if news is None:
                loads = self.loads
                records = await store.load(collection_id, self.shard)
                self.__init__(records, self.shard)  # type: ignore[misc]
                self.loads = loads + 1
                continue
            assert news[0].version > self.head.version
            self.apply(news[1])
            self.head = news[0]

    def state(self) -> tuple[object, ...]:
        return self.head.version, self.subjects, self.samples
