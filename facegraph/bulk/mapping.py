"""A map of a sampler over a source: the seam behind which Ray Data may do it instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import islice

from facegraph import tasks
from facegraph.bulk.items import Found, Source
from facegraph.bulk.sampling import Outcome, Sampler

READ_AT_ONCE = 4
"""Items that are taken out of a source in one step, perhaps with their pictures."""

Map = Callable[[Source], AsyncGenerator[Sequence[Outcome]]]
"""The outcomes of a source's items, in any order, a few at a time. What it holds is bounded."""


async def in_process(
    source: Source, sampler: Sampler, at_once: Callable[[], int]
) -> AsyncGenerator[Sequence[Outcome]]:
    """By this event loop and the sampler's graph, ``at_once()`` items at a time."""
    items = source.items()
    working: set[asyncio.Task[Outcome]] = set()
    more = True
    try:
        while more or working:
            while more and len(working) < at_once():
                found = await asyncio.to_thread(_some, items)
                more = bool(found)
                working |= {asyncio.create_task(sampler.outcome(one)) for one in found}
            if working:
                done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                yield [task.result() for task in done]
    finally:
        await tasks.end(*working)


def _some(items: Iterator[Found]) -> list[Found]:
    return list(islice(items, READ_AT_ONCE))
