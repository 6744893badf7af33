"""ONNX Runtime, on the CPU and on a GPU with CUDA or TensorRT."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.models.engines.base import Choice
from facegraph.types import FloatArray

# Read once, when the library loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

ERRORS_ONLY = 3
"""Log level: SCRFD files declare fixed output sizes and warn on every run of another size."""

GPU_BATCH = 64


@dataclass(frozen=True, slots=True)
class TensorRt:
    """How TensorRT builds a network, which takes minutes.

    fp16: halves may be computed in; else float32 throughout
    folder: where what was built is kept for the next start
    input_name, shapes: the network's input, and all the sizes it will be asked for
    """

    fp16: bool
    folder: Path
    input_name: str
    shapes: Sequence[tuple[int, ...]]


class OnnxRuntimeEngine:
    """A session. Sessions are safe to run from several threads at once."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        cuda: bool,
        threads: int,
        gpu_memory_bytes: int | None = None,
        tensorrt: TensorRt | None = None,
    ) -> None:
        """``gpu_memory_bytes`` caps what this session takes of the GPU. With ``tensorrt``, CUDA
        runs what TensorRT cannot.

        Raises ConfigError where the model does not load or what was asked for is not active.
        """
        wanted = TENSORRT if tensorrt else CUDA if cuda else CPU
        self.name = "tensorrt" if tensorrt else "onnxruntime"
        if wanted != CPU:
            onnxruntime.preload_dlls()
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                sess_options=_session_options(threads),
                providers=_providers(wanted, gpu_memory_bytes, tensorrt),
            )
        except Exception as error:  # its exceptions share no public base class
            raise ConfigError(f"onnxruntime cannot load {_called(model)}: {error}") from error
        self.provider = self._session.get_providers()[0]
        if self.provider != wanted:
            raise ConfigError(
                f"accelerator: {wanted.removesuffix('ExecutionProvider')} is not usable, "
                f"onnxruntime fell back to {self.provider}"
            )
        source = self._session.get_inputs()[0]
        self.input_name = str(source.name)
        self.input_shape = tuple(side if isinstance(side, int) else None for side in source.shape)
        self.best_batch = 1 if wanted == CPU else GPU_BATCH
        self.choice: Choice | None = None

    def run(self, batch: FloatArray) -> list[FloatArray]:
        try:
            outputs = self._session.run(None, {self.input_name: batch})
        except Exception as error:  # as above; memory of a GPU that ran out, for one
            raise ModelUnavailable(f"the model could not run: {error}") from error
        return [np.asarray(output, np.float32) for output in outputs]


def cuda_available() -> bool:
    """Whether this onnxruntime was built with CUDA; a session shows whether it works."""
    return CUDA in onnxruntime.get_available_providers()


def tensorrt_available() -> bool:
    """Whether this onnxruntime was built with TensorRT, and TensorRT's library is there.

    onnxruntime-gpu lists the provider on every machine, and prints errors where it lacks the
    library.
    """
    if TENSORRT not in onnxruntime.get_available_providers():
        return False
    # Its rounding of float32 to 10 bits, which no option of the provider turns off.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    try:
        importlib.import_module("tensorrt")  # loads its libraries, which lie in its own folder
    except ImportError:
        return _loads("libnvinfer.so.10")
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Spinning threads take the cores from the other replicas on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(wanted: str, memory_bytes: int | None, tensorrt: TensorRt | None) -> list[Any]:
    if wanted == CPU:
        return [CPU]
    if tensorrt is None:
        return [(CUDA, _cuda_options(memory_bytes)), CPU]
    # The two allocate apart from each other, so each gets half.
    half = None if memory_bytes is None else memory_bytes // 2
    return [(TENSORRT, _tensorrt_options(tensorrt, half)), (CUDA, _cuda_options(half)), CPU]


def _cuda_options(memory_bytes: int | None) -> dict[str, Any]:
    # TF32 rounds to 10 bits: embeddings would no longer agree with those made on a CPU.
    options: dict[str, Any] = {"use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
    if memory_bytes is not None:
        options["gpu_mem_limit"] = memory_bytes
    return options


def _tensorrt_options(wanted: TensorRt, memory_bytes: int | None) -> dict[str, Any]:
    wanted.folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "trt_fp16_enable": wanted.fp16,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(wanted.folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(wanted.folder),
    }
    if memory_bytes is not None:
        options["trt_max_workspace_size"] = memory_bytes
    # Without a profile a request of a new size would wait while the network is built anew.
    sides = list(zip(*wanted.shapes, strict=True))
    for which, pick in (("min", min), ("opt", max), ("max", max)):
        shape = "x".join(str(pick(side)) for side in sides)
        options[f"trt_profile_{which}_shapes"] = f"{wanted.input_name}:{shape}"
    return options


def _called(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else model.name
