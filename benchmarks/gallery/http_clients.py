"""Clients of a service that runs: POST /v1/collections/{c}/search with an embedding.

The collection is filled through the service's database, where it is not there yet, and stays. As in
benchmarks.serve, the clients are one process with a thread to a connection, on the same cores.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from benchmarks.gallery.cell import Cell
from benchmarks.gallery.database import fill
from benchmarks.gallery.report import Table
from benchmarks.gallery.serving import CLIENTS, TURNS
from benchmarks.gallery.truth import LIMIT
from benchmarks.gallery.turns import Traffic, ratio
from facegraph.types import FloatArray

COLUMNS = ("clients", "answers/s", "p50 ms", "p99 ms", "of one client", "of the int8 read")

_LOAD_S = 300
_HEADERS = {"content-type": "application/json"}


def run(cell: Cell, url: str, database_url: str | None) -> None:
    """Adds a table for this size, where the service's embeddings have its dimension."""
    contract = _get(url, "/v1/system")["contract"]
    if contract["dimension"] != cell.dimension:
        return
    cell.say("clients over HTTP")
    collection = f"benchmark-{cell.samples}"
    if _call(url, "GET", f"/v1/collections/{collection}")[0] == http.client.NOT_FOUND:
        if database_url is None:
            raise SystemExit(f"{collection} is to be filled: say --database-url")
        _call(url, "POST", "/v1/collections", json.dumps({"id": collection}).encode())
        asyncio.run(fill(database_url, collection, cell.people))
    target = f"/v1/collections/{collection}/search"
    bodies = [body(probe, contract["id"]) for probe in cell.people.probes]
    _wait_until_loaded(url, target, bodies[0])
    turns: dict[int, list[tuple[Traffic, float]]] = defaultdict(list)
    for _ in range(cell.options.rounds):
        for clients in CLIENTS:
            read = cell.read_seconds()
            seen = ask(url, target, bodies, clients, TURNS * cell.options.seconds)
            turns[clients].append((seen, ratio(1, seen.rate * read)))
    _add(cell.report.table("end-to-end", f"{cell}: clients over HTTP", COLUMNS), turns)


def _add(table: Table, turns: Mapping[int, Sequence[tuple[Traffic, float]]]) -> None:
    single = statistics.median(seen.rate for seen, _ in turns[CLIENTS[0]])
    for clients, each in turns.items():
        rate = statistics.median(seen.rate for seen, _ in each)
        table.add(
            clients,
            rate,
            statistics.median(seen.p50_ms for seen, _ in each),
            statistics.median(seen.p99_ms for seen, _ in each),
            ratio(rate, single),
            statistics.median(part for _, part in each),
        )


def body(probe: FloatArray, contract_id: str) -> bytes:
    """The request of one probe (d,)."""
    asked = {"embedding": probe.tolist(), "contract": contract_id, "limit": LIMIT}
    return json.dumps(asked | {"include_below": True}).encode()


def ask(url: str, target: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Traffic:
    """What ``clients`` connections saw that sent ``bodies`` without pause."""
    took: list[float] = []
    failed: list[str] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        connection = _connection(url)
        connection.connect()
        start.wait()
        asked, end = number, time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            connection.request("POST", target, bodies[asked % len(bodies)], _HEADERS)
            response = connection.getresponse()
            answer = response.read()
            if response.status != http.client.OK:
                failed.append(f"{response.status} {answer[:200]!r}")
                return
            asked += clients
            if (ended := time.perf_counter()) <= end:
                took.append(ended - began)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"{len(failed)} clients failed: {failed[0]}")
    return Traffic.of(took, seconds)


def _get(url: str, path: str) -> Any:
    status, answer = _call(url, "GET", path)
    if status != http.client.OK:
        raise SystemExit(f"{url}{path} answers {status}")
    return answer


def _wait_until_loaded(url: str, target: str, request: bytes) -> None:
    end = time.monotonic() + _LOAD_S
    while (status := _call(url, "POST", target, request)[0]) != http.client.OK:
        if status != http.client.SERVICE_UNAVAILABLE or time.monotonic() > end:
            raise SystemExit(f"{target} answers {status}")
        time.sleep(1)


def _call(url: str, method: str, path: str, content: bytes | None = None) -> tuple[int, Any]:
    connection = _connection(url)
    try:
        connection.request(method, path, content, _HEADERS)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _connection(url: str) -> http.client.HTTPConnection:
    place = urlsplit(url)
    return http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=120)
