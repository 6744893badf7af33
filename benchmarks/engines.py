"""Milliseconds a run of every engine on every face model here, and how far it agrees.

    .venv/bin/python -m benchmarks engines [--threads 1 2] [--gpu-memory-gib 2]

The models are those of the installed face packs and, where `FACEGRAPH_TEST_ASSETS` names a folder,
those in its `detect/` and `embed/`. Engines take turns; the least time counts. With one thread on
the CPU that is processor time, which neighbours do not lengthen; else it is the clock's. Agreement
is with ONNX Runtime in float32 on real faces: the least cosine of an embedding, the largest
difference of a detector's outputs in parts of their largest; a choice by itself asks for 0.999 of
an embedder and 0.001 of a detector.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facegraph.config import settings_from
from facegraph.errors import FacegraphError
from facegraph.faces.heads import HEADS
from facegraph.faces.trials import detector_trial, embedder_trial
from facegraph.models.engines.base import Engine, Trial
from facegraph.models.engines.candidates import REFERENCE, Wanted, on_cpu, on_gpu, reference
from facegraph.models.engines.trial import Outputs, largest_difference, least_cosine, timed
from facegraph.models.packfile import FacePackSpec
from facegraph.models.packs import EmbedderModel, find_pack
from facegraph.models.places import ModelFile, is_there, packs_of
from facegraph.types import FloatArray

Agreement = Callable[[Outputs, Outputs], float]


@dataclass(frozen=True, slots=True)
class Model:
    """A file, what it is tried on, and how its outputs are compared."""

    path: Path
    trial: Trial
    agreement: Agreement

    @property
    def batches(self) -> Sequence[int]:
        return self.trial.batches


def models(folder: Path) -> Iterator[Model]:
    """Those of the installed packs, then those of the test assets."""
    settings = settings_from()
    for name, place in packs_of(FacePackSpec, settings).items():
        if is_there(place):
            pack = find_pack(settings.model_copy(update={"face_pack": name}))
            yield _detector(pack.detector.file.path, pack.detector.kind, folder)
            yield _embedder(pack.embedder, folder)
    if root := os.environ.get("FACEGRAPH_TEST_ASSETS"):
        for path in sorted(Path(root, "detect").glob("*.onnx")):
            yield _detector(path, "yunet" if "yunet" in path.name else "scrfd", folder)
        for path in sorted(Path(root, "embed").glob("*.onnx")):
            file = ModelFile(path.name, path, "", known=False)
            scale = (127.5, 127.5, 127.5)
            yield _embedder(EmbedderModel(path.stem, file, 0, "rgb", scale, scale), folder)


def _detector(path: Path, kind: str, folder: Path) -> Model:
    return Model(path, detector_trial(HEADS[kind], 16, folder), largest_difference)


def _embedder(model: EmbedderModel, folder: Path) -> Model:
    return Model(model.file.path, embedder_trial(model, folder), least_cosine)


def rows_of(model: Model, threads: Sequence[int], memory: int | None) -> Iterator[list[str]]:
    """One row of the table for each engine and number of rows in a run."""
    columns: list[dict[tuple[str, int], float]] = []
    agreements: dict[str, float] = {}
    inputs: Sequence[FloatArray] = ()
    for count in threads:
        wanted = Wanted(model.path, threads=count, gpu_memory_bytes=memory, trial=model.trial)
        engines = _opened(wanted)
        inputs = model.trial.inputs(engines[REFERENCE].input_shape)
        agreements = {
            label: _agreement(engine, engines[REFERENCE], inputs, model.agreement)
            for label, engine in engines.items()
        }
        columns.append(_times(engines, inputs, model.batches, count))
    for label, batch in columns[0]:
        ms = [f"{column.get((label, batch), math.nan) / batch:.2f}" for column in columns]
        said = f"{agreements[label]:.5f}"
        shape = "×".join(str(side) for side in inputs[0].shape[2:])
        yield [model.path.name, shape, label, str(batch), *ms, said]


def _opened(wanted: Wanted) -> dict[str, Engine]:
    """All that this machine has, the reference first; what does not open is told."""
    engines: dict[str, Engine] = {}
    for candidate in (reference(wanted), *on_gpu(wanted), *on_cpu(wanted)):
        if candidate.label not in engines:
            try:
                engines[candidate.label] = candidate.open()
            except FacegraphError as error:
                print(f"{wanted.model!s} without {candidate.label}: {error}")
    return engines


def _agreement(
    engine: Engine, plain: Engine, inputs: Sequence[FloatArray], agreement: Agreement
) -> float:
    """The worst over all inputs: a cosine falls, a difference grows."""
    told = [agreement(engine.run(one), plain.run(one)) for one in inputs]
    return min(told) if agreement is least_cosine else max(told)


def _times(
    engines: dict[str, Engine], inputs: Sequence[FloatArray], batches: Sequence[int], threads: int
) -> dict[tuple[str, int], float]:
    runs = {}
    for label, engine in engines.items():
        for batch in batches if engine.input_shape[0] is None else (1,):
            together = np.concatenate([inputs[at % len(inputs)] for at in range(batch)])
            engine.run(together)  # compiles
            runs[label, batch] = partial(engine.run, together)
    gpu = any(engine.best_batch > 1 for engine in engines.values())
    clock = time.process_time if threads == 1 and not gpu else time.perf_counter
    return timed(runs, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--gpu-memory-gib", type=float)
    options = parser.parse_args()
    memory = None if options.gpu_memory_gib is None else int(options.gpu_memory_gib * 2**30)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; ms a row\n")
    head = ["model", "input", "engine", "rows", *(f"{n} threads" for n in options.threads)]
    print(f"| {' | '.join([*head, 'agreement'])} |\n|{' --- |' * (len(head) + 1)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder)):
            for row in rows_of(model, options.threads, memory):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
