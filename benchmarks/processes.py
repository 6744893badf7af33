"""The processes of one contender: started, stopped between turns, their CPU time and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "BENCHMARK_GROUP"
STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of all processes; ``pss`` counts what they share once."""

    rss: float
    pss: float
    processes: int


def _environment(pid: int) -> list[bytes]:
    """Its variables; none where it ended or may not be looked at."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _works_below(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


class Group:
    """All processes that inherited a mark in their environment, and their descendants.

    A parent may be gone. A database server is given an environment of its own and outlives who
    started it; it works in a folder below ``folder``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self._folder = folder
        self._counted: list[psutil.Process] = []

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return {**given, MARK: self.mark}

    def members(self) -> list[psutil.Process]:
        wanted = f"{MARK}={self.mark}".encode()
        members: dict[int, psutil.Process] = {}
        # Parents come before their children, but where numbers began anew.
        for process in sorted(psutil.process_iter(["ppid"]), key=lambda each: each.pid):
            parent = process.info["ppid"]
            if (
                parent in members
                or wanted in _environment(process.pid)
                or (self._folder and _works_below(process.pid, self._folder))
            ):
                members[process.pid] = process
        return list(members.values())

    def cpu_s(self) -> float:
        """User and system seconds of those that lived when they were last woken, or are now."""
        total = 0.0
        for process in self._counted or self.members():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> Memory:
        rss = pss = 0.0
        members = self.members()
        for process in members:
            with suppress(psutil.NoSuchProcess):
                full = process.memory_full_info()
                rss += full.rss
                pss += full.pss
        return Memory(rss / 2**20, pss / 2**20, len(members))

    def freeze(self) -> None:
        """Stops all, so that they take nothing from another's turn."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self._counted = self.members()

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.thaw()
        try:
            yield
        finally:
            self.freeze()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class Attached(Group):
    """A server that somebody else started: whoever listens on ``ports``, and its descendants."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        listening = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port in ports
        ]
        self._roots = [psutil.Process(pid) for pid in listening if pid is not None]

    def members(self) -> list[psutil.Process]:
        found = {process.pid: process for process in self._roots}
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                found |= {child.pid: child for child in root.children(recursive=True)}
        return list(found.values())


@contextmanager
def started(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: Path
) -> Iterator[Group]:
    """A group of ``commands``, whose output goes to a log in ``folder``; ended by SIGTERM."""
    group = Group()
    running: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("ab") as log:
        try:
            for command in commands:
                given = group.environment(environment)
                running.append(
                    subprocess.Popen(command, env=given, cwd=folder, stdout=log, stderr=log)
                )
            yield group
        finally:
            group.thaw()
            for process in running:
                process.terminate()
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
                process.kill()


def wait_for(port: int, seconds: float) -> None:
    """Until somebody listens on ``port``; SystemExit when that takes longer."""
    import socket

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after {seconds} s")


def cores() -> int:
    return len(os.sched_getaffinity(0))
