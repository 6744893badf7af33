"""The embedder: aligned crops in, L2-normalised vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facegraph.errors import ConfigError
from facegraph.faces.trials import BATCHES, crop_blob, embedder_trial
from facegraph.models.engines import (
    Accelerator,
    EngineName,
    described,
    largest_first,
    open_engine,
)
from facegraph.models.packs import FacePack
from facegraph.types import CROP_SIZE, ByteArray, FloatArray

MIN_NORM = 1e-6
"""A vector shorter than this has no direction; it is answered as zeros, similar to nothing."""


class EmbeddingModel:
    """Embeds crops with a pack's network. Threads share it.

    Crops run together where that was measured to gain and leaves each embedding as it is (a cosine
    of 0.99999 to the crop by itself; the bits are the same on the processors tried), and on a GPU.
    """

    def __init__(
        self,
        pack: FacePack,
        *,
        engine: EngineName = "auto",
        accelerator: Accelerator = "auto",
        threads: int = 1,
        concurrency: int = 1,
        gpu_memory_bytes: int | None = None,
        exact: bool = False,
        engines_dir: Path | None = None,
    ) -> None:
        """``exact``: float32 throughout. ``engines_dir``: the engine and the number of crops in a
        run are chosen by measuring, and remembered there; without it nothing is measured.
        """
        self._pack = pack
        self._engine = open_engine(
            pack.embedder.file.path,
            engine=engine,
            accelerator=accelerator,
            threads=threads,
            concurrency=concurrency,
            gpu_memory_bytes=gpu_memory_bytes,
            exact=exact,
            trial=None if engines_dir is None else embedder_trial(pack.embedder, engines_dir),
        )
        self._fixed = self._engine.input_shape[0]
        self._batch = self._fixed or self._engine.best_batch

    def embed(self, crops: ByteArray) -> FloatArray:
        """(n, 112, 112, 3) uint8 RGB → (n, d) float32 of length 1; n may be 0."""
        if crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"crops: expected n×112×112×3 uint8, got {crops.shape} {crops.dtype}")
        rows, start = [np.zeros((0, self._pack.embedder.dimension), np.float32)], 0
        for size in self._sizes(len(crops)):
            rows.append(self._run(crop_blob(crops[start : start + size], self._pack.embedder)))
            start += size
        return _normalised(np.concatenate(rows))

    def warm_up(self) -> None:
        """Run every size once, so that no request pays for compiling.

        ConfigError where the network's output is not of the pack's dimension.
        """
        every = [size for size in BATCHES if size <= self._batch] if self._compiles else [1]
        for size in every:
            self.embed(np.zeros((size, CROP_SIZE, CROP_SIZE, 3), np.uint8))

    def describe(self) -> dict[str, Any]:
        return {
            "family": self._pack.embedder.family,
            "pack": self._pack.name,
            "file": self._pack.embedder.file.name,
            "sha256": self._pack.embedder.file.sha256,
            "contract": self._pack.contract.id,
            "dimension": self._pack.embedder.dimension,
            "licence": self._pack.licence.name,
            **described(self._engine),
        }

    @property
    def _compiles(self) -> bool:
        """Whether each new number of crops costs the engine time; only OpenVINO's does."""
        return self._engine.name == "openvino" and not self._fixed

    def _sizes(self, n: int) -> Sequence[int]:
        """The runs that ``n`` crops are made of."""
        if self._compiles:
            return largest_first(n, [size for size in BATCHES if size <= self._batch])
        return [min(self._batch, n - start) for start in range(0, n, self._batch)]

    def _run(self, blob: FloatArray) -> FloatArray:
        n = len(blob)
        if self._fixed and n < self._fixed:
            blob = np.concatenate([blob, np.zeros((self._fixed - n, *blob.shape[1:]), np.float32)])
        output = self._engine.run(blob)[0]
        if output.shape != (len(blob), self._pack.embedder.dimension):
            raise ConfigError(
                f"{self._pack.embedder.file.name} gives {output.shape[1:]} numbers a face, "
                f"pack {self._pack.name} says {self._pack.embedder.dimension}"
            )
        return output[:n]


def _normalised(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    sound = np.isfinite(norms) & (norms > MIN_NORM)
    return np.where(sound, rows / np.where(sound, norms, 1), 0).astype(np.float32, copy=False)
