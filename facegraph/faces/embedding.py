"""The embedder: aligned crops in, L2-normalised vectors out."""

from __future__ import annotations

from typing import Any

import numpy as np

from facegraph.errors import ConfigError
from facegraph.models.engines import Accelerator, EngineName, open_engine
from facegraph.models.packs import EmbedderModel, FacePack
from facegraph.types import CROP_SIZE, ByteArray, FloatArray

MIN_NORM = 1e-6
"""A vector shorter than this has no direction; it is answered as zeros, similar to nothing."""


class EmbeddingModel:
    """Embeds crops with a pack's network. Threads share it.

    On a CPU crops run one by one, which costs no time (docs/models.md has the figures) and makes
    an embedding independent of its batch; on a GPU they run together.
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
    ) -> None:
        self._pack = pack
        self._engine = open_engine(
            pack.embedder.file.path,
            engine=engine,
            accelerator=accelerator,
            threads=threads,
            concurrency=concurrency,
            gpu_memory_bytes=gpu_memory_bytes,
        )
        self._batch = self._engine.input_shape[0] or self._engine.best_batch

    def embed(self, crops: ByteArray) -> FloatArray:
        """(n, 112, 112, 3) uint8 RGB → (n, d) float32 of length 1; n may be 0."""
        if crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"crops: expected n×112×112×3 uint8, got {crops.shape} {crops.dtype}")
        model = self._pack.embedder
        rows = [
            self._run(_blob(crops[start : start + self._batch], model))
            for start in range(0, len(crops), self._batch)
        ]
        return _normalised(np.concatenate([np.zeros((0, model.dimension), np.float32), *rows]))

    def warm_up(self) -> None:
        """Run once; ConfigError where the network's output is not of the pack's dimension."""
        self.embed(np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8))

    def describe(self) -> dict[str, Any]:
        return {
            "family": self._pack.embedder.family,
            "pack": self._pack.name,
            "file": self._pack.embedder.file.name,
            "sha256": self._pack.embedder.file.sha256,
            "contract": self._pack.contract.id,
            "dimension": self._pack.embedder.dimension,
            "licence": self._pack.licence.name,
            "engine": self._engine.name,
            "provider": self._engine.provider,
        }

    def _run(self, blob: FloatArray) -> FloatArray:
        n = len(blob)
        if n < self._batch and self._engine.input_shape[0]:
            blob = np.concatenate([blob, np.zeros((self._batch - n, *blob.shape[1:]), np.float32)])
        output = self._engine.run(blob)[0]
        if output.shape != (len(blob), self._pack.embedder.dimension):
            raise ConfigError(
                f"{self._pack.embedder.file.name} gives {output.shape[1:]} numbers a face, "
                f"pack {self._pack.name} says {self._pack.embedder.dimension}"
            )
        return output[:n]


def _blob(crops: ByteArray, model: EmbedderModel) -> FloatArray:
    ordered = crops if model.color == "rgb" else crops[..., ::-1]
    scaled = (ordered - np.array(model.mean, np.float32)) / np.array(model.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def _normalised(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    sound = np.isfinite(norms) & (norms > MIN_NORM)
    return np.where(sound, rows / np.where(sound, norms, 1), 0).astype(np.float32)
