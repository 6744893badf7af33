"""The ingress: the ASGI app bound to the graph. ``serve_config.yaml`` names ``build``."""

# No `from __future__ import annotations`: Serve reads the annotation of build's one parameter
# as a class, and hands over a plain dict when it finds a string.

from typing import Any

import cv2
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from deployments import cluster
from deployments.arguments import AppArgs, CpuResources, EngineResources, matcher_name
from deployments.detector import detector
from deployments.embedder import embedder
from deployments.graph import Handles, ServeGraph
from deployments.jobs import jobs
from deployments.matcher import matcher
from deployments.recognizer import recognizer
from deployments.request_id import OneRequestId
from deployments.rpcs import RpcMethods
from deployments.startup import CANNOT_START, DID_NOT_START, reported, tell_operator
from deployments.vision import captioner, segmenter
from facegraph.api.app import create_app
from facegraph.config import DetectorTuning, IngressTuning, Settings, parse
from facegraph.models.packs import find_pack
from facegraph.models.vision_packs import require_known
from facegraph.service import SEGMENTER, Service
from facegraph.store.database import open_store
from facegraph.types import Shard


class Ingress(RpcMethods):
    """Parses, limits and answers HTTP, and gRPC where it is on; the models and the index work
    behind the handles.

    The app sheds load itself, with a problem document, so its limit lies under Serve's.
    """

    @reported(DID_NOT_START)
    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, handles: Handles
    ) -> None:
        tuning = IngressTuning()
        pack = find_pack(settings)
        self._graph = ServeGraph(handles, tuning.request_timeout_s, pack.contract.id)
        self._store = await open_store(settings)
        await self._store.ensure_default(pack.contract)
        await self._store.drop_outdated_choice(SEGMENTER, settings.segmenter)
        cv2.setNumThreads(1)  # redaction draws in threads of its own
        self._service = Service(self._graph, self._store, settings, tuning, pack)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Serve calls this after the constructor, then runs the app's lifespan."""
        app = create_app(self._service)
        self.open_rpcs(app)
        return OneRequestId(app)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        tuning = parse(IngressTuning, user_config)
        self._service.tuning = tuning
        self._graph.timeout_s = tuning.request_timeout_s

    async def __del__(self) -> None:
        await self._store.close()


ingress = serve.deployment(name="ingress", max_ongoing_requests=1000)(serve.ingress()(Ingress))


def build(args: AppArgs) -> Application:
    """``ingress, jobs → detector, embedder, matcher, segmenter, captioner, recognizer`` on what
    there is."""
    return reported(CANNOT_START)(_build)(args)


def _build(args: AppArgs) -> Application:
    settings = args.settings()
    require_known(settings)
    cluster.require_shared_database(settings, cluster.live_nodes())
    cluster.require_cores(args.resources, cluster.reachable("CPU"), settings.matcher_shards)
    device = cluster.resolve_device(settings, cluster.reachable("GPU"))
    if hint := cluster.fast_path_hint():
        tell_operator(hint)

    settings = settings.model_copy(update={"accelerator": device})
    take = args.resources
    engines = {
        "detector": detector,
        "embedder": embedder,
        "segmenter": segmenter,
        "captioner": captioner,
    }
    bound: dict[str, Any] = {
        name: deployment.options(ray_actor_options=_engine(getattr(take, name), device)).bind(
            settings, getattr(take, name)
        )
        for name, deployment in engines.items()
    }
    bound["recognizer"] = recognizer.options(ray_actor_options=_cpu(take.recognizer)).bind(
        settings, take.recognizer
    )
    shards = [Shard(index, settings.matcher_shards) for index in range(settings.matcher_shards)]
    matchers: Any = tuple(
        matcher.options(
            name=matcher_name(shard.index), ray_actor_options=_engine(take.matcher, device)
        ).bind(settings, take.matcher, shard)
        for shard in shards
    )
    below = Handles(  # Serve puts a handle in each one's place
        matchers=matchers,
        pictures_at_once=DetectorTuning().max_batch if device == "cuda" else take.detector.threads,
        searches_at_once=take.matcher.threads,
        **bound,
    )
    workers: Any = jobs.options(ray_actor_options=_cpu(take.jobs)).bind(
        settings, take.jobs, take.evaluation, below
    )
    return ingress.options(ray_actor_options=_cpu(take.ingress)).bind(
        settings, below._replace(jobs=workers)
    )


def _cpu(resources: CpuResources) -> dict[str, float]:
    return {"num_cpus": resources.num_cpus}


def _engine(resources: EngineResources, device: str) -> dict[str, float]:
    if device == "cpu":
        return _cpu(resources)
    return _cpu(resources) | {"num_gpus": resources.num_gpus}
