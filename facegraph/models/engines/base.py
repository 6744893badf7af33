"""The seam between a model file and what runs it."""

from __future__ import annotations

from typing import Literal, Protocol

from facegraph.types import FloatArray

EngineName = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["f32", "bf16"]
Accelerator = Literal["auto", "cpu", "cuda"]


class Engine(Protocol):
    """A loaded network with one input. Threads share it; a run holds the GIL only to copy.

    name: ``onnxruntime`` or ``openvino``
    provider: what is really in use, as that library calls it
    input_shape: None where a dimension is free
    best_batch: rows in one run beyond which more gain nothing; on a CPU this is 1
    """

    name: str
    provider: str
    input_shape: tuple[int | None, ...]
    best_batch: int

    def run(self, batch: FloatArray) -> list[FloatArray]:
        """Every output of the network, in the order of its file; the arrays are the caller's.

        Raises ModelUnavailable where the run fails.
        """
        ...
