"""Where packs lie on this machine's disk, what is known of their files, and their digests.

A pack is named: one that this package knows (``facegraph models list``), a ``<name>.toml`` in
``<models_dir>/packs/``, or the path of a pack file. Files lie in ``<models_dir>/<pack>/``; those
of InsightFace packs where that library keeps them; a checkpoint that an old system kept by its
name may lie in ``<models_dir>`` itself. Nothing here fetches anything.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from facegraph.config import Settings, nearest
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.packfile import (
    CaptionerPackSpec,
    FacePackSpec,
    FileSpec,
    LicenceSpec,
    PackSpec,
    bundled_packs,
    read_pack_file,
)
from facegraph.models.unwritten import HUB_ID, checkpoint_pack, folder_pack, hub_pack

S_co = TypeVar("S_co", bound=PackSpec, covariant=True)
S = TypeVar("S", bound=PackSpec)


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
class Licence:
    name: str
    permissive: bool

    @classmethod
    def of(cls, spec: LicenceSpec) -> Licence:
        return cls(spec.name, spec.permissive)


@dataclass(frozen=True, slots=True)
class PackPlace(Generic[S_co]):
    """A pack's description and the folders its files may lie in, the one pulled into first.

    asked: what it was asked for by, where that is not its name
    """

    spec: S_co
    folders: tuple[Path, ...]
    asked: str = ""

    @property
    def home(self) -> Path:
        return self.folders[0]


def locate(name: str, settings: Settings) -> PackPlace[PackSpec]:
    """Which pack ``name`` is and where its files lie, installed or not; ConfigError if unknown.

    Beside names and pack files: a captioner's folder, its authors' ``.pth``, or its hub id.
    """
    if _is_path(name):
        path = Path(name).expanduser().resolve()
        if path.is_dir():
            return PackPlace(folder_pack(path), (path,))
        if path.suffix == ".pth":
            return PackPlace(checkpoint_pack(path), (path.parent,))
        if HUB_ID.fullmatch(name) and path.suffix != ".toml":
            hub = hub_pack(name)
            return PackPlace(hub, _folders(hub, settings), name)
        spec = read_pack_file(path)
        return PackPlace(spec, (settings.models_path / spec.name, path.parent))
    known = known_packs(settings)
    if name not in known:
        raise ConfigError(f"there is no pack {name!r}{meant(name, known)}")
    return known[name]


def locate_as(kind: type[S], name: str, settings: Settings) -> PackPlace[S]:
    """As :func:`locate`, for a setting that takes packs of one kind; ConfigError for another's."""
    setting = "face_pack" if kind.purpose == "face" else kind.purpose
    known = packs_of(kind, settings)
    if not _is_path(name) and name not in known_packs(settings):
        raise ConfigError(f"{setting}: there is no pack {name!r}{meant(name, known)}")
    place = locate(name, settings)
    if not isinstance(place.spec, kind):
        raise ConfigError(
            f"{setting}: {name} is a {place.spec.purpose} pack; known: {', '.join(known)}"
        )
    return PackPlace(place.spec, place.folders, place.asked)


def packs_of(kind: type[S], settings: Settings) -> dict[str, PackPlace[S]]:
    """The packs of one kind that can be named, as :func:`known_packs` orders them."""
    return {
        name: PackPlace(place.spec, place.folders)
        for name, place in known_packs(settings).items()
        if isinstance(place.spec, kind)
    }


def known_packs(settings: Settings) -> dict[str, PackPlace[PackSpec]]:
    """Every pack that can be named, bundled ones first."""
    places = {
        name: PackPlace(spec, _folders(spec, settings)) for name, spec in bundled_packs().items()
    }
    own = settings.models_path / "packs"
    for path in sorted(own.glob("*.toml")) if own.is_dir() else ():
        spec = read_pack_file(path)
        places[spec.name] = PackPlace(spec, (settings.models_path / spec.name, own))
    return places


def _folders(spec: PackSpec, settings: Settings) -> tuple[Path, ...]:
    home = settings.models_path / spec.name
    if isinstance(spec, FacePackSpec):
        if spec.layout == "models":
            return (home,)
        home = settings.insightface_path / "models" / spec.name
        return (home, home / spec.name)  # some archives hold a folder of the same name
    if isinstance(spec, CaptionerPackSpec) and spec.captioner.file is None:
        return (home,)  # `config.json` names no model
    return (home, settings.models_path)


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name


def meant(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest known one, or all of them."""
    known = list(known)
    return nearest(name, known) or f"; known: {', '.join(known)}"


def is_there(place: PackPlace[PackSpec]) -> bool:
    """Whether every file that the models are made of lies on disk, whatever is in it."""
    return all(is_file_there(place, name) for name in place.spec.opened)


def is_file_there(place: PackPlace[PackSpec], name: str) -> bool:
    """Whether the file ``name`` lies on disk, whatever is in it."""
    return _folder_of(place, place.spec.file(name).runnable) is not None


def model_file(place: PackPlace[PackSpec], name: str) -> ModelFile:
    """The file ``name`` of a pack, checked; ModelMissing where it is absent or damaged."""
    spec = place.spec.file(name)
    folder = _folder_of(place, spec.runnable)
    if folder is None:
        raise missing(place, f"{spec.runnable} is not in {place.home}")
    path = folder / spec.runnable
    found, receipt = sha256_of(path), read_receipt(folder)
    if spec.prepare:
        if receipt.get(spec.runnable) != prepared_mark(spec, found):
            raise missing(place, f"{path} is not what this version installs")
        source = spec.sha256 or receipt.get(name, "")
        return ModelFile(name, path, source, spec.sha256 is not None)
    wanted = spec.sha256 or receipt.get(name, found)
    if found != wanted:
        raise missing(place, f"{path} is damaged: its SHA-256 is {found}, not {wanted}")
    return ModelFile(name, path, found, spec.sha256 is not None)


def _folder_of(place: PackPlace[PackSpec], name: str) -> Path | None:
    return next((folder for folder in place.folders if (folder / name).is_file()), None)


def missing(place: PackPlace[PackSpec], reason: str) -> ModelMissing:
    spec = place.spec
    options = "" if spec.licence.permissive else " --accept-license"
    if spec.files and not any(file.sources for file in spec.files):
        options += " --from PATH"
    return ModelMissing(
        f"{spec.purpose} pack {spec.name} is not installed ({reason}); "
        f"run: facegraph models pull {place.asked or spec.name}{options}"
    )


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
