"""The matcher: probes in, subjects out of the in-memory galleries. One deployment per shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve

from deployments.arguments import MatcherResources
from deployments.calls import outcomes
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph import matcher as library
from facegraph.config import MatcherTuning, Settings, parse
from facegraph.errors import FacegraphError, ShardUnavailable
from facegraph.graph import Query
from facegraph.store.database import open_store
from facegraph.types import FloatArray, SearchResult, Shard


class Matcher:
    """Every replica holds its shard of every gallery; ready when all are at the version read at
    start."""

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, resources: MatcherResources, shard: Shard
    ) -> None:
        self._shard = shard
        self._store = await open_store(settings)
        self._matcher = library.Matcher(
            self._store,
            MatcherTuning(),
            threads=resources.threads,
            shard=shard,
            storage=settings.gallery_storage,
            folder=settings.galleries_path,
            device="cuda" if settings.accelerator == "cuda" and resources.num_gpus else "cpu",
        )
        await self._matcher.start()
        self._ready = False

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """What is pinned is told only after the constructor: the first time, it is waited for."""
        self._matcher.reconfigure(parse(MatcherTuning, user_config))
        if not self._ready:
            await self._matcher.settle()
            self._ready = True

    def check_health(self) -> None:
        self._matcher.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """See :meth:`deployments.engine.Engine.record_autoscaling_stats`."""
        return self._matcher.read_load()

    async def match(
        self, requests: Sequence[tuple[str, str, FloatArray, Query, Shard]]
    ) -> list[SearchResult | FacegraphError]:
        """collection_id, contract_id, probes, query, shard."""
        return await outcomes(self._match(*request) for request in requests)

    async def _match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query, shard: Shard
    ) -> SearchResult:
        """Refuses who takes it for another shard.

        While the number of shards changes, callers and matchers of both numbers run; a part
        taken for a larger one would leave people out unseen.
        """
        if shard != self._shard:
            raise ShardUnavailable(
                f"this matcher is {_say(self._shard)}, and was asked as {_say(shard)}: "
                "the number of shards is being changed"
            )
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def describe_gallery(self, collection_id: str, shard: Shard) -> dict[str, Any] | None:
        """How it searches that collection; None where it does not, or is taken for another shard.

        See :meth:`facegraph.matcher.Matcher.describe_gallery`.
        """
        gallery = self._matcher.describe_gallery(collection_id) if shard == self._shard else None
        return None if gallery is None else {"replica": replica_id(), **gallery}

    async def describe(self) -> dict[str, Any]:
        shard = {"index": self._shard.index, "count": self._shard.count}
        return {"replica": replica_id(), "shard": shard, **self._matcher.describe()}

    async def __del__(self) -> None:
        await self._matcher.close()
        await self._store.close()


def _say(shard: Shard) -> str:
    return f"shard {shard.index} of {shard.count}"


AS_SHIPPED: dict[str, Any] = {
    "num_replicas": 1,
    "max_ongoing_requests": 256,
    "max_queued_requests": 512,
    "max_surge_percent": 100,
    "health_check_period_s": 2,
    "health_check_timeout_s": 10,
    "graceful_shutdown_timeout_s": 20,
}
"""As ``serve_config.yaml`` has it, for the shards that are not listed there."""

matcher = serve.deployment(name="matcher", **AS_SHIPPED)(Matcher)
