"""Behind the searches: merges galleries, writes them to files, and takes up what others wrote.

One gallery at a time; only files are vouched for beside that, as a merge may take longer than they
last. A merge reads a snapshot in a thread that yields to searches, while searches
and changes go on; the new base is put in the old one's place in one step.

What was removed from a collection is also removed from its bases: after ``ERASE_AFTER_S`` a gallery
with removals is merged, and a file that cannot be renewed is no longer vouched for, so that the
folder's sweep takes it away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from facegraph import tasks
from facegraph.errors import CollectionNotFound, StoreUnavailable
from facegraph.gallery import Base, Gallery, Snapshot
from facegraph.gallery.approximating import approximated
from facegraph.gallery.approximation import Approximation
from facegraph.gallery.folder import GalleryFile
from facegraph.gallery.gallery import WithinPages
from facegraph.matching.answering import View
from facegraph.matching.shelves import Shelf, Shelves
from facegraph.matching.source import Source

log = logging.getLogger(__name__)

ERASE_AFTER_S = 600.0
"""A gallery with removals is merged after this time."""

RENEW_AFTER_S = 86_400.0
"""A file that is behind its collection by anything is renewed after this time."""

FEW_ROWS = 4096
"""Smaller galleries are not worth a file: they load in no time."""

_VOUCH_EVERY_S = 60.0
_BLOCKED_FOR_S = 600.0
_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 300.0


@dataclass(slots=True, eq=False)
class _Care:
    """What is known of one gallery's base; times of the monotonic clock.

    behind_since, removed_since: when changes and removals were first seen
    blocked_since: when another process was first found writing
    """

    mark: tuple[str, int, str]
    behind_since: float | None = None
    removed_since: float | None = None
    blocked_since: float | None = None
    vouched_at: float = float("-inf")
    retry_at: float = float("-inf")
    failures: int = 0

    def look(self, gallery: Gallery, now: float) -> None:
        snapshot, removed = gallery.snapshot, gallery.outdated
        behind = snapshot.version > snapshot.base.head.version
        self.removed_since = (self.removed_since or now) if removed else None
        self.behind_since = (self.behind_since or now) if behind else None

    def failed(self, now: float) -> None:
        self.retry_at = now + min(_BACKOFF_S * 2.0**self.failures, _LONGEST_BACKOFF_S)
        self.failures = min(self.failures + 1, 16)


class Upkeep:
    """Attends to all galleries whenever it is woken."""

    def __init__(self, shelves: Shelves, source: Source) -> None:
        self._shelves = shelves
        self._source = source
        self._cares: dict[str, _Care] = {}
        self._wake = asyncio.Event()
        self._doubts = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._pool = ThreadPoolExecutor(1, "merge", initializer=_yield_to_searches)
        self._closing = threading.Event()
        self.merges = self.adoptions = self.failures = 0

    def start(self) -> None:
        works = (self._run(self._wake, self.round), self._run(self._doubts, self.vouch))
        self._tasks = tuple(asyncio.create_task(work) for work in works)

    async def close(self) -> None:
        """Ends what can be ended; a merge under way ends by itself and changes nothing."""
        self._closing.set()
        await tasks.end(*self._tasks)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()
        self._doubts.set()

    def check(self) -> None:
        """Raises when it has ended."""
        if any(task.done() for task in self._tasks):
            raise RuntimeError("the galleries' upkeep has ended")

    def describe(self) -> dict[str, Any]:
        return {
            "merges": self.merges,
            "merges_failed": self.failures,
            "files_taken_up": self.adoptions,
        }

    async def _run(self, wake: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await wake.wait()
            wake.clear()
            await work()

    async def round(self) -> None:
        """Attends to each gallery in memory, once."""
        resident = self._shelves.resident()
        self._cares = {name: care for name, care in self._cares.items() if name in resident}
        folder = self._source.folder
        files = () if folder is None else await asyncio.to_thread(folder.files)
        for name, shelf in resident.items():
            try:
                await self._attend(name, shelf, files)
            except Exception as error:  # noqa: BLE001 - searches go on without it
                self._failed(name, error)

    async def vouch(self) -> None:
        """Vouches for the files of those from which nothing was removed since; now and then."""
        for name, shelf in self._shelves.resident().items():
            gallery = shelf.gallery
            if gallery is None or shelf.partial or not shelf.filed or gallery.outdated:
                continue
            care, now = self._care(name, gallery.snapshot), time.monotonic()
            if _over(care.vouched_at, now, _VOUCH_EVERY_S):
                care.vouched_at = now
                await self._vouch(name, shelf, gallery)

    async def _vouch(self, name: str, shelf: Shelf, gallery: Gallery) -> None:
        """Where the file is gone, it is to be written anew."""
        assert self._source.folder is not None
        head = gallery.snapshot.base.head
        there = await asyncio.to_thread(self._source.folder.vouch, name, head)
        if not there and shelf.gallery is gallery:
            shelf.put(gallery, filed=False, unwritten=True)
            self._wake.set()

    def _failed(self, name: str, error: Exception) -> None:
        self._cares[name].failed(time.monotonic())
        if not isinstance(error, StoreUnavailable | CollectionNotFound):
            self.failures += 1
            log.warning("the gallery of %r could not be merged: %r", name, error)

    async def _attend(self, name: str, shelf: Shelf, files: Sequence[GalleryFile]) -> None:
        gallery, now = shelf.gallery, time.monotonic()
        if gallery is None or shelf.partial:
            return
        care = self._care(name, gallery.snapshot)
        care.look(gallery, now)
        if now < care.retry_at:
            return
        if self._newer(name, shelf, gallery, files):
            if await self._adopt(name, shelf, gallery):
                return
            # What follows is done all the same: the file may stay unreadable.
            care.failed(now)
        if self._due(shelf, gallery, care, now):
            await self._merge(name, shelf, gallery, care)
        elif self._to_approximate(shelf, gallery.snapshot.base) != gallery.approximated:
            await self._equip(shelf, gallery)

    def _care(self, name: str, snapshot: Snapshot) -> _Care:
        head = snapshot.base.head
        mark = (head.incarnation, head.version, head.stamp)
        care = self._cares.get(name)
        if care is None or care.mark != mark:
            care = self._cares[name] = _Care(mark)
        return care

    def _newer(
        self, name: str, shelf: Shelf, gallery: Gallery, files: Sequence[GalleryFile]
    ) -> bool:
        """Whether another process has written a newer base."""
        if self._source.folder is None or shelf.head is None:
            return False
        newest = self._source.folder.newest(files, name, shelf.head)
        return newest is not None and newest.version > _filed_version(shelf, gallery)

    async def _adopt(self, name: str, shelf: Shelf, gallery: Gallery) -> bool:
        """Goes over to the newest file, whose pages are shared; whether that is done."""
        assert shelf.head is not None
        loaded = await self._source.from_file(name, shelf.head)
        if loaded is None:
            return False
        fresh, head = loaded.gallery, loaded.head
        async with shelf.lock:
            if fresh.snapshot.version < gallery.snapshot.version:
                reached = await self._source.advance(name, fresh)
                if reached is None:
                    return False
                head = reached
            if shelf.gallery is gallery and fresh.snapshot.version >= gallery.snapshot.version:
                shelf.put(fresh, filed=True)
                shelf.view, shelf.head = View(fresh.snapshot, head), head
                shelf.partial = False
                self.adoptions += 1
        return True

    def _due(self, shelf: Shelf, gallery: Gallery, care: _Care, now: float) -> bool:
        unwritten = shelf.unwritten and self._source.folder is not None
        return (
            gallery.merge_due
            or (unwritten and gallery.snapshot.rows >= FEW_ROWS)
            or _over(care.removed_since, now, ERASE_AFTER_S)
            or (shelf.filed and _over(care.behind_since, now, RENEW_AFTER_S))
        )

    async def _merge(self, name: str, shelf: Shelf, gallery: Gallery, care: _Care) -> None:
        """Puts all that lives on a new base; later, where another process is writing."""
        now, loop = time.monotonic(), asyncio.get_running_loop()
        patient = not _over(care.blocked_since, now, _BLOCKED_FOR_S)
        beyond = _filed_version(shelf, gallery)
        to_file = shelf.filed or gallery.snapshot.rows >= FEW_ROWS
        rewrite = self._write if to_file and self._source.folder is not None else self._build
        try:
            made = await loop.run_in_executor(self._pool, rewrite, name, gallery, beyond, patient)
            if made is None:
                care.blocked_since = care.blocked_since or now
                return
            base, filed = made
            near = await self._approximated(shelf, base)
            async with shelf.lock:
                fresh = await asyncio.to_thread(gallery.rebased, base)
                fresh.equip(near)
                if shelf.gallery is not gallery:
                    return  # it has left memory, or was loaded anew
                shelf.put(fresh, filed=filed)
                if shelf.view is not None and shelf.view.snapshot is gallery.snapshot:
                    shelf.view = View(fresh.snapshot, shelf.view.head)
                self.merges += 1
        except WithinPages:
            pass  # the next round finds it complete
        finally:
            gallery.abandon()

    async def _equip(self, shelf: Shelf, gallery: Gallery) -> None:
        """Makes the approximate index that is wanted, or lets go of one that is not."""
        near = await self._approximated(shelf, gallery.snapshot.base)
        async with shelf.lock:
            before, after = gallery.snapshot, gallery.equip(near)
            if shelf.view is not None and shelf.view.snapshot is before:
                shelf.view = View(after, shelf.view.head)

    def _to_approximate(self, shelf: Shelf, base: Base) -> bool:
        return base.rows >= FEW_ROWS and self._shelves.approximates(shelf)

    async def _approximated(self, shelf: Shelf, base: Base) -> Approximation | None:
        if not self._to_approximate(shelf, base):
            return None
        work = partial(approximated, base, threads=1, cancelled=self._closing.is_set)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _write(
        self, name: str, gallery: Gallery, beyond: int, patient: bool
    ) -> tuple[Base, bool] | None:
        """A base in a file, or in memory where none can be written; None: another one writes."""
        assert self._source.folder is not None
        try:
            base = self._source.folder.write(name, gallery, beyond=beyond)
        except OSError as error:
            self._source.folder.tell(error)
        else:
            if base is not None:
                return self._source.placed(base), True
            if patient:
                return None
        return self._build(name, gallery, beyond, patient)

    def _build(
        self, _name: str, gallery: Gallery, _beyond: int, _patient: bool
    ) -> tuple[Base, bool]:
        source = self._source
        records = gallery.merged_records()
        base = Base.build(records, source.storage, shard=source.shard, threads=1)
        return source.placed(base), False


def _filed_version(shelf: Shelf, gallery: Gallery) -> int:
    """The version of the file that a gallery lies on; -1 where it lies on none."""
    return gallery.snapshot.base.head.version if shelf.filed else -1


def _over(since: float | None, now: float, bound_s: float) -> bool:
    return since is not None and now - since >= bound_s


def _yield_to_searches() -> None:
    """Lets all other threads go first; on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
