"""Engines and an onnxruntime session that only look like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from facegraph.errors import ConfigError
from facegraph.models.engines.base import Candidate, Choice, Engine, Shape, Trial
from facegraph.types import FloatArray

Network = Callable[[FloatArray], FloatArray]


class FakeClock:
    """Time that passes only where a fake engine says so; seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Computes ``network`` and takes ``ms`` of a run, and ``row_ms`` of each of its rows."""

    provider = "fake"

    def __init__(
        self,
        clock: FakeClock,
        ms: float,
        network: Network,
        *,
        row_ms: float = 0.0,
        batch: int | None = None,
    ) -> None:
        self.name = "fake"
        self.input_shape: Shape = (batch, 3)
        self.best_batch = 1
        self.choice: Choice | None = None
        self._clock, self._ms, self._row_ms, self._network = clock, ms, row_ms, network

    def run(self, batch: FloatArray) -> list[FloatArray]:
        self._clock.now += (self._ms + self._row_ms * len(batch)) / 1000
        return [np.asarray(self._network(batch), np.float32)]


def candidate(label: str, engine: Engine | None) -> Candidate:
    """None does not open."""

    def opened() -> Engine:
        if engine is None:
            raise ConfigError("it is broken")
        return engine

    return Candidate(label, opened)


def trial(folder: Path, batches: tuple[int, ...] = (1,)) -> Trial:
    """Seven rows of three numbers."""
    rows = np.random.default_rng(3).normal(size=(7, 1, 3)).astype(np.float32)
    return Trial(lambda _: list(rows), folder, batches, lambda _: [(1, 3, 112, 112)])


class FakeSession:
    """``onnxruntime.InferenceSession`` on a machine with a GPU: keeps what it was given."""

    opened: list[FakeSession]
    active: Sequence[str]
    network: Network

    def __init__(self, model: Any, sess_options: Any = None, providers: Sequence[Any] = ()) -> None:
        self.options = {p if isinstance(p, str) else p[0]: p for p in providers}
        self.model, self.sess_options, self.providers = model, sess_options, list(providers)
        type(self).opened.append(self)

    def get_providers(self) -> list[str]:
        return [name for name in self.options if name in type(self).active]

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "data", "shape": ["batch", 3, 112, 112]})()]

    def run(self, names: None, feeds: dict[str, FloatArray]) -> list[FloatArray]:
        return [type(self).network(feeds["data"])]


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """An onnxruntime-gpu with CUDA and TensorRT; ``active`` says which of them work."""

    class Session(FakeSession):
        opened: list[FakeSession] = []  # noqa: RUF012 - it is this fixture's alone
        active = (CPU, CUDA, TENSORRT)
        network = staticmethod(lambda batch: batch.reshape(len(batch), -1)[:, :4])

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr("facegraph.models.engines.onnxruntime._loads", lambda _: True)
    return Session
