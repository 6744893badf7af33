"""Face packs: a detector and an embedder that belong together, found on this machine's disk.

A pack is named by ``Settings.face_pack``; :mod:`facegraph.models.places` says where it may lie.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from facegraph.config import Settings
from facegraph.errors import ModelMissing
from facegraph.models.packfile import AttributeKind, AttributeSpec, FacePackSpec
from facegraph.models.places import (
    Licence,
    ModelFile,
    PackPlace,
    is_file_there,
    known_packs,
    locate,
    locate_as,
    model_file,
    sha256_of,
)
from facegraph.types import Contract

__all__ = [
    "AttributeKind",
    "AttributeModel",
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

log = logging.getLogger(__name__)

Triple = tuple[float, float, float]

LIVENESS_FOLDER = "liveness"
"""Below a pack's folder; MiniFASNet's files, called as their authors call them, are found there."""

LIVENESS_NAME = re.compile(r"(\d+(?:\.\d+)?)_(?:.*_)?80x80_MiniFASNet\w*\.onnx")

LIVENESS_LICENCE = Licence("Apache-2.0", permissive=True)


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
class AttributeModel:
    """A model that tells something of a face: age, gender, whether it is live.

    mean, std: of genderage; ``(pixel - mean) / std`` is what it takes
    scale: of minifasnet; how much larger than the face's box it looks
    """

    kind: AttributeKind
    file: ModelFile
    licence: Licence
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.0


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
    attributes: tuple[AttributeModel, ...] = ()

    @property
    def threshold(self) -> float:
        """Least cosine at which two embeddings are taken for one person."""
        return self.calibration.threshold

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Of the detector, the embedder and the attribute models."""
        return (self.detector.file, self.embedder.file, *(a.file for a in self.attributes))


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
    return assemble(place, detector, embedder)


def assemble(
    place: PackPlace[FacePackSpec],
    detector: DetectorModel,
    embedder: EmbedderModel,
    attributes: tuple[AttributeModel, ...] = (),
) -> FacePack:
    """The pack of these models and of the attribute models that its file names or that lie in its
    ``liveness`` folder."""
    spec = place.spec
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
        attributes=(*attributes, *_named(place), *_liveness(place)),
    )


def _named(place: PackPlace[FacePackSpec]) -> Iterator[AttributeModel]:
    """Those of the pack file whose files are there and sound; the pack works without the others."""
    for spec in place.spec.attributes:
        if is_file_there(place, spec.file):
            try:
                yield _attribute(spec, place)
            except ModelMissing as error:
                log.warning("going on without %s: %s", spec.file, error)


def _attribute(spec: AttributeSpec, place: PackPlace[FacePackSpec]) -> AttributeModel:
    return AttributeModel(
        kind=spec.kind,
        file=model_file(place, spec.file),
        licence=Licence.of(spec.licence or place.spec.licence),
        mean=spec.mean,
        std=spec.std,
        scale=spec.scale or 1.0,
    )


def _liveness(place: PackPlace[FacePackSpec]) -> Iterator[AttributeModel]:
    """Files like ``2.7_80x80_MiniFASNetV2.onnx``: the scale stands before the first underscore."""
    taken = set(place.spec.optional)
    for folder in place.folders:
        for path in sorted((folder / LIVENESS_FOLDER).glob("*.onnx")):
            called = LIVENESS_NAME.fullmatch(path.name)
            name = f"{LIVENESS_FOLDER}/{path.name}"
            if called and name not in taken:
                taken.add(name)
                file = ModelFile(name, path, sha256_of(path), known=False)
                yield AttributeModel("minifasnet", file, LIVENESS_LICENCE, scale=float(called[1]))


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
