"""The store, as far as galleries need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from facegraph.types import WHOLE, Change, GalleryRecords, Head, Shard


class Records(Protocol):
    """Where collections come from; CollectionNotFound, StoreUnavailable."""

    async def head(self, collection_id: str) -> Head: ...

    async def heads(self) -> dict[str, Head]: ...

    async def load(self, collection_id: str, shard: Shard = WHOLE) -> GalleryRecords: ...

    async def changes(
        self,
        collection_id: str,
        *,
        since: int,
        incarnation: str,
        stamp: str,
        shard: Shard = WHOLE,
    ) -> tuple[Head, Sequence[Change]] | None:
        """Changes after ``since`` up to the answered head, oldest first; None when the log
        cannot tell that ``since`` with this ``stamp`` lies in its past: load again. Where
        ``head.more``, others follow."""
        ...
