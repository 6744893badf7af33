"""Which engine runs a model.

Where a :class:`Trial` is given, the engine is chosen by measuring: of those that may run the model
and agree with ONNX Runtime in float32, the first that none beats clearly. The choice holds as long
as the process runs, and is remembered for the next one. Without a trial it is the first that opens:
on a GPU ONNX Runtime with CUDA; on a CPU OpenVINO, in bfloat16 where the processor computes in it,
since that turns an embedding by a cosine of 0.9999 and halves its time; for what must be ``exact``
ONNX Runtime in float32. A detector must be: rounded landmarks turn embeddings by up to 0.97.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facegraph.errors import ConfigError
from facegraph.models.engines.base import (
    Accelerator,
    Candidate,
    Choice,
    Engine,
    EngineName,
    Shape,
    Trial,
    largest_first,
)
from facegraph.models.engines.candidates import Wanted, on_cpu, on_gpu, reference
from facegraph.models.engines.memory import Memory, circumstances
from facegraph.models.engines.onnxruntime import GPU_BATCH
from facegraph.models.engines.trial import choose

__all__ = [
    "GPU_BATCH",
    "Accelerator",
    "Engine",
    "EngineName",
    "Shape",
    "Trial",
    "described",
    "largest_first",
    "open_engine",
]

log = logging.getLogger(__name__)


def open_engine(
    model: Path | bytes,
    *,
    engine: EngineName = "auto",
    accelerator: Accelerator = "auto",
    threads: int = 1,
    concurrency: int = 1,
    gpu_memory_bytes: int | None = None,
    exact: bool = False,
    trial: Trial | None = None,
) -> Engine:
    """Load ``model`` (a path, or a serialised ONNX graph).

    threads: CPU threads of one run; concurrency: runs at once without waiting
    exact: float32 throughout
    trial: what to choose the engine by, and the number of rows in a run
    Raises ConfigError where what was asked for cannot be had; ``auto`` takes the next best.
    """
    wanted = Wanted(
        model, engine, accelerator, threads, concurrency, gpu_memory_bytes, exact, trial
    )
    if gpu := on_gpu(wanted):
        try:
            return _opened(wanted, gpu)
        except ConfigError as error:
            if accelerator == "cuda" or engine == "tensorrt":
                raise
            log.warning("no CUDA, going on with the CPU: %s", error)
    return _opened(wanted, on_cpu(wanted))


def described(engine: Engine) -> dict[str, Any]:
    """What ``describe()`` tells of an engine; what was measured only where something was."""
    told: dict[str, Any] = {"engine": engine.name, "provider": engine.provider}
    if (choice := engine.choice) is not None:
        told["measured"] = {
            "chosen": choice.label,
            "batch": choice.batch,
            "ms": choice.ms,
            "refused": choice.refused,
        }
    return told


def _opened(wanted: Wanted, candidates: Sequence[Candidate]) -> Engine:
    trial = wanted.trial
    if trial is None:
        return _first(candidates)[0]
    by_label = {candidate.label: candidate for candidate in candidates}
    memory = Memory(trial.folder, _circumstances(wanted, list(by_label), trial), by_label)
    if (remembered := memory.read()) is not None:
        engine, choice = _as_remembered(by_label, remembered)
        log.info("%s runs on %s, as remembered", _called(wanted.model), choice)
    else:
        mine, measured = _measured(wanted, candidates, trial)
        engine, choice = mine, memory.keep(measured)
        if choice.label != measured.label:  # another process was quicker
            spare = Candidate(measured.label, lambda: mine)
            engine, label = _first([by_label[choice.label], spare])
            choice = choice if label == choice.label else measured
        # A warning, because only those reach the operator.
        log.warning("%s runs on %s", _called(wanted.model), choice)
    engine.choice, engine.best_batch = choice, choice.batch
    return engine


def _first(candidates: Sequence[Candidate]) -> tuple[Engine, str]:
    """The first that opens, and its label; where none does, the first one's ConfigError."""
    errors: dict[str, ConfigError] = {}
    for candidate in candidates:
        try:
            engine = candidate.open()
        except ConfigError as error:
            errors[candidate.label] = error
            continue
        for label, said in errors.items():
            log.warning("%s instead of %s: %s", candidate.label, label, said)
        return engine, candidate.label
    raise next(iter(errors.values()))


def _measured(
    wanted: Wanted, candidates: Sequence[Candidate], trial: Trial
) -> tuple[Engine, Choice]:
    alone = wanted.threads == 1 and not any(one.gpu for one in candidates)
    return choose(
        candidates,
        reference(wanted).open(),
        trial,
        exact=wanted.exact,
        # One thread's work is told best by its processor time: neighbours do not count in it.
        clock=time.process_time if alone else time.perf_counter,
    )


def _as_remembered(candidates: Mapping[str, Candidate], choice: Choice) -> tuple[Engine, Choice]:
    """The engine of ``choice``, and what is then in use.

    Where it does not open, for now perhaps, since a GPU's memory may be full, that is the quickest
    of the others that agreed. What is written stays, so that later replicas run as earlier ones do.
    """
    labels = [choice.label, *sorted(choice.ms, key=choice.ms.__getitem__)]
    found = [candidates[label] for label in dict.fromkeys(labels) if label in candidates]
    engine, label = _first(found)
    if label != choice.label:
        choice = replace(choice, label=label, batch=engine.best_batch)
    return engine, choice


def _circumstances(wanted: Wanted, labels: Sequence[str], trial: Trial) -> dict[str, Any]:
    return circumstances(
        wanted.model,
        candidates=labels,
        exact=wanted.exact,
        threads=wanted.threads,
        concurrency=wanted.concurrency,
        batches=trial.batches,
    )


def _called(model: Path | bytes) -> str:
    return "a model" if isinstance(model, bytes) else model.name
