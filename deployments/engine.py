"""What every deployment with a model has in common: a worker, its tuning, its health."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel

from deployments.arguments import EngineResources
from deployments.startup import replica_id
from facegraph.config import Settings, parse


class Worker(Protocol):
    """What :mod:`facegraph.workers` and :mod:`facegraph.vision` bring."""

    def check(self) -> None: ...
    def describe(self) -> dict[str, Any]: ...
    def read_load(self) -> dict[str, float]: ...
    async def close(self) -> None: ...


class TunedWorker(Worker, Protocol):
    """One whose numbers change while it runs."""

    def reconfigure(self, tuning: Any, /) -> None: ...


W = TypeVar("W", bound=Worker)
T = TypeVar("T", bound=TunedWorker)


class Replica(Generic[W]):
    """Base of a deployment that wraps one worker: its health, its load, what it tells."""

    _worker: W

    def check_health(self) -> None:
        self._worker.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is told where it scales; see :mod:`deployments.scaling`."""
        return self._worker.read_load()

    async def describe(self) -> dict[str, Any]:
        return {"replica": replica_id(), **self._worker.describe()}

    async def __del__(self) -> None:
        await self._worker.close()


class Engine(Replica[T]):
    """Base of one whose worker runs a model under a tuning."""

    tuning: ClassVar[type[BaseModel]]

    def _open(
        self, worker: Callable[..., T], settings: Settings, resources: EngineResources
    ) -> None:
        self._worker = worker(
            settings,
            self.tuning(),
            threads=resources.threads,
            gpu_memory_bytes=resources.gpu_memory_bytes,
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._worker.reconfigure(parse(self.tuning, user_config))
