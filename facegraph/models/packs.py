"""Face packs: a detector and an embedder that belong together, found on this machine's disk.

A pack is named by ``Settings.face_pack``; :mod:`facegraph.models.places` says where it may lie.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from facegraph.config import Settings
from facegraph.models.packfile import FacePackSpec
from facegraph.models.places import (
    Licence,
    ModelFile,
    PackPlace,
    known_packs,
    locate,
    locate_as,
    model_file,
    sha256_of,
)
from facegraph.types import Contract

__all__ = [
    "Calibration",
    "DetectorModel",
    "EmbedderModel",
    "FacePack",
    "Licence",
    "ModelFile",
    "PackPlace",
    "find_pack",
    "known_packs",
    "locate",
    "sha256_of",
]

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DetectorModel:
    kind: Literal["yunet", "scrfd"]
    file: ModelFile


@dataclass(frozen=True, slots=True)
class EmbedderModel:
    """``(pixel - mean) / std`` per channel, in the order ``color``, is what the model takes."""

    family: str
    file: ModelFile
    dimension: int
    color: Literal["rgb", "bgr"]
    mean: Triple
    std: Triple


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where the threshold comes from; ``far`` and ``frr`` at it, or None where only published."""

    threshold: float
    data: str
    measured: bool
    far: float | None
    frr: float | None


@dataclass(frozen=True, slots=True)
class FacePack:
    """An installed pack, ready to be opened. Pickles; holds no open file."""

    name: str
    summary: str
    contract: Contract
    licence: Licence
    calibration: Calibration
    detector: DetectorModel
    embedder: EmbedderModel

    @property
    def threshold(self) -> float:
        """Least cosine at which two embeddings are taken for one person."""
        return self.calibration.threshold

    @property
    def files(self) -> tuple[ModelFile, ...]:
        return (self.detector.file, self.embedder.file)


def find_pack(settings: Settings) -> FacePack:
    """The pack that ``settings.face_pack`` names.

    Raises ConfigError where no such pack is known or its pack file is wrong, ModelMissing where
    its files are absent or damaged; the sentence names the command that helps.
    """
    place = locate_as(FacePackSpec, settings.face_pack, settings)
    if place.spec.layout == "insightface":
        from facegraph.models.insightface_packs import find_insightface_pack

        return find_insightface_pack(place)
    spec = place.spec
    detector = DetectorModel(spec.detector.kind, model_file(place, spec.detector.file))
    mean, std = triple(spec.embedder.mean), triple(spec.embedder.std)
    embedder = EmbedderModel(
        spec.embedder.family,
        model_file(place, spec.embedder.file),
        spec.embedder.dimension,
        spec.embedder.color,
        mean,
        std,
    )
    return assemble(spec, detector, embedder)


def assemble(spec: FacePackSpec, detector: DetectorModel, embedder: EmbedderModel) -> FacePack:
    calibration = spec.calibration
    return FacePack(
        name=spec.name,
        summary=spec.summary,
        contract=contract_of(spec.name, spec.alignment, embedder),
        licence=Licence.of(spec.licence),
        calibration=Calibration(
            calibration.threshold,
            calibration.data,
            calibration.measured,
            calibration.far,
            calibration.frr,
        ),
        detector=detector,
        embedder=embedder,
    )


def contract_of(pack: str, alignment: str, embedder: EmbedderModel) -> Contract:
    """The contract of embeddings made by ``embedder``: the same id under any pack's name."""
    meaning = {
        "model": embedder.file.sha256,
        "preprocessing": [embedder.color, list(embedder.mean), list(embedder.std)],
        "alignment": alignment,
        "dimension": embedder.dimension,
    }
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
    return Contract(
        id=f"{embedder.family}-{digest[:12]}",
        pack=pack,
        model_sha256=embedder.file.sha256,
        alignment=alignment,
        dimension=embedder.dimension,
    )


def triple(value: float | Triple) -> Triple:
    return value if isinstance(value, tuple) else (value, value, value)
