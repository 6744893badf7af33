"""This service over HTTP against a plain loop over the same engines, in one run.

    .venv/bin/python -m benchmarks.serve [--seconds 8] [--rounds 3] [--clients 1 4 16]

Every round measures in turn: the loop (two processes, one engine thread each: decode,
detect, align, embed, search), the service on its fast HTTP path, and the service as plain `serve
run` gives it. All answer "who is in this picture" from galleries of one size. Ratios are of the
same round; the table shows the median round. The client is one process with one thread per
connection; it takes its time from the same two cores.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.pictures import Picture, pictures
from facegraph.config import DetectorTuning, Settings, settings_from
from facegraph.types import FloatArray

GALLERY = 1000
"""Samples searched; enrolled as random embeddings, so nobody is found and every answer is alike."""

LOOP_PROCESSES = 2
START_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Result:
    """Images a second, and milliseconds an image took at the median and the 99th percentile."""

    rate: float
    p50_ms: float
    p99_ms: float


def loop_worker(names: Sequence[str], seconds: float, ready: object, answers: object) -> None:
    """One process of the loop: engines with one thread each, no HTTP, no queues."""
    from facegraph.decisions import similarities
    from facegraph.faces.detection import Detector
    from facegraph.faces.embedding import EmbeddingModel
    from facegraph.models.packs import find_pack

    settings = settings_from()
    pack = find_pack(settings)
    detector = Detector(pack, DetectorTuning(), engine=settings.engine)
    embedder = EmbeddingModel(pack, engine=settings.engine)
    gallery = random_embeddings(GALLERY, pack.contract.dimension)
    detector.warm_up()
    embedder.warm_up()
    images = [Path(name).read_bytes() for name in names]
    took: list[float] = []
    ready.wait(START_TIMEOUT_S)  # type: ignore[attr-defined]
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        detection = detector.detect(images[len(took) % len(images)], max_faces=100, crops=True)
        for embedding in embedder.embed(detection.crops):
            similarities(gallery, embedding).argmax()
        took.append(time.perf_counter() - began)
    answers.put(took)  # type: ignore[attr-defined]


def measure_loop(picture: Picture, seconds: float) -> Result:
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(LOOP_PROCESSES + 1), context.Queue()
    names = [str(path) for path in picture.paths]
    workers = [
        context.Process(target=loop_worker, args=(names, seconds, ready, answers))
        for _ in range(LOOP_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait(START_TIMEOUT_S)
    took = [t for _ in workers for t in answers.get()]
    for worker in workers:
        worker.join()
    return summarise(took, seconds)


def measure_http(port: int, picture: Picture, clients: int, seconds: float) -> Result:
    images = [path.read_bytes() for path in picture.paths]
    took: list[list[float]] = [[] for _ in range(clients)]
    failed: list[str] = []
    start = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            image = images[(number + len(took[number])) % len(images)]
            path, headers = "/v1/collections/default/search", {"content-type": "image/jpeg"}
            connection.request("POST", path, image, headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                failed.append(f"{response.status} {body[:200]!r}")
                return
            took[number].append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"{len(failed)} clients failed: {failed[0]}")
    return summarise([t for each in took for t in each], seconds)


def summarise(took: Sequence[float], seconds: float) -> Result:
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return Result(len(took) / seconds, float(p50), float(p99))


def random_embeddings(n: int, dimension: int) -> FloatArray:
    rows = np.random.default_rng(0).normal(size=(n, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@contextmanager
def service(fast: bool, data_dir: Path, settings: Settings) -> Iterator[int]:
    """A service of its own with a filled gallery; yields its port."""
    from benchmarks.services import fill, free_port, running

    port = free_port()
    environment = {
        **os.environ,
        "FACEGRAPH_DATA_DIR": str(data_dir),
        "FACEGRAPH_MODELS_DIR": str(settings.models_path),
    }
    with running(port, fast=fast, environment=environment):
        fill(port, random_embeddings(GALLERY, 128))
        yield port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    settings = settings_from()
    for picture in pictures():
        print(f"\n{picture.name}: {', '.join(path.name for path in picture.paths)}")
        table(picture, options, settings)


def table(picture: Picture, options: argparse.Namespace, settings: Settings) -> None:
    results: dict[str, list[Result]] = {}
    ratios: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        loop = measure_loop(picture, options.seconds)
        results.setdefault("loop, 2 processes", []).append(loop)
        for fast in (True, False):
            with (
                tempfile.TemporaryDirectory() as folder,
                service(fast, Path(folder), settings) as port,
            ):
                for clients in options.clients:
                    measure_http(port, picture, clients, 2)
                    name = f"{'fast path' if fast else 'default flags'}, {clients} clients"
                    result = measure_http(port, picture, clients, options.seconds)
                    results.setdefault(name, []).append(result)
                    ratios.setdefault(name, []).append(result.rate / loop.rate)
    print("| what | images/s | p50 ms | p99 ms | of the loop |\n| --- | --- | --- | --- | --- |")
    for name, rounds in results.items():
        middle = sorted(rounds, key=lambda result: result.rate)[len(rounds) // 2]
        ratio = f"{statistics.median(ratios[name]):.2f}" if name in ratios else "1"
        print(
            f"| {name} | {middle.rate:.1f} | {middle.p50_ms:.1f} | {middle.p99_ms:.1f} | {ratio} |"
        )


if __name__ == "__main__":
    main()
