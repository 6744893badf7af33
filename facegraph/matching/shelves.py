"""Which galleries are in memory: some always, the others from their first search until idle.

``default`` and the pinned collections stay. The others share ``max_gallery_bytes``: where a load
needs room, the longest unused leave, those that are being searched last. Leaving is dropping
a reference, so a search under way ends on what it began with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from facegraph.batching import Batcher
from facegraph.config import MatcherTuning
from facegraph.errors import GalleryTooLarge
from facegraph.gallery import Gallery
from facegraph.matching.answering import Probe, View, approximates
from facegraph.types import Head, SearchResult, Shard

DEFAULT = "default"
"""The collection that is always there."""

_LOADS_AT_ONCE = 2
_CODE_BYTES = {"auto": 1, "int8": 1, "bf16": 2, "float32": 0}
_BYTES_BESIDE = 160
_BYTES_OF_NONE = 2**17


@dataclass(slots=True, eq=False)
class Shelf:
    """One collection's place; ``lock`` admits one writer.

    view: the newest that may be searched; partial: ``gallery`` stands within a page of the log
    head: the newest that ``gallery`` was brought to
    filed: ``gallery`` lies on a file, at least its base
    unwritten: it was loaded from the store, and no file was written since
    holders: searches and writers that are at it; searches: those alone
    used_at: when a search last began or ended; reserved: bytes that a load will need
    """

    batcher: Batcher[Probe, SearchResult]
    gallery: Gallery | None = None
    view: View | None = None
    head: Head | None = None
    partial: bool = False
    filed: bool = False
    unwritten: bool = False
    holders: int = 0
    searches: int = 0
    used_at: float = field(default_factory=time.monotonic)
    reserved: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def nbytes(self) -> int:
        return max(self.reserved, self.gallery.nbytes if self.gallery is not None else 0)

    def put(self, gallery: Gallery, *, filed: bool, unwritten: bool = False) -> None:
        """Another gallery of the same history, or a first one."""
        self.gallery, self.filed, self.unwritten = gallery, filed, unwritten

    def clear(self) -> None:
        self.gallery = self.view = self.head = None
        self.partial = self.filed = self.unwritten = False


class Shelves:
    """All shelves by collection id; one event loop. ``tuning`` may be replaced at any time."""

    def __init__(
        self,
        tuning: MatcherTuning,
        shard: Shard,
        storage: str,
        batcher: Callable[[str], Batcher[Probe, SearchResult]],
    ) -> None:
        self.tuning = tuning
        self.evictions = 0
        self._count = shard.count
        self._code_bytes = _CODE_BYTES[storage]
        self._batcher = batcher
        self._shelves: dict[str, Shelf] = {}
        self._turns = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._loaded = asyncio.Event()

    def __iter__(self) -> Iterator[Shelf]:
        return iter(list(self._shelves.values()))

    def resident(self) -> dict[str, Shelf]:
        """Those with a gallery."""
        return {name: s for name, s in self._shelves.items() if s.gallery is not None}

    def describe(self, collection_id: str, shelf: Shelf) -> dict[str, Any]:
        """What there is to know of one of them with a gallery."""
        assert shelf.gallery is not None
        snapshot = shelf.gallery.snapshot
        near = snapshot.approximation
        approximate = near is not None and self.approximates(shelf)
        return {
            "version": snapshot.version,
            "samples": snapshot.live,
            "bytes": shelf.nbytes,
            "storage": snapshot.base.storage,
            "search": "approximate" if approximate else "exact",
            "approximate": None if near is None else near.describe(),
            "in_file": shelf.filed,
            "pinned": self.keeps(collection_id),
            "unused_s": round(time.monotonic() - shelf.used_at, 1),
        }

    def approximates(self, shelf: Shelf) -> bool:
        """Whether that one is to be searched approximately, as far as is known."""
        return shelf.head is not None and approximates(shelf.head, self.tuning)

    def keeps(self, collection_id: str) -> bool:
        """Whether that collection never leaves."""
        return collection_id == DEFAULT or collection_id in self.tuning.pinned

    @contextmanager
    def held(self, collection_id: str) -> Iterator[Shelf]:
        """Its shelf, made where there is none; an empty one goes with its last holder."""
        shelf = self._shelves.get(collection_id)
        if shelf is None:
            shelf = self._shelves[collection_id] = Shelf(self._batcher(collection_id))
        shelf.holders += 1
        try:
            yield shelf
        finally:
            shelf.holders -= 1
            self._tidy(collection_id, shelf)

    @contextmanager
    def searched(self, collection_id: str) -> Iterator[Shelf]:
        """As :meth:`held`, by a search."""
        with self.held(collection_id) as shelf:
            shelf.searches += 1
            shelf.used_at = time.monotonic()
            try:
                yield shelf
            finally:
                shelf.searches -= 1
                shelf.used_at = time.monotonic()

    def drop(self, collection_id: str) -> None:
        """Lets a gallery go, if there is one; who searches it keeps what they have."""
        shelf = self._shelves.get(collection_id)
        if shelf is not None:
            shelf.clear()
            self._tidy(collection_id, shelf)

    @asynccontextmanager
    async def turn(self, collection_id: str, shelf: Shelf, head: Head) -> AsyncIterator[None]:
        """A turn to load that gallery, once there is room; GalleryTooLarge."""
        need = self._need(head)
        self._require_fit(collection_id, need)
        async with self._turns:
            while not self._make_room(collection_id, need):
                self._loaded.clear()  # those that load now end, and may leave then
                await self._loaded.wait()
                self._require_fit(collection_id, need)
            shelf.reserved = need
            try:
                yield
            finally:
                shelf.reserved = 0
                self._loaded.set()

    def trim(self, heads: Mapping[str, Head]) -> None:
        """Sends away what was unused for too long, what outgrew the bound, what is too much."""
        now = time.monotonic()
        passing = {n: s for n, s in self.resident().items() if not self.keeps(n)}
        for name, shelf in list(passing.items()):
            idle = not shelf.holders and now - shelf.used_at > self.tuning.idle_timeout_s
            head = heads.get(name)
            if idle or (head is not None and self._need(head) > self.tuning.max_gallery_bytes):
                self._evict(name)
                del passing[name]
        if passing:
            last = max(passing, key=lambda name: passing[name].used_at)
            self._make_room(last, passing[last].nbytes)

    def _need(self, head: Head) -> int:
        """Bytes that the collection's samples here will take, estimated."""
        samples = -(-head.sample_count // self._count)
        each = head.dimension * (4 + self._code_bytes) + _BYTES_BESIDE
        return _BYTES_OF_NONE + samples * each

    def _require_fit(self, collection_id: str, need: int) -> None:
        bound = self.tuning.max_gallery_bytes
        if need > bound and not self.keeps(collection_id):
            raise GalleryTooLarge(
                f"the gallery of {collection_id!r} needs about {need} bytes of memory, more than "
                f"`max_gallery_bytes` ({bound}) allows; raise that, or pin the collection"
            )

    def _make_room(self, collection_id: str, need: int) -> bool:
        """Whether ``need`` bytes fit; others leave for it, the idle first.

        A collection that is kept needs no room: what is bounded are the others.
        """
        if self.keeps(collection_id):
            return True
        others = {
            name: shelf
            for name, shelf in self._shelves.items()
            if name != collection_id and not self.keeps(name)
        }
        room = self.tuning.max_gallery_bytes - need
        taken = sum(shelf.nbytes for shelf in others.values())
        leaving = sorted(
            (name for name, shelf in others.items() if shelf.gallery is not None),
            key=lambda name: (others[name].searches > 0, others[name].used_at),
        )
        for name in leaving:
            if taken <= room:
                break
            taken -= others[name].nbytes
            self._evict(name)
        return taken <= room

    def _evict(self, collection_id: str) -> None:
        self.drop(collection_id)
        self.evictions += 1

    def _tidy(self, collection_id: str, shelf: Shelf) -> None:
        known = self._shelves.get(collection_id) is shelf
        if known and shelf.gallery is None and not shelf.holders:
            del self._shelves[collection_id]
