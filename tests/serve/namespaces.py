"""A Ray of its own in a private process namespace: what it kills, and who ends it, is inside.

Ray's provider of fake nodes, and a test that is interrupted, would otherwise reach processes of
others on this machine.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegraph.supervisor.ports import free_ports
from tests.serve.copies import ROOT, environment

PRIVATE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
SHELL = ["sh", "-c", '"$@"; exit $?', "sh"]  # the namespace's first process, which reaps


@functools.cache
def why_not() -> str | None:
    """Why no private namespace can be made here; None where it can."""
    try:
        done = subprocess.run([*PRIVATE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare (util-linux)"
    return None if done.returncode == 0 else f"no private namespace: {done.stderr.strip()}"


@dataclass(slots=True)
class PrivateRay:
    """A cluster of ``cores`` on its head, and up to ``workers`` fake nodes of ``worker_cores``."""

    folder: Path
    more: Mapping[str, str]
    cores: int = 2
    worker_cores: int = 1
    workers: int = 0
    port: int = field(default_factory=lambda: free_ports(1)[0])
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        sizes = map(str, (self.port, self.cores, self.worker_cores, self.workers))
        inside = [sys.executable, "-m", "tests.serve.ray_inside", str(self.folder), *sizes]
        with (self.folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*PRIVATE, *SHELL, *inside],
                cwd=ROOT,
                env=environment(self.folder / "data", **self.more),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def deploy(self, config: Path) -> None:
        """``serve run --non-blocking``, the first time and to change what runs."""
        assert self._ask("deploy", str(config)) == "deployed"

    def state(self) -> Any:
        """``deployments``: name → (status, running replicas); ``applications``; ``nodes``."""
        return self._ask("state")

    def replicas(self, deployment: str) -> int:
        """How many replicas of ``deployment`` run."""
        return int(self.state()["deployments"][deployment][1])

    def known(self, deployment: str) -> int:
        """As many as callers believe: :func:`deployments.calls.running_replicas`."""
        return int(self._ask("known", deployment))

    def running(self) -> bool:
        """Whether every application runs as it was deployed last."""
        applications = self.state()["applications"].values()
        return bool(applications) and set(applications) == {"RUNNING"}

    def stop(self) -> None:
        """Ends everything at once; nothing of it is kept."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _ask(self, *command: str) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"it ended; the log: {(self.folder / 'log').read_text()[-4000:]}"
        return json.loads(answer)
