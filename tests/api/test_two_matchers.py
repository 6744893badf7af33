"""Law 4 without luck: two matchers over one store, asked in turn after every write."""

from __future__ import annotations

from contextlib import AsyncExitStack

import numpy as np

from facegraph.config import MatcherTuning, Settings
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.models.packs import find_pack
from facegraph.store import open_store
from facegraph.types import NewSample
from tests.fake_graph import embedding_of


async def test_a_hundred_rounds_against_alternating_replicas(settings: Settings) -> None:
    contract = find_pack(settings).contract
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(open_store(settings))
        await writer.ensure_default(contract)
        matchers = []
        for _ in range(2):
            store = await stack.enter_async_context(open_store(settings))
            matcher = Matcher(store, MatcherTuning(poll_interval_s=60))
            stack.push_async_callback(matcher.close)
            await matcher.start()
            matchers.append(matcher)
        for number in range(100):
            probe = embedding_of(number, contract.dimension)
            sample = NewSample(probe)
            enrolled = await writer.create_subject(
                "default", f"s{number}", samples=[sample], contract=contract
            )
            first, second = matchers[number % 2], matchers[1 - number % 2]
            for matcher in (first, second):
                found = await matcher.match("default", contract.id, probe[np.newaxis], Query(1))
                assert found.version == enrolled.version
                assert found.matches[0][0].subject_id == f"s{number}"
            if number % 3 == 0:
                await writer.delete_subject("default", f"s{number}")
                found = await first.match("default", contract.id, probe[np.newaxis], Query(1))
                assert [m.subject_id for m in found.matches[0]] != [f"s{number}"]
