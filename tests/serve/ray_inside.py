"""Runs inside a private process namespace: a Ray that scales itself, told what to do by lines.

Every line of stdin is a JSON list, a command and its arguments; every line of stdout the answer.
The end of stdin ends it; the namespace's end ends everything that it started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from facegraph.supervisor.environment import ray_environment
from facegraph.supervisor.ports import free_ports

STORE_BYTES = 80 * 2**20


def main() -> None:
    folder, port, cores, worker_cores, workers = Path(sys.argv[1]), *map(int, sys.argv[2:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    environment = _environment(folder, port)
    address = _start(folder, environment, cores, worker_cores, workers)
    os.environ |= environment  # Ray reads it when it is imported

    import ray

    ray.init(address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    for line in sys.stdin:
        match json.loads(line):
            case ["deploy", path]:
                command = [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking"]
                subprocess.run([*command, "--address", address, path], check=True)
                answer: Any = "deployed"
            case ["state"]:
                answer = _state()
            case ["known", name]:
                answer = asyncio.run(_known(name))
            case other:
                answer = f"no command {other}"
        print(json.dumps(answer), file=answers, flush=True)


def _environment(folder: Path, port: int) -> dict[str, str]:
    return ray_environment(os.environ, folder, f"127.0.0.1:{port}") | {
        "RAY_FAKE_CLUSTER": "1",  # Ray starts processes on this machine and calls them nodes
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _start(
    folder: Path, environment: dict[str, str], cores: int, worker_cores: int, workers: int
) -> str:
    gcs, agent, runtime_env, client = free_ports(4)
    address = f"127.0.0.1:{gcs}"
    cluster = folder / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(_cluster(address, worker_cores, workers)))
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "temp-dir": folder / "r",
        "include-dashboard": "false",
        "object-store-memory": STORE_BYTES,
        "ray-client-server-port": client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": agent,
        "runtime-env-agent-port": runtime_env,
        "num-cpus": cores,
    }
    if workers:
        options["autoscaling-config"] = cluster
    flags = ["start", "--head", "--disable-usage-stats", *([] if workers else ["--no-monitor"])]
    listed = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "ray.scripts.scripts", *flags, *listed]
    subprocess.run(command, env=environment, check=True)
    return address


NOTHING_TO_SET_UP = {
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def _cluster(address: str, worker_cores: int, workers: int) -> dict[str, Any]:
    """What ``cluster.yaml`` is to a cloud, for the provider that comes with Ray for tests."""
    worker = {"CPU": worker_cores, "object_store_memory": STORE_BYTES}
    return NOTHING_TO_SET_UP | {
        "cluster_name": "facegraph",
        "max_workers": workers,
        "upscaling_speed": 100,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "fake_multinode",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "gcs_address": address,
            "use_node_id_as_ip": True,  # they all have one address
        },
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": worker,
                "node_config": {},
                "min_workers": 0,
                "max_workers": workers,
            },
        },
        "head_node_type": "ray.head.default",
    }


def _state() -> dict[str, Any]:
    """Of each deployment its status and how many replicas run; the number of nodes."""
    import ray
    from ray import serve
    from ray.serve._private.common import ReplicaState

    status = serve.status()
    deployments = {
        name: (told.status.value, told.replica_states.get(ReplicaState.RUNNING, 0))
        for application in status.applications.values()
        for name, told in application.deployments.items()
    }
    applications = {name: told.status.value for name, told in status.applications.items()}
    nodes = sum(node["Alive"] for node in ray.nodes())
    return {"applications": applications, "deployments": deployments, "nodes": nodes}


async def _known(name: str) -> int:
    """How many replicas a handle sends to that has just called one."""
    from ray import serve

    from deployments.calls import running_replicas

    handle: Any = serve.get_deployment_handle(name, "facegraph").options(method_name="describe")
    await asyncio.wait_for(handle.remote(), 60)
    return running_replicas(handle)


if __name__ == "__main__":
    main()
