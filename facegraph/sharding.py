"""A search over matchers that share every collection's subjects, each holding one shard.

All shards are asked at once; a subject lies in exactly one, so their best are merged as they are.
What is lost is told: as an error, or as ``missing_shards`` where the query allows it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

from facegraph import tasks
from facegraph.errors import (
    FacegraphError,
    GalleryBehind,
    ShardUnavailable,
    TimedOut,
    Unavailable,
)
from facegraph.graph import Query
from facegraph.types import FloatArray, Match, SearchResult, Shard

log = logging.getLogger(__name__)

PATIENCE_S = 1.0
"""A partial search waits for a shard twice as long as the quickest took, and this much more."""

ROUNDS = 6
"""How often shards are asked again before a search gives up on one state of all."""

TELL_EVERY_S = 10.0
"""At most one line in the log about missing shards in this time."""

Call = Callable[[Query], Awaitable[SearchResult]]

Outcomes = Mapping[int, SearchResult | FacegraphError]
"""What each shard that was asked answered or raised, by its index."""


class AskMatcher(Protocol):
    """Sends a search to the matcher of ``shard``, as :meth:`facegraph.graph.Graph.match`."""

    def __call__(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query, shard: Shard
    ) -> Awaitable[SearchResult]: ...


class ShardedSearch:
    """Implements :meth:`facegraph.graph.Graph.match` over one matcher per shard."""

    def __init__(self, matchers: Sequence[AskMatcher]) -> None:
        self._matchers = tuple(matchers)
        self._quiet_until = float("-inf")

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        """Raises what a single matcher does, and ShardUnavailable where some are lost."""
        count = len(self._matchers)

        def call(index: int, ask: AskMatcher) -> Call:
            return lambda query: ask(collection_id, contract_id, probes, query, Shard(index, count))

        calls = [call(index, ask) for index, ask in enumerate(self._matchers)]
        if count == 1:
            return await calls[0](query)
        outcomes: dict[int, SearchResult | FacegraphError] = {}
        await _ask(calls, range(count), query, outcomes)
        if query.consistency == "strong":
            await _agree(calls, query, outcomes)
        self._tell(outcomes)
        answers = {i: o for i, o in outcomes.items() if isinstance(o, SearchResult)}
        return merged(answers, count, query.limit)

    def _tell(self, outcomes: Outcomes) -> None:
        now = asyncio.get_running_loop().time()
        lost = [f"shard {i}: {o}" for i, o in outcomes.items() if isinstance(o, FacegraphError)]
        if lost and now >= self._quiet_until:
            self._quiet_until = now + TELL_EVERY_S
            log.warning("partial answers, for want of %s", "; ".join(lost))


def merged(answers: Mapping[int, SearchResult], shards: int, limit: int) -> SearchResult:
    """The best ``limit`` subjects per probe of the shards that answered, at least one.

    The version is the least: what is written on condition that nothing changed since the search
    must not overlook a change that one shard had not seen. The threshold is the newest.
    """
    newest = max(answers.values(), key=lambda answer: answer.version)
    whole = _agreed(answers)
    probes = zip(*(answer.matches for answer in answers.values()), strict=True)
    return SearchResult(
        min(answer.version for answer in answers.values()),
        newest.threshold,
        tuple(
            tuple(heapq.nsmallest(limit, chain.from_iterable(found), key=_rank)) for found in probes
        ),
        tuple(index for index in range(shards) if index not in answers),
        shards,
        max(answer.stamp for answer in answers.values()) if whole else "",
        newest.incarnation if whole else "",
    )


def _rank(match: Match) -> tuple[float, str, str]:
    return -match.similarity, match.subject_id, match.sample_id


def _agreed(outcomes: Outcomes) -> bool:
    """Whether all answers are of one state of the collection, as far as they tell."""
    answers = [o for o in outcomes.values() if isinstance(o, SearchResult)]
    states = {(answer.incarnation, answer.version) for answer in answers}
    return len(states) < 2 and len({answer.stamp for answer in answers} - {""}) < 2


async def _agree(
    calls: Sequence[Call], query: Query, outcomes: dict[int, SearchResult | FacegraphError]
) -> None:
    """Asks until all answers are of one state; GalleryBehind where that cannot be had.

    Parts of different versions may lack somebody whom every version had, such as a person enrolled
    anew under another id before the old one was removed. So who is ahead is asked for the version
    of the last, which galleries can tell until they are merged; or else everybody anew.
    """
    for turn in range(ROUNDS):
        if _agreed(outcomes):
            return
        answers = {i: o for i, o in outcomes.items() if isinstance(o, SearchResult)}
        last = min(answers.values(), key=lambda answer: answer.version)
        ahead = [i for i, answer in answers.items() if answer.version > last.version]
        if turn % 2 == 0 and ahead and len({a.incarnation for a in answers.values()}) == 1:
            at = (last.incarnation, last.version)
            await _ask(calls, ahead, replace(query, at=at), outcomes)
        else:
            await _ask(calls, list(answers), query, outcomes)
    if not _agreed(outcomes):
        raise GalleryBehind("the shards do not come to one version; try again")


async def _ask(
    calls: Sequence[Call],
    shards: Collection[int],
    query: Query,
    outcomes: dict[int, SearchResult | FacegraphError],
) -> None:
    """Asks ``shards`` at once and puts what they answer into ``outcomes``.

    Raises the error of a shard that no loss explains; for lost ones ShardUnavailable, unless the
    query allows a partial answer and there is one.
    """
    asked = {index: asyncio.ensure_future(calls[index](query)) for index in shards}
    try:
        await _wait(asked.values(), query)
        outcomes |= {index: _outcome(task) for index, task in asked.items()}
    finally:
        await tasks.end(*asked.values())
    lost = {i: o for i, o in outcomes.items() if isinstance(o, FacegraphError)}
    for error in lost.values():
        if not isinstance(error, Unavailable):
            raise error
    if lost and (len(lost) == len(calls) or not query.partial):
        raise _unavailable(lost, len(calls))


async def _wait(asked: Collection[asyncio.Task[SearchResult]], query: Query) -> None:
    """Until all have ended or, of a partial search, the others are late."""
    clock = asyncio.get_running_loop().time
    began, waiting, due = clock(), set(asked), None
    while waiting and (due is None or clock() < due):
        left = None if due is None else due - clock()
        done, waiting = await asyncio.wait(
            waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED
        )
        if query.partial and due is None and any(_succeeded(task) for task in done):
            due = 2 * clock() - began + PATIENCE_S


def _succeeded(task: asyncio.Task[SearchResult]) -> bool:
    return not task.cancelled() and task.exception() is None


def _outcome(task: asyncio.Task[SearchResult]) -> SearchResult | FacegraphError:
    if not task.done():
        return TimedOut("it took much longer than the others")
    try:
        return task.result()
    except FacegraphError as error:
        return error


def _unavailable(lost: Mapping[int, FacegraphError], shards: int) -> FacegraphError:
    """The shards' own error where all of them are lost in the same way: no shard is to blame."""
    first = next(iter(lost.values()))
    if len(lost) == shards and {type(error) for error in lost.values()} == {type(first)}:
        return first
    said = "; ".join(f"shard {index}: {error}" for index, error in lost.items())
    return ShardUnavailable(
        f"{len(lost)} of {shards} shards cannot be searched now ({said})",
        tuple(
            {"shard": index, "code": error.code, "detail": error.detail}
            for index, error in lost.items()
        ),
    )
