"""A short measured warm-up: which of a model's candidates runs it, and how many rows at a time.

Every candidate first runs real inputs and must agree with ONNX Runtime in float32. Those that do
are timed in turns, so that a busy moment hits all of them, and the least time of each counts. The
first keeps its place unless another is clearly faster: noise shall not decide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.models.engines.base import Candidate, Choice, Engine, Trial
from facegraph.models.engines.candidates import REFERENCE
from facegraph.types import FloatArray

CLEARLY = 0.9
"""A candidate takes the first one's place with at most this part of its time."""

BATCH_GAIN = 0.85
"""A larger batch must cost at most this part of a row by itself."""

LEAST_COSINE = 0.999
"""Of each output row to the reference's, where rounding is allowed."""

LEAST_BATCH_COSINE = 0.99999
"""Of a row in a batch to the same row alone."""

EXACT = 1e-3
"""Where rounding is not allowed: largest difference, in parts of the largest output."""

TIMED_S = 0.25
ROUNDS = range(3, 16)
"""Turns of timing: at least and at most; between them ``TIMED_S`` decides."""

REFERENCE_S = 0.6
"""Large models are compared on fewer inputs, at least two."""

Outputs = Sequence[FloatArray]
Clock = Callable[[], float]

K = TypeVar("K")


def choose(
    candidates: Sequence[Candidate], reference: Engine, trial: Trial, *, exact: bool, clock: Clock
) -> tuple[Engine, Choice]:
    """The opened engine and what was measured; ConfigError where no candidate may run the model."""
    inputs = trial.inputs(reference.input_shape)
    wanted = _reference_outputs(reference, inputs)
    refused: dict[str, str] = {}
    agreeing: dict[str, Engine] = {}
    for candidate in candidates:
        try:
            engine = reference if candidate.label == REFERENCE else candidate.open()
            if engine is not reference:
                _compare(engine, inputs, wanted, exact)
            agreeing[candidate.label] = engine
        except (ConfigError, ModelUnavailable) as error:
            refused[candidate.label] = str(error)
    if not agreeing:
        why = "; ".join(f"{label}: {said}" for label, said in refused.items())
        raise ConfigError(f"no engine may run the model: {why}")
    ms = timed({label: partial(one.run, inputs[0]) for label, one in agreeing.items()}, clock)
    label = _fastest(ms)
    engine = agreeing[label]
    batch = engine.best_batch
    if batch == 1 and len(trial.batches) > 1 and engine.input_shape[0] is None:
        batch = best_batch(engine, inputs, trial.batches, clock)
    return engine, Choice(label, batch, {name: round(t, 3) for name, t in ms.items()}, refused)


def best_batch(
    engine: Engine, rows: Sequence[FloatArray], batches: Sequence[int], clock: Clock
) -> int:
    """The size that is cheapest per row, where it gains enough and leaves rows as they are."""
    alone = [engine.run(row) for row in rows]
    runs = {}
    for n in sorted(batches):
        together = np.concatenate([rows[at % len(rows)] for at in range(n)])
        outputs = engine.run(together)
        same = all(
            least_cosine(_row(outputs, at), alone[at % len(rows)]) >= LEAST_BATCH_COSINE
            for at in range(n)
        )
        if same:
            runs[n] = together
    ms = timed({n: partial(engine.run, batch) for n, batch in runs.items()}, clock)
    each = {n: took / n for n, took in ms.items()}
    gaining = {n: took for n, took in each.items() if took <= BATCH_GAIN * each[1]}
    return min(gaining, key=lambda n: gaining[n], default=1)


def _reference_outputs(reference: Engine, inputs: Sequence[FloatArray]) -> list[Outputs]:
    outputs: list[Outputs] = []
    end = time.perf_counter() + REFERENCE_S
    for one in inputs:
        outputs.append(reference.run(one))
        if len(outputs) >= 2 and time.perf_counter() > end:
            break
    return outputs


def _compare(
    engine: Engine, inputs: Sequence[FloatArray], wanted: Sequence[Outputs], exact: bool
) -> None:
    """ConfigError where the engine does not agree with the reference."""
    for one, want in zip(inputs, wanted, strict=False):
        got = engine.run(one)
        if [part.shape for part in got] != [part.shape for part in want]:
            raise ConfigError("its outputs have other shapes than onnxruntime's")
        if exact:
            if (off := largest_difference(got, want)) > EXACT:
                raise ConfigError(f"it differs from onnxruntime by {off:.4f}")
        elif (cosine := least_cosine(got, want)) < LEAST_COSINE:
            raise ConfigError(f"a cosine of {cosine:.4f} to onnxruntime's float32")


def largest_difference(got: Outputs, want: Outputs) -> float:
    """In parts of each output's largest value, or of 1; not a number counts as infinite."""
    parts = [
        np.abs(one - other).max(initial=0) / max(1.0, float(np.abs(other).max(initial=0)))
        for one, other in zip(got, want, strict=True)
    ]
    return float(np.nan_to_num(max(parts), nan=np.inf))


def least_cosine(got: Outputs, want: Outputs) -> float:
    cosines = [
        float(one.ravel() @ other.ravel())
        / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
        for one, other in zip(got, want, strict=True)
    ]
    return float(np.nan_to_num(min(cosines), nan=-1.0))


def _row(outputs: Outputs, at: int) -> Outputs:
    return [output[at : at + 1] for output in outputs]


def timed(runs: Mapping[K, Callable[[], Outputs]], clock: Clock) -> dict[K, float]:
    """The least milliseconds of each, taken in turns."""
    least = dict.fromkeys(runs, math.inf)
    end = time.perf_counter() + TIMED_S
    for turn in range(ROUNDS.stop):
        if turn >= ROUNDS.start and time.perf_counter() > end:
            break
        for key, run in runs.items():
            began = clock()
            run()
            least[key] = min(least[key], 1000 * (clock() - began))
    return least


def _fastest(ms: dict[str, float]) -> str:
    first = next(iter(ms))
    fastest = min(ms, key=lambda label: ms[label])
    return fastest if ms[fastest] <= CLEARLY * ms[first] else first
