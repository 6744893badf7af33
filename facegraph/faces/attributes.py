"""What is told of faces beyond where they are: by networks where the pack has them, by the
landmarks and pixels in any case.

The networks take milliseconds, so they run on the CPU beside a detector on a GPU too and leave
that memory alone. One that does not load, or answers in another shape than its kind, is left out
with a line in the log: a service without ages is better than none.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegraph.errors import ConfigError, ModelUnavailable
from facegraph.faces import age_gender, liveness, pose, quality
from facegraph.models.engines import Engine, EngineName, open_engine
from facegraph.models.packs import AttributeKind, AttributeModel
from facegraph.types import Attributes, ByteArray, Faces, FloatArray

log = logging.getLogger(__name__)

Columns = dict[str, FloatArray]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of network sees and speaks; ``outputs``: numbers per face."""

    side: int
    outputs: int
    see: Callable[[ByteArray, Faces, AttributeModel], FloatArray]
    tell: Callable[[FloatArray], Columns]


KINDS: dict[AttributeKind, _Kind] = {
    "dlib-age": _Kind(
        age_gender.AGE_SIDE, len(age_gender.YEARS), age_gender.age_input, age_gender.age_of
    ),
    "dlib-gender": _Kind(age_gender.GENDER_SIDE, 2, age_gender.gender_input, age_gender.gender_of),
    "genderage": _Kind(
        age_gender.GENDERAGE_SIDE, 3, age_gender.genderage_input, age_gender.genderage_of
    ),
    "minifasnet": _Kind(liveness.SIDE, 3, liveness.liveness_input, liveness.live_of),
}


class AttributeReader:
    """Reads the attributes of faces. Any number of threads may call it at once."""

    def __init__(
        self,
        models: Sequence[AttributeModel],
        *,
        engine: EngineName = "auto",
        threads: int = 1,
        concurrency: int = 1,
    ) -> None:
        networks = []
        for model in models:
            try:
                networks.append(_Network(model, engine, threads, concurrency))
            except (ConfigError, ModelUnavailable) as error:
                log.warning("going on without %s: %s", model.file.name, error)
        self._networks = tuple(networks)

    def read(self, rgb: ByteArray, faces: Faces) -> Attributes:
        """The attributes of ``faces`` in the image ``rgb`` (h, w, 3) uint8.

        Of several networks that tell the same the answers are averaged.
        """
        told: defaultdict[str, list[FloatArray]] = defaultdict(list)
        for network in self._networks:
            for name, column in network.read(rgb, faces).items():
                told[name].append(column)
        means = {name: np.mean(columns, axis=0) for name, columns in told.items()}
        turned = pose.rotations(faces.landmarks)
        parts, reasons = quality.measure(rgb, faces, turned)
        return Attributes(
            poses=pose.angles(turned),
            qualities=quality.score(parts),
            quality_parts=parts,
            quality_reasons=reasons,
            **{name: np.asarray(mean, np.float32) for name, mean in means.items()},
        )

    def describe(self) -> list[dict[str, Any]]:
        return [network.describe() for network in self._networks]


class _Network:
    """One attribute model, opened and run once."""

    def __init__(
        self, model: AttributeModel, engine: EngineName, threads: int, concurrency: int
    ) -> None:
        self._model = model
        self._kind = KINDS[model.kind]
        self._engine: Engine = open_engine(
            model.file.path,
            engine="auto" if engine == "tensorrt" else engine,
            accelerator="cpu",
            threads=threads,
            concurrency=concurrency,
            exact=True,
        )
        self._batch = self._engine.input_shape[0] or self._engine.best_batch
        side = self._kind.side
        self._run(np.zeros((1, 3, side, side), np.float32))

    def read(self, rgb: ByteArray, faces: Faces) -> Columns:
        rows = [np.zeros((0, self._kind.outputs), np.float32)]
        for start in range(0, len(faces), self._batch):
            part = faces.take(slice(start, start + self._batch))
            rows.append(self._run(self._kind.see(rgb, part, self._model)))
        return self._kind.tell(np.concatenate(rows))

    def _run(self, blob: FloatArray) -> FloatArray:
        n = len(blob)
        if self._engine.input_shape[0] and n < self._batch:
            blob = np.concatenate([blob, np.zeros((self._batch - n, *blob.shape[1:]), np.float32)])
        output = self._engine.run(blob)[0]
        if output.shape != (len(blob), self._kind.outputs):
            raise ConfigError(
                f"a model of kind {self._model.kind} gives {self._kind.outputs} numbers a face, "
                f"this one {output.shape[1:]}"
            )
        return output[:n]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self._model.kind,
            "file": self._model.file.name,
            "sha256": self._model.file.sha256,
            "licence": self._model.licence.name,
            "engine": self._engine.name,
            "provider": self._engine.provider,
        }
