"""Which engines may run a model here, the one to take unless another is clearly faster first."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from facegraph.errors import ConfigError
from facegraph.models.engines.base import (
    Accelerator,
    Candidate,
    Engine,
    EngineName,
    Precision,
    Trial,
)
from facegraph.models.engines.onnxruntime import (
    OnnxRuntimeEngine,
    TensorRt,
    cuda_available,
    tensorrt_available,
)

REFERENCE = "onnxruntime float32"
"""The label of what every other candidate must agree with."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model is opened for; :func:`facegraph.models.engines.open_engine` has the words."""

    model: Path | bytes
    engine: EngineName = "auto"
    accelerator: Accelerator = "auto"
    threads: int = 1
    concurrency: int = 1
    gpu_memory_bytes: int | None = None
    exact: bool = False
    trial: Trial | None = None


def reference(wanted: Wanted) -> Candidate:
    """ONNX Runtime on the CPU, in float32: what the model means."""
    return Candidate(REFERENCE, partial(_onnxruntime, wanted))


def on_gpu(wanted: Wanted) -> list[Candidate]:
    """Empty where a GPU is not wanted, or not to be had and not insisted on.

    Raises ConfigError where it is insisted on.
    """
    if wanted.engine == "openvino":
        if wanted.accelerator == "cuda":
            raise ConfigError(
                "engine: openvino runs on the CPU; accelerator: cuda needs onnxruntime or tensorrt"
            )
        return []
    if wanted.engine == "tensorrt" and wanted.accelerator == "cpu":
        raise ConfigError("engine: tensorrt needs a GPU; accelerator is cpu")
    if wanted.accelerator == "cpu":
        return []
    if not cuda_available():
        if wanted.accelerator == "cuda" or wanted.engine == "tensorrt":
            raise ConfigError(f"{_insisted(wanted)} needs the package onnxruntime-gpu")
        return []
    return _gpu(wanted)


def _gpu(wanted: Wanted) -> list[Candidate]:
    plain = Candidate("onnxruntime CUDA", partial(_onnxruntime, wanted, cuda=True), gpu=True)
    # TensorRT builds anew, for minutes, at each size that it was not told beforehand.
    if wanted.engine == "onnxruntime" or wanted.trial is None:
        return [plain]
    if not tensorrt_available():
        if wanted.engine == "tensorrt":
            raise ConfigError("engine: tensorrt needs TensorRT 10 (the package tensorrt)")
        return [plain]
    rounded = Candidate(
        "tensorrt float16", partial(_tensorrt, wanted, wanted.trial, fp16=True), gpu=True
    )
    exact = Candidate(
        "tensorrt float32", partial(_tensorrt, wanted, wanted.trial, fp16=False), gpu=True
    )
    found = [exact] if wanted.exact else [rounded, exact]
    return found if wanted.engine == "tensorrt" else [plain, *found]


def on_cpu(wanted: Wanted) -> list[Candidate]:
    """Raises ConfigError where the engine that was named is not installed."""
    if wanted.engine == "tensorrt":
        raise ConfigError("engine: tensorrt needs a GPU")
    plain = reference(wanted)
    if wanted.engine == "onnxruntime":
        return [plain]
    if importlib.util.find_spec("openvino") is None:
        if wanted.engine == "openvino":
            raise ConfigError("engine: openvino needs the package openvino")
        return [plain]
    from facegraph.models.engines.openvino import computes_bf16

    exact = Candidate("openvino float32", partial(_openvino, wanted, "f32"))
    rounded = Candidate("openvino bfloat16", partial(_openvino, wanted, "bf16"))
    found = [exact] if wanted.exact or not computes_bf16() else [rounded, exact]
    if wanted.engine == "openvino":
        return found
    # In float32 ONNX Runtime is as fast and needs no compiling.
    return [plain, *found] if wanted.exact else [*found, plain]


def _insisted(wanted: Wanted) -> str:
    return "engine: tensorrt" if wanted.engine == "tensorrt" else "accelerator: cuda"


def _onnxruntime(wanted: Wanted, *, cuda: bool = False) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(
        wanted.model,
        cuda=cuda,
        threads=wanted.threads,
        gpu_memory_bytes=wanted.gpu_memory_bytes if cuda else None,
    )


def _tensorrt(wanted: Wanted, trial: Trial, *, fp16: bool) -> Engine:
    plain = _onnxruntime(wanted)  # knows the input
    shapes = trial.shapes(plain.input_shape)
    return OnnxRuntimeEngine(
        wanted.model,
        cuda=True,
        threads=wanted.threads,
        gpu_memory_bytes=wanted.gpu_memory_bytes,
        tensorrt=TensorRt(fp16, trial.folder / "tensorrt", plain.input_name, shapes),
    )


def _openvino(wanted: Wanted, precision: Precision) -> Engine:
    from facegraph.models.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(
        wanted.model, threads=wanted.threads, concurrency=wanted.concurrency, precision=precision
    )
