"""Where galleries come from: a file of this node and the log's tail after it, or the store."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from facegraph.gallery import Base, Gallery, Snapshot
from facegraph.gallery.folder import Folder
from facegraph.matching.records import Records
from facegraph.types import Head, Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A gallery at ``head``; ``filed``: its base lies in a file."""

    gallery: Gallery
    head: Head
    filed: bool


class Source:
    """Makes galleries of one shard. The counts are of what happened since the start."""

    def __init__(
        self, records: Records, *, shard: Shard, storage: str, folder: Path | None, device: str
    ) -> None:
        self.records = records
        self._device = device
        self.shard = shard
        self.storage = storage
        self.folder = None if folder is None else Folder(folder, shard, storage)
        self.loads = self.hits = self.misses = 0

    async def gallery(self, collection_id: str, head: Head) -> Loaded:
        """The collection at ``head`` or later; CollectionNotFound, StoreUnavailable."""
        if self.folder is not None:
            loaded = await self.from_file(collection_id, head)
            if loaded is not None:
                self.hits += 1
                return loaded
            self.misses += 1
        records = await self.records.load(collection_id, self.shard)
        gallery = await asyncio.to_thread(
            lambda: Gallery(self.placed(Base.build(records, self.storage, shard=self.shard)))
        )
        self.loads += 1
        return Loaded(gallery, records.head, filed=False)

    async def from_file(self, collection_id: str, head: Head) -> Loaded | None:
        """The newest file's base with the log's tail applied; a file without a tail is removed."""
        assert self.folder is not None
        base = await asyncio.to_thread(self.folder.open, collection_id, head)
        if base is None:
            return None
        gallery = Gallery(await asyncio.to_thread(self.placed, base))
        reached = await self.advance(collection_id, gallery)
        if reached is None:
            why = "the log does not lead on from it"
            await asyncio.to_thread(self.folder.discard, collection_id, base.head, why)
            return None
        return Loaded(gallery, reached, filed=True)

    def placed(self, base: Base) -> Base:
        """The base with its codes where searches are to read them. Blocks."""
        if self._device == "cpu":
            return base
        try:
            return base.on(self._device)
        except RuntimeError as error:
            log.warning("a gallery is searched without %s: %s", self._device, error)
            return base

    async def advance(self, collection_id: str, gallery: Gallery) -> Head | None:
        """Applies what the log tells, to its end; the head that leads to. None: load again.

        A page of the log that others follow is no state to search in: it tells objects as they
        are now, so who was replaced after it would be missing.
        """
        while True:
            at = gallery.snapshot
            news = await self.records.changes(
                collection_id,
                since=at.version,
                incarnation=at.incarnation,
                stamp=at.stamp,
                shard=self.shard,
            )
            if news is None or not descends(news[0], at):
                return None
            await asyncio.to_thread(gallery.apply, *news)
            if not news[0].more:
                return news[0]


def descends(head: Head, snapshot: Snapshot) -> bool:
    """Whether ``head`` can be the snapshot's own or a later state of the same history."""
    return (
        snapshot.incarnation == head.incarnation
        and snapshot.contract_id == head.contract_id
        and snapshot.version <= head.version
        and (snapshot.version < head.version or snapshot.stamp == head.stamp)
    )
