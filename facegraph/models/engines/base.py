"""The seam between a model file and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from facegraph.types import FloatArray

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
Precision = Literal["f32", "bf16"]
Accelerator = Literal["auto", "cpu", "cuda"]

Shape = tuple[int | None, ...]
"""Of a network's input; None where a dimension is free."""


class Engine(Protocol):
    """A loaded network with one input. Threads share it; a run holds the GIL only to copy.

    name: ``onnxruntime``, ``openvino`` or ``tensorrt``
    provider: what is really in use, as that library calls it
    best_batch: rows in one run beyond which more gain nothing
    choice: what it was chosen by, where that was measured
    """

    name: str
    provider: str
    input_shape: Shape
    best_batch: int
    choice: Choice | None

    def run(self, batch: FloatArray) -> list[FloatArray]:
        """Every output of the network, in the order of its file; the arrays are the caller's.

        Raises ModelUnavailable where the run fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that could run a model. ``label`` names engine and precision, for people."""

    label: str
    open: Callable[[], Engine]
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What was measured of a model's candidates, and which of them runs it.

    batch: rows in one run
    ms: least milliseconds of a run of one row, by label
    refused: why a candidate may not run the model, by label
    """

    label: str
    batch: int
    ms: dict[str, float]
    refused: dict[str, str]

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 1024:
            raise ValueError(f"{self.batch} rows in one run")

    def __str__(self) -> str:
        told = [f"{label} {ms:.2f} ms" for label, ms in self.ms.items()]
        told += [f"{label} refused: {why}" for label, why in self.refused.items()]
        return f"{self.label}, {self.batch} at a time ({'; '.join(told)})"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model's candidates are compared on.

    inputs: from the network's input shape, real inputs, each of one row (or of as many as the
        network takes), the first of the size that matters most
    folder: where choices are remembered, and what TensorRT builds
    batches: how many rows may run together, 1 among them
    shapes: from the network's input shape, all the sizes it will be asked for
    """

    inputs: Callable[[Shape], Sequence[FloatArray]]
    folder: Path
    batches: tuple[int, ...] = (1,)
    shapes: Callable[[Shape], Sequence[tuple[int, ...]]] = lambda _: ()


def largest_first(n: int, sizes: Sequence[int]) -> list[int]:
    """``n`` rows as runs of the largest of ``sizes`` (1 is among them), then of the next ones.

    So an engine that compiles itself for each size meets these only.
    """
    runs = []
    for size in sorted(sizes, reverse=True):
        runs += [size] * (n // size)
        n %= size
    return runs
