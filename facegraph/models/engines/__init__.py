"""Which engine runs a model.

With a GPU ``auto`` takes ONNX Runtime with CUDA. On the CPU it takes OpenVINO, where that is
installed and loads the model, because it computes in bfloat16 where the processor can: that turns
an embedding by a cosine of 0.9999 and halves its time. A detector must be ``exact``, since rounded
landmarks turn embeddings by up to 0.97; in float32 ONNX Runtime is as fast and needs no compiling.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from facegraph.errors import ConfigError
from facegraph.models.engines.base import Accelerator, Engine, EngineName, Precision
from facegraph.models.engines.onnxruntime import OnnxRuntimeEngine, cuda_available

__all__ = ["Accelerator", "Engine", "EngineName", "open_engine"]

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
) -> Engine:
    """Load ``model`` (a path, or a serialised ONNX graph).

    threads: CPU threads of one run; concurrency: runs at once without waiting
    exact: float32 throughout
    Raises ConfigError where what was asked for cannot be had; ``auto`` takes the next best.
    """
    if engine == "openvino" and accelerator == "cuda":
        raise ConfigError("engine: openvino runs on the CPU; accelerator: cuda needs onnxruntime")
    if engine != "openvino" and accelerator != "cpu":
        gpu = _open_cuda(model, accelerator == "cuda", threads, gpu_memory_bytes)
        if gpu is not None:
            return gpu
    if engine == "openvino" or (engine == "auto" and not exact):
        precision: Precision | None = "f32" if exact else None
        cpu = _open_openvino(model, engine == "openvino", threads, concurrency, precision)
        if cpu is not None:
            return cpu
    return OnnxRuntimeEngine(model, cuda=False, threads=threads)


def _open_cuda(
    model: Path | bytes, required: bool, threads: int, memory_bytes: int | None
) -> Engine | None:
    if not cuda_available():
        if required:
            raise ConfigError("accelerator: cuda needs the package onnxruntime-gpu")
        return None
    try:
        return OnnxRuntimeEngine(model, cuda=True, threads=threads, gpu_memory_bytes=memory_bytes)
    except ConfigError as error:
        if required:
            raise
        log.warning("no CUDA, going on with the CPU: %s", error)
        return None


def _open_openvino(
    model: Path | bytes,
    required: bool,
    threads: int,
    concurrency: int,
    precision: Precision | None,
) -> Engine | None:
    if importlib.util.find_spec("openvino") is None:
        if required:
            raise ConfigError("engine: openvino needs the package openvino")
        return None
    from facegraph.models.engines.openvino import OpenVinoEngine

    try:
        return OpenVinoEngine(model, threads=threads, concurrency=concurrency, precision=precision)
    except ConfigError as error:
        if required:
            raise
        log.warning("going on with onnxruntime: %s", error)
        return None
