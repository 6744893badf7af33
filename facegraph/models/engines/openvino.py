"""OpenVINO, on the CPU.

Every input shape gets a network compiled for exactly that shape: a third faster than one with
free dimensions.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.models.engines.base import Choice, Precision
from facegraph.types import FloatArray

# Importing openvino sends an event over the network and writes a client id into the home
# directory. Without this package it takes its own stub, which does nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

MAX_SHAPES = 8
"""Compiled networks kept; the one used longest ago goes first. Nothing here needs more."""


class OpenVinoEngine:
    """A model compiled once per input shape, with ``concurrency`` requests for each."""

    name = "openvino"

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int,
        concurrency: int,
        precision: Precision | None = None,
    ) -> None:
        """``precision`` None takes bf16 where the processor has it.

        Raises ConfigError where OpenVINO cannot load the model.
        """
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(model if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            raise ConfigError(f"openvino cannot load the model: {error}") from error
        precision = precision or ("bf16" if computes_bf16(self._core) else "f32")
        self.provider = f"CPU {precision}"
        self.best_batch = 1
        self.choice: Choice | None = None
        self.input_shape = tuple(
            None if side.is_dynamic else side.get_length()
            for side in self._model.input(0).partial_shape
        )
        self._concurrency = concurrency
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": concurrency,
            "INFERENCE_NUM_THREADS": threads * concurrency,
            # Each process would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()

    def run(self, batch: FloatArray) -> list[FloatArray]:
        return self._compiled_for(batch.shape).run(batch)

    def _compiled_for(self, shape: tuple[int, ...]) -> _Compiled:
        with self._lock:
            compiled = self._compiled.pop(shape, None) or self._compile(shape)
            self._compiled[shape] = compiled
            if len(self._compiled) > MAX_SHAPES:
                self._compiled.popitem(last=False)
            return compiled

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = self._model.clone()
        try:
            model.reshape(list(shape))
            return _Compiled(
                self._core.compile_model(model, "CPU", self._options), self._concurrency
            )
        except RuntimeError as error:
            raise ModelUnavailable(f"openvino cannot run {shape}: {error}") from error


def computes_bf16(core: openvino.Core | None = None) -> bool:
    """Whether the processor multiplies bfloat16 by itself (AMX, AVX-512 BF16)."""
    core = core or openvino.Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Compiled:
    """One compiled network and its requests; a thread that finds none free waits for one."""

    def __init__(self, model: openvino.CompiledModel, concurrency: int) -> None:
        self._outputs = len(model.outputs)
        self._idle: queue.LifoQueue[openvino.InferRequest] = queue.LifoQueue()
        for _ in range(concurrency):
            self._idle.put(model.create_infer_request())

    def run(self, batch: FloatArray) -> list[FloatArray]:
        request = self._idle.get()
        try:
            try:
                request.infer([batch], share_inputs=True)
            except RuntimeError as error:
                raise ModelUnavailable(f"the model could not run: {error}") from error
            return [
                np.array(request.get_output_tensor(at).data, np.float32)
                for at in range(self._outputs)
            ]
        finally:
            self._idle.put(request)
