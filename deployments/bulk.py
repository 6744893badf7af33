"""Ray Data behind the bulk enrolment's map: read, then a pool of workers that make samples.

Each worker has engines of its own, so a picture is read, decoded, detected and embedded in one
process; only its sample comes back, and this process alone writes. Workers need the models and
the pictures, and neither the database nor a running service.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from deployments.bulk_reading import unpickled
from deployments.bulk_worker import BulkWorker, Given
from facegraph.bulk.attempts import Attempts
from facegraph.bulk.items import Source
from facegraph.bulk.known import KnownPhotos
from facegraph.bulk.mapping import Map
from facegraph.bulk.sampling import Outcome, Rules
from facegraph.config import Settings
from facegraph.errors import ConfigError, FacegraphError
from facegraph.supervisor.runtime import runtime_folder

OBJECT_STORE_BYTES = 256 * 2**20
RETRIES = 20
"""Of a block whose worker was lost: one, and one for each picture in it that kills a worker."""

RESTARTS = 100
"""Of a worker."""

_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback; the name tells only where it began
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what matters comes as an exception
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
}
"""Of a Ray instance of our own: on loopback, closed to everybody else."""


@dataclass(frozen=True, slots=True)
class Where:
    """A cluster: its address or ``local``; most workers, None: one a core; each one's GPU share."""

    address: str
    workers: int | None = None
    gpus: float = 0.0


@asynccontextmanager
async def over_ray(
    where: Where, settings: Settings, rules: Rules, known: KnownPhotos, contract_id: str
) -> AsyncIterator[tuple[Map, str]]:
    """The map over that cluster, and what to call it; ConfigError where it cannot be reached.

    contract_id: what the embeddings are enrolled as; workers whose models make others refuse
    """
    with _connected(where) as room:
        import ray

        workers = where.workers or room
        device = "cuda" if where.gpus else "cpu"
        settings = settings.model_copy(update={"accelerator": device, "database_url": None})
        # Restarted with nothing known, should its node be lost.
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        worker = Given(settings, rules, contract_id, [ray.put(known)], attempts)

        def mapped(source: Source) -> AsyncGenerator[Sequence[Outcome]]:
            return _outcomes(source, where, workers, worker)

        place = "a Ray instance of its own" if where.address == "local" else where.address
        yield mapped, f"on {place}, up to {workers} workers"


@contextmanager
def _connected(where: Where) -> Iterator[int]:
    """Joins the cluster, or starts one; how many workers it has room for."""
    if where.address != "local":
        with _joined(where.address):
            yield _room(where)
        return
    cores = where.workers or _cores()
    with runtime_folder() as folder, _started(folder, cores):
        yield cores


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _started(folder: Path, cores: int) -> Iterator[None]:
    """Ray reads the environment when it is imported, and its processes when they start."""
    os.environ.update(_ALONE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(folder / "r"),
    )
    try:
        yield
    finally:
        ray.shutdown()


def _room(where: Where) -> int:
    """Workers that the cluster has cores for, or can have where it scales itself."""
    import ray

    from deployments.cluster import reachable

    free = int(ray.available_resources().get("CPU", 0))
    if reachable("CPU") > ray.cluster_resources().get("CPU", 0):
        free = int(reachable("CPU"))
    if free < 1:
        raise ConfigError(
            f"the cluster at {where.address} has no core to spare for a worker; "
            "--local does it in this process"
        )
    return free


async def _outcomes(
    source: Source, where: Where, workers: int, worker: Given
) -> AsyncGenerator[Sequence[Outcome]]:
    batches = iter(_dataset(source, where, workers, worker))
    while (batch := await asyncio.to_thread(_next, batches)) is not None:
        for outcomes in unpickled(batch):
            yield outcomes


def _dataset(source: Source, where: Where, workers: int, worker: Given) -> Any:
    """Tables of outcomes, as they come."""
    import ray.data

    from deployments.bulk_reading import datasource

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    least = workers if where.address == "local" else 1
    return (
        ray.data.read_datasource(datasource(source), num_cpus=0)
        .map_batches(
            BulkWorker,
            fn_constructor_args=[worker],
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=workers),
            num_cpus=1,
            num_gpus=where.gpus,
            ray_remote_args_fn=_restarts,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    )


def _restarts() -> dict[str, int]:
    return {"max_restarts": RESTARTS, "max_task_retries": RETRIES}


def _next(batches: Iterator[pa.Table]) -> pa.Table | None:
    """The next table; the library's own error where one ended the run."""
    from ray.exceptions import RayError

    try:
        return next(batches, None)
    except RayError as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> FacegraphError:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FacegraphError):
            return getattr(seen, "cause", seen)
        seen = getattr(seen, "cause", None) or seen.__cause__
    return FacegraphError(f"Ray Data ended: {_line(error)}")


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
