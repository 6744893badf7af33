"""Face packs: a detector and an embedder that belong together, found on this machine's disk.

A pack is named by ``Settings.face_pack``: one that this package knows (``facegraph models list``),
a ``<name>.toml`` in ``<models_dir>/packs/``, or the path of a pack file. Files lie in
``<models_dir>/<pack>/``; those of InsightFace packs where that library keeps them. Nothing here
fetches anything.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facegraph.config import Settings
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.packfile import FileSpec, PackSpec, bundled_packs, read_pack_file
from facegraph.types import Contract

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on disk.

    path: the file an engine opens
    sha256: of the file as published, which says what the model *is*; a prepared file computes
        the same function
    known: whether the pack file names this digest
    """

    name: str
    path: Path
    sha256: str
    known: bool


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
class Licence:
    name: str
    permissive: bool


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


@dataclass(frozen=True, slots=True)
class PackPlace:
    """A pack's description and the folders its files may lie in, the one pulled into first."""

    spec: PackSpec
    folders: tuple[Path, ...]

    @property
    def home(self) -> Path:
        return self.folders[0]


def find_pack(settings: Settings) -> FacePack:
    """The pack that ``settings.face_pack`` names.

    Raises ConfigError where no such pack is known or its pack file is wrong, ModelMissing where
    its files are absent or damaged; the sentence names the command that helps.
    """
    place = locate(settings.face_pack, settings)
    if place.spec.layout == "insightface":
        from facegraph.models.insightface_packs import find_insightface_pack

        return find_insightface_pack(place)
    spec = place.spec
    detector = DetectorModel(spec.detector.kind, _model_file(place, spec.detector.file))
    mean, std = triple(spec.embedder.mean), triple(spec.embedder.std)
    embedder = EmbedderModel(
        spec.embedder.family,
        _model_file(place, spec.embedder.file),
        spec.embedder.dimension,
        spec.embedder.color,
        mean,
        std,
    )
    return assemble(spec, detector, embedder)


def locate(name: str, settings: Settings) -> PackPlace:
    """Which pack ``name`` is and where its files lie, installed or not; ConfigError if unknown."""
    if name.endswith(".toml") or "/" in name:
        path = Path(name).expanduser().resolve()
        spec = read_pack_file(path)
        return PackPlace(spec, (settings.models_path / spec.name, path.parent))
    known = known_packs(settings)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else f"; known: {', '.join(known)}"
        raise ConfigError(f"face_pack: there is no pack {name!r}{hint}")
    return known[name]


def known_packs(settings: Settings) -> dict[str, PackPlace]:
    """Every pack that can be named, bundled ones first."""
    places = {}
    for spec in bundled_packs().values():
        home = settings.models_path / spec.name
        folders: tuple[Path, ...] = (home,)
        if spec.layout == "insightface":
            home = settings.insightface_path / "models" / spec.name
            folders = (home, home / spec.name)  # some archives hold a folder of the same name
        places[spec.name] = PackPlace(spec, folders)
    own = settings.models_path / "packs"
    for path in sorted(own.glob("*.toml")) if own.is_dir() else ():
        spec = read_pack_file(path)
        places[spec.name] = PackPlace(spec, (settings.models_path / spec.name, own))
    return places


def assemble(spec: PackSpec, detector: DetectorModel, embedder: EmbedderModel) -> FacePack:
    calibration = spec.calibration
    return FacePack(
        name=spec.name,
        summary=spec.summary,
        contract=contract_of(spec.name, spec.alignment, embedder),
        licence=Licence(spec.licence.name, spec.licence.permissive),
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


def _model_file(place: PackPlace, name: str) -> ModelFile:
    spec = place.spec.file(name)
    folder = next((f for f in place.folders if (f / spec.runnable).is_file()), None)
    if folder is None:
        raise missing(place, f"{spec.runnable} is not in {place.home}")
    path = folder / spec.runnable
    found = sha256_of(path)
    if spec.prepare:
        receipt = read_receipt(folder)
        if receipt.get(spec.runnable) != prepared_mark(spec, found):
            raise missing(place, f"{path} is not what this version installs")
        source = spec.sha256 or receipt.get(name, "")
        return ModelFile(name, path, source, spec.sha256 is not None)
    if spec.sha256 not in (None, found):
        raise missing(place, f"{path} is damaged: its SHA-256 is {found}, not {spec.sha256}")
    return ModelFile(name, path, found, spec.sha256 is not None)


def missing(place: PackPlace, reason: str) -> ModelMissing:
    name = place.spec.name
    consent = "" if place.spec.licence.permissive else " --accept-license"
    return ModelMissing(
        f"face pack {name} is not installed ({reason}); run: facegraph models pull {name}{consent}"
    )


def triple(value: float | Triple) -> Triple:
    return value if isinstance(value, tuple) else (value, value, value)


RECEIPT = "installed.json"
"""In a pack's folder, written last: file name → SHA-256 of what the installation wrote, with the
steps of its preparation where there were any."""


def prepared_mark(file: FileSpec, sha256: str) -> str:
    """What the receipt says of a prepared file; another set of steps makes another mark."""
    return f"{sha256} {' '.join(file.prepare)}"


def read_receipt(folder: Path) -> dict[str, str]:
    try:
        receipt = json.loads((folder / RECEIPT).read_text())
    except (OSError, ValueError):
        return {}
    return dict(receipt) if isinstance(receipt, dict) else {}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, remembered while its size and time of change stay as they are."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
