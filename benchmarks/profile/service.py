"""A running service: what a lone request waits for, and who takes the processor under load."""

from __future__ import annotations

import http.client
import re
import statistics
import time

import psutil

from benchmarks.client import run, traffic
from benchmarks.peers.contender import Contender, media_type
from benchmarks.peers.facegraph import SEARCH, request
from benchmarks.pictures import Picture
from benchmarks.processes import Group

Waits = dict[str, float]
Shares = dict[str, float]

WAITS = ("detect", "embed", "match", "rest", "all")
LONE_REQUESTS = 60

ROLES = ("ingress", "detectors", "embedder", "matcher", "database", "HAProxy", "idle", "client")
"""``idle``: the rest of Ray, and deployments that these requests do not need."""

_TITLES = {
    "ServeReplica:facegraph:ingress": "ingress",
    "ServeReplica:facegraph:detector": "detectors",
    "ServeReplica:facegraph:embedder": "embedder",
    "ServeReplica:facegraph:matcher": "matcher",
    "postgres": "database",
    "haproxy": "HAProxy",
}
_PART = re.compile(r"(\w+);dur=([0-9.]+)")


def waits(contender: Contender, kind: Picture) -> Waits:
    """Milliseconds of each stage at the median, and of the whole as the client sees it."""
    (port,) = contender.ports
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    seen: dict[str, list[float]] = {name: [] for name in WAITS}
    for turn in range(LONE_REQUESTS):
        path = kind.paths[turn % len(kind.paths)]
        began = time.perf_counter()
        connection.request("POST", SEARCH, path.read_bytes(), {"content-type": media_type(path)})
        response = connection.getresponse()
        response.read()
        took = (time.perf_counter() - began) * 1000
        told = {n: float(ms) for n, ms in _PART.findall(response.headers["server-timing"])}
        for name, milliseconds in {**told, "all": took, "rest": took - sum(told.values())}.items():
            seen[name].append(milliseconds)
    connection.close()
    return {name: statistics.median(values) for name, values in seen.items()}


def shares(contender: Contender, kind: Picture, clients: int, seconds: float) -> Shares:
    """CPU milliseconds a picture of every role, all of them together, and pictures a second."""
    requests = [request(path.read_bytes(), media_type(path)) for path in kind.paths]
    cpu = _Cpu(contender.group)
    done = run(traffic(contender.ports, requests, clients, seconds, cpu.read))
    count = max(1, len(done.exchanges))
    by_role = {role: ms / count for role, ms in cpu.between().items()}
    by_role["client"] = done.client_cpu_s * 1000 / count
    return {**by_role, "all": sum(by_role.values()), "images/s": count / done.seconds}


class _Cpu:
    """Processor time by role, at the begin and at the end of a turn."""

    def __init__(self, group: Group) -> None:
        self._members = group.members()
        self._read: list[dict[int, float]] = []

    def read(self) -> float:
        """Called at both; the sum in seconds."""
        now: dict[int, float] = {}
        for process in self._members:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            now[process.pid] = times.user + times.system
        self._read.append(now)
        return sum(now.values())

    def between(self) -> dict[str, float]:
        """Milliseconds by role."""
        before, after = self._read[0], self._read[-1]
        found = dict.fromkeys(ROLES, 0.0)
        for process in self._members:
            if process.pid in after:
                spent = after[process.pid] - before.get(process.pid, 0.0)
                found[_role(process)] += spent * 1000
        return found


def _role(process: psutil.Process) -> str:
    try:
        title = " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:
        return "idle"
    return next((role for part, role in _TITLES.items() if part in title), "idle")
