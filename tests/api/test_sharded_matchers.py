"""Matchers that share the subjects of a store answer together as one that has them all."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import numpy as np

from facegraph.config import MatcherTuning, Settings
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.models.packs import find_pack
from facegraph.sharding import ShardedSearch
from facegraph.store import Store, open_store
from facegraph.types import WHOLE, FloatArray, NewSample, SearchResult, Shard
from tests.fake_graph import embedding_of

SHARDS = 3


async def started(stack: AsyncExitStack, store: Store, shard: Shard) -> Matcher:
    matcher = Matcher(store, MatcherTuning(poll_interval_s=60), shard=shard)
    stack.push_async_callback(matcher.close)
    await matcher.start()
    return matcher


async def asked(matcher: Matcher, *search: Any) -> SearchResult:
    """Without the shard, which a deployment looks at."""
    *search_itself, _ = search
    return await matcher.match(*search_itself)


async def test_together_they_answer_as_one(settings: Settings) -> None:
    contract = find_pack(settings).contract
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        await store.ensure_default(contract)
        whole = await started(stack, store, WHOLE)
        parts = [await started(stack, store, Shard(i, SHARDS)) for i in range(SHARDS)]
        sharded = ShardedSearch([partial(asked, part) for part in parts])
        for number in range(40):
            # Pairs of equal samples, so that subjects of different shards tie.
            sample = NewSample(embedding_of(number // 2, contract.dimension), f"sample-{number}")
            await store.create_subject(
                "default", f"s{number}", name=f"n{number}", samples=[sample], contract=contract
            )
            if number % 5 == 4:
                await store.delete_subject("default", f"s{number - 3}")
            await assert_equal(sharded, whole, probes_of(number, contract.dimension), contract.id)
        sizes = [part.describe()["galleries"]["default"]["samples"] for part in parts]
        assert sum(sizes) == 32
        assert min(sizes) > 0


def probes_of(number: int, dimension: int) -> FloatArray:
    return np.array([embedding_of(person, dimension) for person in (number // 2, 3)])


async def assert_equal(
    sharded: ShardedSearch, whole: Matcher, probes: FloatArray, contract: str
) -> None:
    for limit in (1, 2, 100):
        together = await sharded.match("default", contract, probes, Query(limit))
        alone = await whole.match("default", contract, probes, Query(limit))
        assert together.matches == alone.matches
        assert (together.version, together.threshold) == (alone.version, alone.threshold)
