"""The baseline: the same models in a plain loop, in processes that wait between turns.

With the test assets it is what a reader of insightface's documentation would write: `FaceAnalysis`
on the same files, with one detector size. Without them it runs this project's engines, since
insightface cannot run the default pack.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.packs import DETECTOR, EMBEDDER, THRESHOLD
from facegraph.config import DetectorTuning, settings_from
from facegraph.types import FloatArray

TURN_TIMEOUT_S = 120
DETECTOR_SIZE = (640, 640)

Look = Callable[[bytes], FloatArray]
"""Embeddings, (n, d) float32 of length 1, of all faces in a compressed image."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the cores are shared out."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} × {self.threads}"


SHAPES = (Shape(2, 1), Shape(1, 2))


@dataclass(frozen=True, slots=True)
class Seen:
    """One image: its place, seconds it took, how many faces, who was recognised."""

    place: int
    took_s: float
    faces: int
    who: frozenset[str]


def random_embeddings(n: int, dimension: int) -> FloatArray:
    """(n, dimension) float32 of length 1, the same every time."""
    rows = np.random.default_rng(0).normal(size=(n, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Loop:
    """Processes that decode, detect, align, embed and search among ``people`` and a crowd."""

    def __init__(
        self, gallery: int, people: Mapping[str, Path], shape: Shape, assets: Path | None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fg-loop-")
        root = None if assets is None else _models(Path(self._folder.name), assets)
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(shape.processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, gallery, people, shape.threads, root), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            _receive(pipe)  # warm

    def run(self, paths: Sequence[Path], seconds: float) -> tuple[list[Seen], float]:
        """What all processes saw, and their CPU seconds."""
        for pipe in self._pipes:
            pipe.send((paths, seconds))
        parts = [_receive(pipe) for pipe in self._pipes]
        return [each for seen, _ in parts for each in seen], sum(cpu for _, cpu in parts)

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
        self._folder.cleanup()


def _receive(pipe: Connection) -> tuple[list[Seen], float]:
    if not pipe.poll(TURN_TIMEOUT_S):
        raise SystemExit("a process of the loop does not answer")
    answer: tuple[list[Seen], float] = pipe.recv()
    return answer


def _work(
    pipe: Connection, crowd: int, people: Mapping[str, Path], threads: int, root: Path | None
) -> None:
    look = _facegraph(threads) if root is None else _insightface(root, threads)
    names = list(people)
    known = np.stack([look(path.read_bytes())[0] for path in people.values()])
    rows = np.concatenate([known, random_embeddings(crowd - len(known), known.shape[1])])
    pipe.send(([], 0.0))
    while True:
        paths, seconds = pipe.recv()
        images = [path.read_bytes() for path in paths]
        seen: list[Seen] = []
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            place = len(seen) % len(images)
            embeddings = look(images[place])
            who = [_name(rows @ embedding, names) for embedding in embeddings]
            took = time.perf_counter() - began
            seen.append(Seen(place, took, len(who), frozenset(filter(None, who))))
        pipe.send((seen, time.process_time() - cpu))


def _name(similarities: FloatArray, names: Sequence[str]) -> str | None:
    best = int(similarities.argmax())
    sure = similarities[best] >= THRESHOLD and best < len(names)
    return names[best] if sure else None


def _models(root: Path, assets: Path) -> Path:
    """``root``, where FaceAnalysis finds the two files as the models called "pair"."""
    folder = root / "models" / "pair"
    folder.mkdir(parents=True)
    for file in (DETECTOR, EMBEDDER):
        (folder / Path(file).name).symlink_to((assets / file).resolve())
    return root


def _insightface(root: Path, threads: int) -> Look:
    """FaceAnalysis from the bytes on; each process's engines use ``threads`` threads."""
    import cv2
    import onnxruntime
    from insightface.app import FaceAnalysis

    cv2.setNumThreads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    analysis: Any = FaceAnalysis(
        "pair",
        root=str(root),
        allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
        sess_options=options,
    )
    analysis.prepare(ctx_id=-1, det_size=DETECTOR_SIZE)

    def look(image: bytes) -> FloatArray:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        faces = analysis.get(pixels)
        return np.asarray([face.normed_embedding for face in faces], np.float32)

    return look


def _facegraph(threads: int) -> Look:
    """The default pack in ONNX Runtime; its two models use ``threads`` threads each."""
    from facegraph.faces.detection import Detector
    from facegraph.faces.embedding import EmbeddingModel
    from facegraph.models.packs import find_pack

    pack = find_pack(settings_from())
    detector = Detector(pack, DetectorTuning(), engine="onnxruntime", threads=threads)
    embedder = EmbeddingModel(pack, engine="onnxruntime", threads=threads)

    def look(image: bytes) -> FloatArray:
        detection = detector.detect(image, max_faces=100, crops=True)
        return np.asarray(embedder.embed(detection.crops), np.float32)

    return look
