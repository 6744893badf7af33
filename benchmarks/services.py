"""Services for the benchmarks: started, filled, stopped."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from facegraph.types import FloatArray

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60

DEFAULT_PATH = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
"""What Ray Serve does when it is told nothing."""


@contextmanager
def running(port: int, *, fast: bool, environment: Mapping[str, str]) -> Iterator[None]:
    """``facegraph serve`` on ``port``; without ``fast``, on Ray's default HTTP path."""
    command = [sys.executable, "-m", "facegraph.cli", "serve", "--port", str(port)]
    given = dict(environment) | ({} if fast else DEFAULT_PATH)
    with subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, port)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)


def fill(port: int, embeddings: FloatArray) -> None:
    """Enrols each row as a subject's sample, a thousand to a subject at most."""
    contract = call(port, "GET", "/v1/system")["contract"]["id"]
    call(port, "POST", "/v1/collections/default/subjects", {"id": "crowd"})
    path = "/v1/collections/default/subjects/crowd/samples"
    for start in range(0, len(embeddings), 1000):
        rows = embeddings[start : start + 1000].tolist()
        call(port, "POST", path, {"embeddings": rows, "contract": contract})


def call(port: int, method: str, path: str, body: Any = None) -> Any:
    """One JSON request; raises for anything but success."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        try:
            if not call(port, "GET", "/readyz")["starting"]:
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service was not ready within {START_TIMEOUT_S} s")
