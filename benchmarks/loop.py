"""The baseline: the same engines in a plain loop, in processes that wait between turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from facegraph.config import DetectorTuning, settings_from
from facegraph.decisions import similarities
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.models.packs import find_pack
from facegraph.types import FloatArray

PROCESSES = 2
TURN_TIMEOUT_S = 120


def random_embeddings(n: int, dimension: int) -> FloatArray:
    """(n, dimension) float32 of length 1, the same every time."""
    rows = np.random.default_rng(0).normal(size=(n, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Loop:
    """``PROCESSES`` processes with one engine thread each: decode, detect, align, embed, search."""

    def __init__(self, gallery: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, gallery), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            _receive(pipe)  # warm

    def run(self, paths: Sequence[Path], seconds: float) -> list[float]:
        """Seconds each image took, of all processes."""
        for pipe in self._pipes:
            pipe.send((paths, seconds))
        return [took for pipe in self._pipes for took in _receive(pipe)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _receive(pipe: Connection) -> list[float]:
    if not pipe.poll(TURN_TIMEOUT_S):
        raise SystemExit("a process of the loop does not answer")
    answer: list[float] = pipe.recv()
    return answer


def _work(pipe: Connection, gallery: int) -> None:
    settings = settings_from()
    pack = find_pack(settings)
    detector = Detector(pack, DetectorTuning(), engine=settings.engine)
    embedder = EmbeddingModel(pack, engine=settings.engine)
    rows = random_embeddings(gallery, pack.contract.dimension)
    detector.warm_up()
    embedder.warm_up()
    pipe.send([])
    while True:
        paths, seconds = pipe.recv()
        images = [path.read_bytes() for path in paths]
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            detection = detector.detect(images[len(took) % len(images)], max_faces=100, crops=True)
            for embedding in embedder.embed(detection.crops):
                similarities(rows, embedding).argmax()
            took.append(time.perf_counter() - began)
        pipe.send(took)
