"""A gallery that is far behind never shows the state at the end of a page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from facegraph.config import MatcherTuning
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.store import Store
from facegraph.types import WHOLE, Change, GalleryRecords, Head, Shard
from tests.store.making import CONTRACT, sample, vector

pytestmark = pytest.mark.store


class Paged:
    """The store, told in pages of two changes; what ``meanwhile`` does comes before each page."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pages = 0

    async def meanwhile(self) -> None:
        self.pages += 1
        await self.store.replace_subject(
            "default", "s", name=f"n{self.pages}", samples=[sample(1)], contract=CONTRACT
        )

    async def head(self, collection_id: str) -> Head:
        return await self.store.head(collection_id)

    async def heads(self) -> dict[str, Head]:
        return await self.store.heads()

    async def load(self, collection_id: str, shard: Shard = WHOLE) -> GalleryRecords:
        return await self.store.load(collection_id, shard)

    async def changes(
        self,
        collection_id: str,
        *,
        since: int,
        incarnation: str,
        stamp: str,
        shard: Shard = WHOLE,
    ) -> tuple[Head, Sequence[Change]] | None:
        if self.pages < 3:
            await self.meanwhile()
        return await self.store.changes(
            collection_id, since=since, incarnation=incarnation, stamp=stamp, shard=shard, limit=2
        )


async def test_who_is_replaced_during_a_catch_up_is_not_missed(store: Store) -> None:
    records = Paged(store)
    matcher = Matcher(records, MatcherTuning(poll_interval_s=60))
    await matcher.start()
    await store.create_subject("default", "s", samples=[sample(1)], contract=CONTRACT)
    result = await matcher.match("default", CONTRACT.id, vector(1)[None], Query(5))
    assert [(match.subject_id, match.name) for match in result.matches[0]] == [("s", "n3")]
    assert result.version == (await store.head("default")).version
    await matcher.close()
