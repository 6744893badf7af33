"""Runs real copies of the service, as ``make serve`` does, for tests to talk to and to hurt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from facegraph.config import Settings
from facegraph.supervisor.ports import free_ports

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "serve_config.yaml"
DEADLINE_S = 180.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until ``condition`` holds; fails loudly when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.1)


def write_config(folder: Path, replicas: Mapping[str, int], **args: Any) -> Path:
    """The shipped configuration with other numbers of replicas and other arguments."""
    document = yaml.safe_load(SHIPPED.read_text())
    (application,) = document["applications"]
    application["args"] |= args
    for deployment in application["deployments"]:
        deployment["num_replicas"] = replicas.get(deployment["name"], 1)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """This process's environment, with the data elsewhere and the installed models."""
    ours = {
        "FACEGRAPH_DATA_DIR": str(data_dir),
        "FACEGRAPH_MODELS_DIR": str(Settings().models_path),
    }
    kept = {
        k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "FACEGRAPH_DATABASE_URL"}
    }
    return kept | ours | more


def postmaster(data_dir: Path) -> int:
    """The process id of the embedded PostgreSQL over ``data_dir``."""
    return int((data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


@dataclass(slots=True)
class Copy:
    """One ``facegraph serve``: its address, its data, its processes."""

    folder: Path
    config: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    more: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def launch(self, *, deaf: bool = False) -> None:
        """Starts it and returns at once; ``deaf`` as a shell's ``command &``, ignoring SIGINT."""
        command = [sys.executable, "-m", "facegraph.cli", "serve"]
        options = ["--config", str(self.config), "--port", str(self.port)]
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self._process = subprocess.Popen(
                [*command, *options],
                cwd=ROOT,
                env=environment(self.data_dir, **self.more),
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_ignore_sigint if deaf else None,  # noqa: PLW1509 - no threads yet
            )

    def start(self, *, deaf: bool = False) -> str:
        """Starts it and waits for its one line."""
        self.launch(deaf=deaf)
        wait_until(lambda: self.said() != "" or self.process.poll() is not None, "the ready line")
        assert self.process.poll() is None, self.complained()
        return self.said()

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(DEADLINE_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.wait()

    def said(self) -> str:
        return self._file("out").read_text()

    def complained(self) -> str:
        return self._file("err").read_text()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0)

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of the replicas of ``deployment`` that live."""
        title = f"ray::ServeReplica:facegraph:{deployment}"
        return [p.pid for p in self.processes() if _title(p).startswith(title)]

    def kill(self, deployment: str) -> int:
        """kill -9 of the first replica; its process id."""
        pid = self.replicas(deployment)[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def processes(self) -> list[psutil.Process]:
        """Everything below the supervisor, without the database, which may be shared."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if not _title(process).endswith("postgres")]

    def wait_ready(self) -> None:
        """Until ``/readyz`` answers 200."""

        def ready() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready, "/readyz")

    def _file(self, kind: str) -> Path:
        return self.folder / f"serve.{kind}"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
