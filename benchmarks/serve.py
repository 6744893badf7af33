"""This service over HTTP against a plain loop over the same engines, in one run.

    .venv/bin/python -m benchmarks.serve [--seconds 3] [--rounds 12] [--clients 1 4 16]

Three things are up all the time and take turns of a few seconds: the loop (two processes, one
engine thread each: decode, detect, align, embed, search), the service on its fast HTTP path, and
the service on Ray's default one. All answer "who is in this picture" from galleries of one size.
Turns are short and many because machines change their pace; a ratio is of turns that lie side by
side, and the table shows the median round. The client is one process with a thread per
connection; it takes its time from the same cores.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.loop import Loop, random_embeddings
from benchmarks.pictures import Picture, pictures
from benchmarks.services import fill, free_port, running
from facegraph.config import settings_from

GALLERY = 1000
"""Samples searched; enrolled as random embeddings, so nobody is found and every answer is alike."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Images a second, milliseconds an image took at the median and at the 99th percentile."""

    rate: float
    p50_ms: float
    p99_ms: float
    of_loop: float = 1.0


def summarise(took: Sequence[float], seconds: float, loop: float | None = None) -> Turn:
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    rate = len(took) / seconds
    return Turn(rate, float(p50), float(p99), rate / loop if loop else 1.0)


SEARCH = "/v1/collections/default/search"


def ask(
    port: int, paths: Sequence[Path], clients: int, seconds: float, target: str = SEARCH
) -> list[float]:
    """Seconds each request took, of ``clients`` connections that send without pause.

    What is answered after the end does not count: with slow answers that would be many.
    """
    images = [path.read_bytes() for path in paths]
    took: list[list[float]] = [[] for _ in range(clients)]
    failed: list[str] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            image = images[(number + len(took[number])) % len(images)]
            connection.request("POST", target, image, {"content-type": "image/jpeg"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                failed.append(f"{response.status} {body[:200]!r}")
                return
            if (ended := time.perf_counter()) <= end:
                took[number].append(ended - began)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"{len(failed)} clients failed: {failed[0]}")
    return [t for each in took for t in each]


@contextmanager
def service(*, fast: bool, more: Mapping[str, str] | None = None) -> Iterator[int]:
    """A service of its own with a filled gallery and ``more`` environment; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        models = {"FACEGRAPH_MODELS_DIR": str(settings_from().models_path)}
        environment = {**os.environ, **models, "FACEGRAPH_DATA_DIR": folder, **(more or {})}
        with running(port, fast=fast, environment=environment):
            fill(port, random_embeddings(GALLERY, 128))
            yield port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, {options.rounds} rounds")
    with ExitStack() as stack:
        ports = {
            "fast path": stack.enter_context(service(fast=True)),
            "default path": stack.enter_context(service(fast=False)),
        }
        loop = stack.enter_context(Loop(GALLERY))
        for picture in pictures():
            table(picture, loop, ports, options)


def table(picture: Picture, loop: Loop, ports: dict[str, int], options: argparse.Namespace) -> None:
    turns: dict[str, list[Turn]] = {"loop": []}
    for port in ports.values():
        ask(port, picture.paths, max(options.clients), 2)  # warm
    for _ in range(options.rounds):
        for clients in options.clients:
            base = summarise(loop.run(picture.paths, options.seconds), options.seconds)
            turns["loop"].append(base)
            for name, port in ports.items():
                took = ask(port, picture.paths, clients, options.seconds)
                turn = summarise(took, options.seconds, base.rate)
                turns.setdefault(f"{name}, {clients} clients", []).append(turn)
    print(f"\n{picture.name}: {', '.join(path.name for path in picture.paths)}")
    print("| what | images/s | p50 ms | p99 ms | of the loop |\n| --- | --- | --- | --- | --- |")
    for name, rounds in turns.items():
        numbers = (median(t.rate for t in rounds), median(t.p50_ms for t in rounds))
        p99, ratio = median(t.p99_ms for t in rounds), median(t.of_loop for t in rounds)
        print(
            f"| {name} | {numbers[0]:.1f} | {numbers[1]:.1f} | {p99:.1f} | {ratio:.2f} |",
            flush=True,
        )


def median(values: Iterator[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
