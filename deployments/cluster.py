"""What the Ray cluster under the application has, and what that allows."""

from __future__ import annotations

import os

import ray
from ray._private.state import state

from deployments.arguments import Device, Resources, matcher_name
from facegraph.config import Settings
from facegraph.errors import ConfigError

FAST_PATH = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")

MESSAGE_LENGTH = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
LEAST_MESSAGE_BYTES = 64 * 2**20
"""So that a picture and the crops of all its faces pass; gRPC's own limit is 4 MiB."""


def resolve_device(settings: Settings, gpus: float) -> Device:
    """Where the engines run. ConfigError when CUDA is asked for and Ray counts no GPU."""
    if settings.accelerator == "cpu":
        return "cpu"
    if settings.accelerator == "cuda" and not gpus:
        raise ConfigError(
            "accelerator is `cuda`, but Ray counts no GPU in this cluster; "
            "set it to `auto` or `cpu`, or start the cluster with a GPU node"
        )
    return "cuda" if gpus else "cpu"


def require_shared_database(settings: Settings, nodes: int) -> None:
    """The embedded server serves one machine; ConfigError when there are more."""
    if nodes > 1 and settings.database_url is None:
        raise ConfigError(
            f"this Ray cluster has {nodes} nodes, and the embedded database serves one: "
            "set FACEGRAPH_DATABASE_URL (or database_url) to a PostgreSQL that all nodes reach"
        )


def require_cores(resources: Resources, cores: float, shards: int = 1) -> None:
    """ConfigError when one replica of each deployment, and an evaluation beside them, cannot fit.

    Ray would wait for ever.
    """
    parts = {name: part.num_cpus for name, part in resources}
    parts |= {matcher_name(shard): resources.matcher.num_cpus for shard in range(1, shards)}
    if sum(parts.values()) > cores:
        listed = ", ".join(f"{name} {cpus:g}" for name, cpus in parts.items())
        raise ConfigError(
            f"one replica of each deployment, with one evaluation, takes {sum(parts.values()):g} "
            f"cores ({listed}), and this cluster has {cores:g}; lower `resources` in the arguments"
        )


def reachable(resource: str) -> float:
    """How much of ``CPU`` or ``GPU`` the cluster has, or can have where it scales itself."""
    now = float(ray.cluster_resources().get(resource, 0))
    largest = state.get_max_resources_from_cluster_config() or {}
    return max(now, float(largest.get(resource, 0)))


def live_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def fast_path_hint() -> str | None:
    """One line about what this Ray lacks for the fast HTTP path, or None."""
    lacking = [name for name in FAST_PATH if os.environ.get(name) != "1"]
    if not lacking:
        return _message_hint()
    return (
        f"facegraph: running without the fast HTTP path ({'=1 and '.join(lacking)}=1 not set "
        "where Ray was started); `facegraph serve` or `make serve` sets it"
    )


def _message_hint() -> str | None:
    """The fast path sends by value: a picture that does not fit into a message is not seen."""
    said = os.environ.get(MESSAGE_LENGTH, str(4 * 2**20))
    if said.isdecimal() and int(said) >= LEAST_MESSAGE_BYTES:
        return None
    return (
        f"facegraph: pictures near {said} bytes and above will fail: set {MESSAGE_LENGTH} to at "
        f"least {LEAST_MESSAGE_BYTES} where Ray is started; `facegraph serve` or `make serve` does"
    )
