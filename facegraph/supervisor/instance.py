"""A Ray instance of our own with Serve on it: two child processes, started and ended in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from facegraph.errors import StartupError
from facegraph.supervisor import processes
from facegraph.supervisor.ports import free_ports

CLUSTER_START_TIMEOUT_S = 120.0
SERVE_STOP_TIMEOUT_S = 40.0
CLUSTER_STOP_TIMEOUT_S = 15.0
LEFTOVER_TIMEOUT_S = 5.0
POLL_S = 0.1

OBJECT_STORE_BYTES = 512 * 2**20
"""Ray's shared memory; under the fast path nearly nothing goes through it."""

LEAST_CORES = 2
"""What the shipped `serve_config.yaml` sets aside; on one core its parts share that one."""


class Instance:
    """``ray start --head`` on loopback, then ``serve run`` against it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], log: BinaryIO) -> None:
        # Ray opens its folder to everybody; ours, which has what HAProxy runs, stays private.
        self._folder = folder / "r"
        self._environment = environment
        self._log = log
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, config: Path, while_waiting: Callable[[], None]) -> None:
        """Returns when Serve has been asked to run ``config``; it is not ready then.

        Raises StartupError when Ray itself does not come up.
        """
        ray = self._spawn("ray", _ray_start(self._folder))
        address = self._address(ray, while_waiting)
        command = ["-m", "ray.serve.scripts", "run", "--address", address, os.fspath(config)]
        self._spawn("serve run", [sys.executable, *command])

    def ended(self) -> str | None:
        """Which of the two processes has ended, with its status; None while both run."""
        processes.reap_adopted({child.pid for child in self._children.values()})
        for name, child in self._children.items():
            if child.poll() is not None:
                return f"{name} ended with status {child.returncode}"
        return None

    def stop(self) -> list[str]:
        """Drains Serve, ends Ray, kills what is left; says what had to be killed."""
        if (serve := self._children.get("serve run")) is not None:
            processes.end(serve, signal.SIGINT, SERVE_STOP_TIMEOUT_S)
        if (ray := self._children.get("ray")) is not None:
            processes.end(ray, signal.SIGTERM, CLUSTER_STOP_TIMEOUT_S)
        return processes.end_descendants(LEFTOVER_TIMEOUT_S)

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        child = processes.spawn(command, self._environment, self._log)
        self._children[name] = child
        return child

    def _address(self, ray: subprocess.Popen[bytes], while_waiting: Callable[[], None]) -> str:
        """Where the instance listens; Ray writes it last, when everything runs."""
        written = self._folder / "ray_current_cluster"
        deadline = time.monotonic() + CLUSTER_START_TIMEOUT_S
        while time.monotonic() < deadline:
            if written.exists() and (address := written.read_text().strip()):
                return address
            if ray.poll() is not None:
                raise StartupError(f"Ray did not start: status {ray.returncode}")
            while_waiting()
            time.sleep(POLL_S)
        raise StartupError(f"Ray did not start within {CLUSTER_START_TIMEOUT_S:g} s")


def _ray_start(folder: Path) -> list[str]:
    """Worker ports 0 let the system choose: Ray's fixed range collides between copies."""
    port, agent, runtime_env, client = free_ports(4)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "temp-dir": folder,
        "include-dashboard": "false",
        "object-store-memory": OBJECT_STORE_BYTES,
        "ray-client-server-port": client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": agent,
        "runtime-env-agent-port": runtime_env,
    }
    if _cores() < LEAST_CORES:
        options["num-cpus"] = LEAST_CORES
    listed = [f"--{name}={value}" for name, value in options.items()]
    flags = ["start", "--head", "--block", "--no-monitor", "--disable-usage-stats"]
    return [sys.executable, "-m", "ray.scripts.scripts", *flags, *listed]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
