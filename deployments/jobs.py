"""Jobs: work that outlives its request, taken from the queue in PostgreSQL."""

from __future__ import annotations

from typing import Any

import cv2
from ray import serve

from deployments.arguments import CpuResources
from deployments.evaluations import ray_evaluations
from deployments.graph import Handles, ServeGraph
from deployments.startup import DID_NOT_START, replica_id, reported
from facegraph.api.fetch import url_fetcher
from facegraph.bulk import job as bulk
from facegraph.config import IngressTuning, JobsTuning, Settings, parse
from facegraph.jobs import Handler, Worker
from facegraph.models.packs import find_pack
from facegraph.recognizers import building
from facegraph.recognizers.callbacks import Notifier
from facegraph.service import Service
from facegraph.store.database import open_store
from facegraph.video.job import handlers


class Jobs:
    """Takes jobs on its own; no caller waits for it, and a request never reaches it.

    A replica that is lost takes nothing with it: its jobs begin anew elsewhere.
    """

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        resources: CpuResources,
        evaluation: CpuResources,
        handles: Handles,
    ) -> None:
        cv2.setNumThreads(resources.threads)
        tuning = IngressTuning()
        pack = find_pack(settings)
        graph = ServeGraph(handles, tuning.request_timeout_s, pack.contract.id)
        self._store = await open_store(settings)
        service = Service(graph, self._store, settings, tuning, pack)
        kinds = self._handlers(service, evaluation.num_cpus)
        self._worker = Worker(self._store, kinds, JobsTuning())
        self._notifier = Notifier(
            self._store.recognizers, lambda: self._worker.tuning, settings.private_callbacks
        )
        self._worker.start()
        self._notifier.start()

    def _handlers(self, service: Service, evaluation_cpus: float) -> dict[str, Handler]:
        fetch = url_fetcher(service.settings.fetch_urls)
        evaluations = ray_evaluations(evaluation_cpus, lambda: self._worker.tuning.evaluations)
        return (
            handlers(service)
            | bulk.handlers(service, fetch, self._bulk_pictures)
            | building.handlers(service, fetch, self._bulk_pictures, evaluations)
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.tuning = parse(JobsTuning, user_config)

    def _bulk_pictures(self) -> int:
        return self._worker.tuning.bulk_pictures

    def check_health(self) -> None:
        self._worker.check()
        self._notifier.check()

    async def describe(self) -> dict[str, Any]:
        return {
            "replica": replica_id(),
            **self._worker.describe(),
            "notifications": self._notifier.describe(),
            "tuning": self._worker.tuning.model_dump(),
        }

    async def __del__(self) -> None:
        await self._notifier.close()
        await self._worker.close()
        await self._store.close()


jobs = serve.deployment(name="jobs", max_ongoing_requests=8)(Jobs)
