"""Keeps every collection's gallery current and answers probes from it.

Freshness (law 4): a batch of probes first asks the store for the collection's head, then pulls
what its gallery lacks, then searches. A search that starts after a write was acknowledged so
sees it, on whichever replica it lands. ``consistency="eventual"`` skips the question and may be
as old as the poll interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from facegraph import tasks
from facegraph.batching import Batcher
from facegraph.config import MatcherTuning
from facegraph.errors import (
    CollectionNotFound,
    ContractMismatch,
    FacegraphError,
    GalleryBehind,
    StoreUnavailable,
)
from facegraph.gallery import Gallery, Snapshot, search
from facegraph.graph import Query
from facegraph.types import Change, FloatArray, GalleryRecords, Head, Match, SearchResult

log = logging.getLogger(__name__)


class Records(Protocol):
    """The store, as far as galleries need it."""

    async def head(self, collection_id: str) -> Head: ...

    async def heads(self) -> dict[str, Head]: ...

    async def load(self, collection_id: str) -> GalleryRecords: ...

    async def changes(
        self, collection_id: str, *, since: int, incarnation: str
    ) -> tuple[Head, Sequence[Change]] | None:
        """Changes after ``since`` up to the answered head, oldest first; None when the log
        cannot tell (pruned, or another incarnation): load again. Where ``head.more``, others
        follow."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    contract_id: str
    probes: FloatArray
    query: Query


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What one batch is answered from: a snapshot, and the threshold read with its head."""

    snapshot: Snapshot
    threshold: float | None


@dataclass(slots=True, eq=False)
class _Shelf:
    """One collection's gallery; ``lock`` admits one writer. ``view`` is the newest there is."""

    batcher: Batcher[_Probe, SearchResult]
    gallery: Gallery | None = None
    view: _View | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Matcher:
    """Searches galleries; one per process, on one event loop.

    ``threads`` searches run at a time; everything else waits on the store, not the processor.
    """

    def __init__(self, records: Records, tuning: MatcherTuning, *, threads: int = 1) -> None:
        self._records = records
        self._tuning = tuning
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._shelves: dict[str, _Shelf] = {}
        self._poller: asyncio.Task[None] | None = None
        self._last_poll_error: str | None = None

    async def start(self) -> None:
        """Loads every collection at the version the store has now (law 5), then polls."""
        await self._follow(await self._records.heads())
        self._poller = asyncio.create_task(self._poll())

    async def close(self) -> None:
        if self._poller is not None:
            await tasks.end(self._poller)
        for shelf in self._shelves.values():
            await shelf.batcher.close()
        self._pool.shutdown()

    def reconfigure(self, tuning: MatcherTuning) -> None:
        self._tuning = tuning
        for shelf in self._shelves.values():
            shelf.batcher.max_batch = tuning.max_batch
            shelf.batcher.max_queue = tuning.max_queue

    def check(self) -> None:
        """Raises when this matcher cannot heal by itself."""
        if self._poller is not None and self._poller.done():
            raise RuntimeError("the gallery poller has ended")

    def describe(self) -> dict[str, Any]:
        """Versions and sizes of the galleries here, for diagnostics."""
        return {
            "galleries": {
                name: {"version": snapshot.version, "samples": snapshot.live}
                for name, shelf in sorted(self._shelves.items())
                if shelf.gallery is not None and (snapshot := shelf.gallery.snapshot)
            },
            "last_poll_error": self._last_poll_error,
            "tuning": self._tuning.model_dump(),
        }

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        """See :meth:`facegraph.graph.Graph.match`."""
        shelf = self._shelves.get(collection_id)
        if shelf is None:
            await self._records.head(collection_id)  # CollectionNotFound opens no shelf
            shelf = self._shelf(collection_id)
        return await shelf.batcher.submit(_Probe(contract_id, probes, query))

    def _shelf(self, collection_id: str) -> _Shelf:
        shelf = self._shelves.get(collection_id)
        if shelf is None:

            async def run(batch: Sequence[_Probe]) -> Sequence[SearchResult]:
                return await self._answer(collection_id, batch)

            shelf = self._shelves[collection_id] = _Shelf(
                Batcher(
                    run,
                    max_batch=self._tuning.max_batch,
                    max_queue=self._tuning.max_queue,
                    size=lambda item: len(item.probes),
                )
            )
        return shelf

    async def _answer(self, collection_id: str, batch: Sequence[_Probe]) -> list[SearchResult]:
        strong = any(item.query.consistency == "strong" for item in batch)
        view = await self._view(collection_id, strong=strong)
        for item in batch:
            _require_contract(view.snapshot, item)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _search, view, batch)

    async def _view(self, collection_id: str, *, strong: bool) -> _View:
        known = self._shelf(collection_id).view
        if not strong and known is not None:
            return known
        # The pull goes on when the wait ends: the next search finds it further along.
        pull = asyncio.create_task(self._pull(collection_id))
        pull.add_done_callback(_retrieve)
        try:
            return await asyncio.wait_for(asyncio.shield(pull), self._tuning.catch_up_timeout_s)
        except TimeoutError:
            raise GalleryBehind(
                f"the gallery of {collection_id!r} is not up to date after "
                f"{self._tuning.catch_up_timeout_s:g} s"
            ) from None

    async def _pull(self, collection_id: str) -> _View:
        """The gallery at the store's head or later, the head read after this call began."""
        try:
            head = await self._records.head(collection_id)
        except CollectionNotFound:
            self._shelves.pop(collection_id, None)
            raise
        return await self._catch_up(collection_id, head)

    async def _catch_up(self, collection_id: str, head: Head) -> _View:
        """The gallery at ``head`` or later.

        ``head`` may be older than what the gallery has taken in since it was read, even of a
        collection that was deleted and made again; so a head that the gallery does not descend
        from is read again before it is believed.

        A page of the log that others follow is no state to search in: it tells objects as they
        are now, so who was replaced after it would be missing.
        """
        shelf = self._shelf(collection_id)
        async with shelf.lock:
            if shelf.gallery is not None and not _descends(head, shelf.gallery.snapshot):
                head = await self._records.head(collection_id)
            more = False
            while shelf.gallery is None or more or not _covers(shelf.gallery.snapshot, head):
                gallery, news = shelf.gallery, None
                if gallery is not None and _descends(head, gallery.snapshot):
                    news = await self._records.changes(
                        collection_id,
                        since=gallery.snapshot.version,
                        incarnation=gallery.snapshot.incarnation,
                    )
                if gallery is None or news is None:
                    records = await self._records.load(collection_id)
                    shelf.gallery = await asyncio.to_thread(Gallery, records)
                    head, more = records.head, False
                else:
                    await asyncio.to_thread(gallery.apply, *news)
                    more = news[0].more
                    if not _descends(head, gallery.snapshot):
                        head = news[0]  # beyond what was asked for: nothing to wait for
            shelf.view = _View(shelf.gallery.snapshot, head.threshold)
            return shelf.view

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._tuning.poll_interval_s)
            try:
                await self._follow(await self._records.heads())
                self._last_poll_error = None
            except FacegraphError as error:
                if self._last_poll_error is None:
                    log.warning("galleries cannot be polled: %s", error)
                self._last_poll_error = str(error)

    async def _follow(self, heads: dict[str, Head]) -> None:
        """Brings every collection to ``heads``, side by side; forgets those that are gone."""
        gone = self._shelves.keys() - heads.keys()
        await asyncio.gather(
            *(self._keep_up(name, head) for name, head in heads.items()),
            *(self._keep_up(name, None) for name in gone),
        )

    async def _keep_up(self, collection_id: str, head: Head | None) -> None:
        try:
            if head is None:  # it may have been made since the heads were read
                await self._pull(collection_id)
            else:
                await self._catch_up(collection_id, head)
        except CollectionNotFound:
            self._shelves.pop(collection_id, None)


def _descends(head: Head, snapshot: Snapshot) -> bool:
    """Whether ``head`` is the snapshot's own or a later state of the same history."""
    return (
        snapshot.incarnation == head.incarnation
        and snapshot.contract_id == head.contract_id
        and snapshot.version <= head.version
    )


def _covers(snapshot: Snapshot, head: Head) -> bool:
    return _descends(head, snapshot) and snapshot.version == head.version


def _require_contract(snapshot: Snapshot, item: _Probe) -> None:
    if snapshot.live and item.contract_id != snapshot.contract_id:
        raise ContractMismatch(
            f"the collection holds embeddings of {snapshot.contract_id}, "
            f"the probe is one of {item.contract_id}"
        )


def _search(view: _View, batch: Sequence[_Probe]) -> list[SearchResult]:
    snapshot, threshold = view.snapshot, view.threshold
    if not snapshot.live:
        nothing: tuple[Match, ...] = ()
        return [
            SearchResult(snapshot.version, threshold, (nothing,) * len(item.probes))
            for item in batch
        ]
    probes = np.concatenate([item.probes for item in batch])
    found = iter(search(snapshot, probes, limit=max(item.query.limit for item in batch)))
    return [
        SearchResult(
            snapshot.version,
            threshold,
            tuple(next(found)[: item.query.limit] for _ in item.probes),
        )
        for item in batch
    ]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Marks a pull's error as seen when nobody waits for it any more."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, StoreUnavailable | CollectionNotFound):
        log.warning("a gallery could not be updated: %s", error)
