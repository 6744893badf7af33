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
from facegraph.types import Consistency, Head, SearchResult, Shard

Batchers = Mapping[Consistency, Batcher[Probe, SearchResult]]
"""A search that may be a little old waits for none that may not, and does not fail with it."""

DEFAULT = "default"
"""The collection that is always there."""

_LOADS_AT_ONCE = 2
_CODE_BYTES = {"auto": 1, "int8": 1, "bf16": 2, "float32": 0}
_BYTES_BESIDE = 160
_BYTES_OF_NONE = 2**17
_SIZES_KNOWN = 10_000
_CLEARLY_FEWER = 0.9


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

    batchers: Batchers
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
        return max(self.reserved, self.loaded)

    @property
    def loaded(self) -> int:
        return self.gallery.nbytes if self.gallery is not None else 0

    def put(self, gallery: Gallery, *, filed: bool, unwritten: bool = False) -> None:
        """Another gallery of the same history, or a first one."""
        self.gallery, self.filed, self.unwritten = gallery, filed, unwritten

    def clear(self) -> None:
        self.gallery = self.view = self.head = None
        self.partial = self.filed = self.unwritten = False


@dataclass(frozen=True, slots=True)
class _Size:
    """What a gallery took when it was last measured, with how many samples of its shard."""

    nbytes: int
    samples: int
    approximate: bool


class Shelves:
    """All shelves by collection id; one event loop. ``tuning`` may be replaced at any time."""

    def __init__(
        self,
        tuning: MatcherTuning,
        shard: Shard,
        storage: str,
        batchers: Callable[[str], Batchers],
    ) -> None:
        self.tuning = tuning
        self.evictions = 0
        self._count = shard.count
        self._code_bytes = _CODE_BYTES[storage]
        self._batchers = batchers
        self._shelves: dict[str, Shelf] = {}
        self._sizes: dict[tuple[str, str], _Size] = {}
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
            shelf = self._shelves[collection_id] = Shelf(self._batchers(collection_id))
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
        """A turn to load that gallery, once there is room; GalleryTooLarge.

        Room is made for an estimate. What was loaded is measured: it may be more, as samples do
        not tell how long ids and metadata are.
        """
        need = self._need(collection_id, head)
        self._require_fit(collection_id, need)
        async with self._turns:
            while not self._make_room(collection_id, need):
                self._loaded.clear()  # those that load now end, and may leave then
                await self._loaded.wait()
                self._require_fit(collection_id, need)
            shelf.reserved = need
            try:
                yield
                self._measure(collection_id, shelf)
            finally:
                shelf.reserved = 0
                self._loaded.set()

    def trim(self, heads: Mapping[str, Head]) -> None:
        """Sends away what was unused for too long, what outgrew the bound, what is too much."""
        now = time.monotonic()
        passing = {n: s for n, s in self.resident().items() if not self.keeps(n)}
        for name, shelf in list(passing.items()):
            idle = not shelf.holders and now - shelf.used_at > self.tuning.idle_timeout_s
            self._remember(name, shelf)
            head = heads.get(name, shelf.head)
            need = 0 if head is None else self._need(name, head)
            if idle or max(need, shelf.loaded) > self.tuning.max_gallery_bytes:
                self._evict(name)
                del passing[name]
        if passing:
            last = max(passing, key=lambda name: passing[name].used_at)
            self._make_room(last, passing[last].nbytes)

    def _measure(self, collection_id: str, shelf: Shelf) -> None:
        """Holds the bytes of what was just loaded against the bound; GalleryTooLarge."""
        self._remember(collection_id, shelf)
        try:
            self._require_fit(collection_id, shelf.loaded)
        except GalleryTooLarge:
            self.drop(collection_id)
            raise
        # Where others still load there may be no room yet: the last of them makes it.
        self._make_room(collection_id, shelf.loaded)

    def _remember(self, collection_id: str, shelf: Shelf) -> None:
        """Keeps the bytes of a gallery in mind, also for when it has left."""
        gallery, head = shelf.gallery, shelf.head
        if gallery is None or head is None:
            return
        samples = self._samples(head)
        if gallery.outdated:  # it still has rows that a next load would not have
            samples = max(samples, gallery.snapshot.rows)
        key = (collection_id, head.incarnation)
        self._sizes.pop(key, None)
        self._sizes[key] = _Size(gallery.nbytes, samples, approximates(head, self.tuning))
        if len(self._sizes) > _SIZES_KNOWN:
            del self._sizes[next(iter(self._sizes))]

    def _need(self, collection_id: str, head: Head) -> int:
        """Bytes that the collection's samples here will take: estimated, or by its last size.

        By its last size they are not fewer than then, until the samples are clearly fewer.
        """
        samples = self._samples(head)
        each = head.dimension * (4 + self._code_bytes) + _BYTES_BESIDE
        known = self._sizes.get((collection_id, head.incarnation))
        if known is None or known.approximate != approximates(head, self.tuning):
            return _BYTES_OF_NONE + samples * each
        beyond_none = max(0, known.nbytes - _BYTES_OF_NONE)
        if samples < known.samples * _CLEARLY_FEWER:
            return _BYTES_OF_NONE + beyond_none * samples // known.samples
        more = max(0, samples - known.samples)
        return known.nbytes + more * max(each, beyond_none // max(1, known.samples))

    def _samples(self, head: Head) -> int:
        """The collection's samples in this shard, about."""
        return -(-head.sample_count // self._count)

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
