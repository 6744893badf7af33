"""ONNX Runtime, on the CPU and on CUDA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.types import FloatArray

# Read once, when the library loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

ERRORS_ONLY = 3
"""Log level: SCRFD files declare fixed output sizes and warn on every run of another size."""


class OnnxRuntimeEngine:
    """A session. Sessions are safe to run from several threads at once."""

    name = "onnxruntime"

    def __init__(
        self, model: Path | bytes, *, cuda: bool, threads: int, gpu_memory_bytes: int | None = None
    ) -> None:
        """``gpu_memory_bytes`` caps this session's arena on the GPU.

        Raises ConfigError where the model does not load or CUDA was asked for and is not active.
        """
        providers: list[Any] = [CPU]
        if cuda:
            onnxruntime.preload_dlls()
            providers = [(CUDA, _cuda_options(gpu_memory_bytes)), CPU]
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                sess_options=_session_options(threads),
                providers=providers,
            )
        except Exception as error:  # its exceptions share no public base class
            raise ConfigError(f"onnxruntime cannot load {_called(model)}: {error}") from error
        self.provider = self._session.get_providers()[0]
        if cuda and self.provider != CUDA:
            raise ConfigError(
                f"accelerator: CUDA is not usable, onnxruntime fell back to {self.provider}"
            )
        source = self._session.get_inputs()[0]
        self._input = source.name
        self.input_shape = tuple(side if isinstance(side, int) else None for side in source.shape)
        self.best_batch = 64 if cuda else 1

    def run(self, batch: FloatArray) -> list[FloatArray]:
        try:
            outputs = self._session.run(None, {self._input: batch})
        except Exception as error:  # as above; memory of a GPU that ran out, for one
            raise ModelUnavailable(f"the model could not run: {error}") from error
        return [np.asarray(output, np.float32) for output in outputs]


def cuda_available() -> bool:
    """Whether this onnxruntime was built with CUDA; a session shows whether it works."""
    return CUDA in onnxruntime.get_available_providers()


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Spinning threads take the cores from the other replicas on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _cuda_options(memory_bytes: int | None) -> dict[str, Any]:
    # TF32 rounds to 10 bits: embeddings would no longer agree with those made on a CPU.
    options: dict[str, Any] = {"use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
    if memory_bytes is not None:
        options["gpu_mem_limit"] = memory_bytes
    return options


def _called(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else model.name
