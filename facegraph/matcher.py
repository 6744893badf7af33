"""Keeps galleries current and answers probes from them.

Freshness (law 4): a batch of probes first asks the store for the collection's head, then pulls
what its gallery lacks, then searches. A search that starts after a write was acknowledged so
sees it, on whichever replica it lands. ``consistency="eventual"`` skips the question and may be
as old as the poll interval.

Galleries are loaded when first searched and leave when idle (``matching.shelves``); merges and
files are made behind the searches (``matching.upkeep``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from facegraph import tasks
from facegraph.batching import Batcher
from facegraph.config import MatcherTuning
from facegraph.errors import (
    CollectionNotFound,
    FacegraphError,
    GalleryBehind,
    GalleryTooLarge,
    StoreUnavailable,
)
from facegraph.graph import Query
from facegraph.load import Load
from facegraph.matching.answering import Probe, View, answer, approximates, require_contract
from facegraph.matching.records import Records
from facegraph.matching.shelves import Batchers, Shelf, Shelves
from facegraph.matching.source import Source, descends
from facegraph.matching.upkeep import Upkeep
from facegraph.types import WHOLE, Consistency, FloatArray, Head, SearchResult, Shard

__all__ = ["Matcher", "Records"]

log = logging.getLogger(__name__)


class Matcher:
    """Searches galleries; one per process, on one event loop.

    ``threads`` searches run at a time, or share the threads; everything else waits on the store,
    not the processor. ``folder``: where galleries lie as files, for all matchers of the node.
    ``device``: of torch, where galleries' codes lie and are scored.
    """

    def __init__(
        self,
        records: Records,
        tuning: MatcherTuning,
        *,
        threads: int = 1,
        shard: Shard = WHOLE,
        storage: str = "auto",
        folder: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self._records = records
        self._tuning = tuning
        self._threads = threads
        self._meter = Load(threads)
        self.read_load = self._meter.read
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._help = ThreadPoolExecutor(threads, thread_name_prefix="search-help")
        self._source = Source(records, shard=shard, storage=storage, folder=folder, device=device)
        self._shelves = Shelves(tuning, shard, storage, self._batchers)
        self._upkeep = Upkeep(self._shelves, self._source)
        self._background: set[asyncio.Task[Any]] = set()
        self._arriving: set[str] = set()
        self._poller: asyncio.Task[None] | None = None
        self._last_poll_error: str | None = None

    async def start(self) -> None:
        """Loads what is always there, then polls."""
        await self.settle()
        self._upkeep.start()
        self._poller = asyncio.create_task(self._poll())

    async def settle(self) -> None:
        """Brings what is always there to the version that the store has now (law 5)."""
        heads = await self._heads()
        kept = {name: head for name, head in heads.items() if self._shelves.keeps(name)}
        await asyncio.gather(*(self._keep_up(name, head) for name, head in kept.items()))

    async def close(self) -> None:
        if self._poller is not None:
            await tasks.end(self._poller)
        await self._upkeep.close()
        for shelf in self._shelves:
            for batcher in shelf.batchers.values():
                await batcher.close()
        await tasks.end(*self._background)
        self._pool.shutdown()
        self._help.shutdown()

    def reconfigure(self, tuning: MatcherTuning) -> None:
        """Takes new limits; the next poll sends away what they leave no room for.

        It also begins to load what is pinned now; :meth:`settle` waits for that.
        """
        self._tuning = self._shelves.tuning = tuning
        for shelf in self._shelves:
            for batcher in shelf.batchers.values():
                batcher.max_batch = tuning.max_batch
                batcher.max_queue = tuning.max_queue

    def check(self) -> None:
        """Raises when this matcher cannot heal by itself."""
        if self._poller is not None and self._poller.done():
            raise RuntimeError("the gallery poller has ended")
        self._upkeep.check()

    def describe(self) -> dict[str, Any]:
        """The galleries here, and what happened to them since the start, for diagnostics."""
        resident = self._shelves.resident()
        return {
            "galleries": {
                name: self._shelves.describe(name, shelf)
                for name, shelf in sorted(resident.items())
            },
            "loads": self._source.loads,
            "evictions": self._shelves.evictions,
            "files_used": self._source.hits,
            "files_missed": self._source.misses,
            **self._upkeep.describe(),
            "last_poll_error": self._last_poll_error,
            "tuning": self._tuning.model_dump(),
        }

    def describe_gallery(self, collection_id: str) -> dict[str, Any] | None:
        """A gallery in memory and how it is searched; None where it is not, and not loaded."""
        shelf = self._shelves.resident().get(collection_id)
        return None if shelf is None else self._shelves.describe(collection_id, shelf)

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        """See :meth:`facegraph.graph.Graph.match`; also GalleryTooLarge."""
        with self._shelves.searched(collection_id) as shelf, self._meter.item(len(probes)):
            batcher = shelf.batchers[query.consistency]
            return await batcher.submit(Probe(contract_id, probes, query))

    def _batchers(self, collection_id: str) -> Batchers:
        def batcher(consistency: Consistency) -> Batcher[Probe, SearchResult]:
            async def run(batch: Sequence[Probe]) -> Sequence[SearchResult]:
                with self._meter.run(sum(len(item.probes) for item in batch)):
                    return await self._answer(collection_id, batch, consistency)

            return Batcher(
                run,
                max_batch=self._tuning.max_batch,
                max_queue=self._tuning.max_queue,
                size=lambda item: len(item.probes),
            )

        return {"strong": batcher("strong"), "eventual": batcher("eventual")}

    async def _answer(
        self, collection_id: str, batch: Sequence[Probe], consistency: Consistency
    ) -> list[SearchResult]:
        view = await self._view(collection_id, strong=consistency == "strong")
        for item in batch:
            require_contract(view, item)
        work = partial(
            answer,
            view,
            batch,
            approximate=approximates(view.head, self._tuning),
            pool=self._help,
            threads=self._threads,
        )
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _view(self, collection_id: str, *, strong: bool) -> View:
        with self._shelves.held(collection_id) as shelf:
            if not strong and shelf.view is not None:
                return shelf.view
            # The pull goes on when the wait ends: the next search finds it further along.
            pull = self._spawn(self._pull(collection_id))
            try:
                return await asyncio.wait_for(asyncio.shield(pull), self._tuning.catch_up_timeout_s)
            except TimeoutError:
                raise GalleryBehind(
                    f"the gallery of {collection_id!r} is not up to date after "
                    f"{self._tuning.catch_up_timeout_s:g} s"
                ) from None

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_retrieve)
        return task

    async def _pull(self, collection_id: str) -> View:
        """The gallery at the store's head or later, the head read after this call began."""
        try:
            head = await self._records.head(collection_id)
            return await self._catch_up(collection_id, head)
        except CollectionNotFound:
            self._shelves.drop(collection_id)
            raise

    async def _catch_up(self, collection_id: str, head: Head) -> View:
        """The gallery at ``head`` or later.

        ``head`` may be older than what the gallery has taken in since it was read, even of a
        collection that was deleted and made again; so a head that the gallery does not descend
        from is read again before it is believed.
        """
        with self._shelves.held(collection_id) as shelf:
            async with shelf.lock:
                gallery = shelf.gallery
                if gallery is not None and not descends(head, gallery.snapshot):
                    head = await self._records.head(collection_id)
                reached: Head | None = None
                if gallery is not None and descends(head, gallery.snapshot):
                    reached = head
                    if shelf.partial or gallery.snapshot.version < head.version:
                        shelf.partial = True
                        reached = await self._source.advance(collection_id, gallery)
                        shelf.partial = reached is None
                if gallery is None or reached is None:
                    return await self._load(collection_id, shelf, head)
                view = View(gallery.snapshot, reached)
                if shelf.gallery is gallery:  # else it has left memory meanwhile
                    shelf.view, shelf.head = view, reached
                return view

    async def _load(self, collection_id: str, shelf: Shelf, head: Head) -> View:
        async with self._shelves.turn(collection_id, shelf, head):
            loaded = await self._source.gallery(collection_id, head)
            view = View(loaded.gallery.snapshot, loaded.head)
            shelf.put(loaded.gallery, filed=loaded.filed, unwritten=not loaded.filed)
            shelf.view, shelf.head, shelf.partial = view, loaded.head, False
        self._upkeep.wake()
        return view

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._tuning.poll_interval_s)
            try:
                heads = await self._heads()
                self._shelves.trim(heads)
                await self._follow(heads)
                self._last_poll_error = None
            except FacegraphError as error:
                if self._last_poll_error is None:
                    log.warning("galleries cannot be polled: %s", error)
                self._last_poll_error = str(error)
            self._upkeep.wake()

    async def _heads(self) -> dict[str, Head]:
        """Every collection's head; the files of those that are gone go too."""
        folder = self._source.folder
        if folder is None:
            return await self._records.heads()
        files = await asyncio.to_thread(folder.files)
        heads = await self._records.heads()
        await asyncio.to_thread(folder.sweep, files, heads)
        return heads

    async def _follow(self, heads: dict[str, Head]) -> None:
        """Brings what is in memory to ``heads``, side by side; forgets what is gone.

        What takes longer than a poll goes on by itself, so that the others stay fresh.
        What is always there and is not yet is loaded, which nobody waits for here.
        """
        resident = self._shelves.resident()
        for name, head in heads.items():
            if self._shelves.keeps(name) and name not in resident and name not in self._arriving:
                self._arriving.add(name)
                self._spawn(self._arrive(name, head))
        updates = [
            self._spawn(self._keep_up(name, heads.get(name)))
            for name, shelf in resident.items()
            if not shelf.lock.locked()  # it is being brought up to date, which may take long
        ]
        if updates:
            done, _ = await asyncio.wait(updates, timeout=self._tuning.poll_interval_s)
            await asyncio.gather(*done)

    async def _arrive(self, collection_id: str, head: Head) -> None:
        try:
            await self._keep_up(collection_id, head)
        finally:
            self._arriving.discard(collection_id)

    async def _keep_up(self, collection_id: str, head: Head | None) -> None:
        try:
            if head is None:  # it may have been made since the heads were read
                await self._pull(collection_id)
            else:
                await self._catch_up(collection_id, head)
        except CollectionNotFound:
            self._shelves.drop(collection_id)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Marks a pull's error as seen when nobody waits for it any more."""
    error = None if task.cancelled() else task.exception()
    told = StoreUnavailable | CollectionNotFound | GalleryTooLarge
    if error is not None and not isinstance(error, told):
        log.warning("a gallery could not be updated: %s", error)
