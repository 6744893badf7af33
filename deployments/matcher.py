"""The matcher: probes in, subjects out of the in-memory galleries."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.arguments import CpuResources
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph import matcher as library
from facegraph.config import MatcherTuning, Settings, parse
from facegraph.graph import Query
from facegraph.store.database import open_store
from facegraph.types import FloatArray, SearchResult


class Matcher:
    """Every replica holds every gallery; ready when all are at the version read at start."""

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, resources: CpuResources
    ) -> None:
        self._store = await open_store(settings)
        self._matcher = library.Matcher(self._store, MatcherTuning(), threads=resources.threads)
        await self._matcher.start()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._matcher.reconfigure(parse(MatcherTuning, user_config))

    def check_health(self) -> None:
        self._matcher.check()

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        return await self._matcher.match(collection_id, contract_id, probes, query)

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._matcher.describe()}

    async def __del__(self) -> None:
        await self._matcher.close()
        await self._store.close()


matcher = serve.deployment(name="matcher", max_ongoing_requests=256, max_queued_requests=512)(
    Matcher
)
