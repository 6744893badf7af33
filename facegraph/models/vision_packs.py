"""Segmenter and captioner packs, found on this machine's disk.

The operator names a pack by its name, by the path of a pack file or by the name of a checkpoint
file, as old systems do; `auto` takes the installed pack of the highest rank. A name that comes
from a client is one of the known names or nothing: it is never a path, and what it leads to lies
in the models folder.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from facegraph.config import Settings
from facegraph.errors import InvalidRequest, ModelMissing, ModelUnavailable, StartupError
from facegraph.models.packfile import CaptionerPackSpec, PackSpec, SegmenterPackSpec
from facegraph.models.places import (
    Licence,
    ModelFile,
    PackPlace,
    is_there,
    locate_as,
    model_file,
    packs_of,
)

log = logging.getLogger(__name__)

S = TypeVar("S", bound=PackSpec)
M = TypeVar("M")

AUTO = "auto"
NO_PACK = frozenset({AUTO, "none", "inventory"})
"""What the settings can say instead of a pack."""

DEFAULT_SEGMENTER = "yolov5s-seg"
"""What a machine that reaches nothing but a package registry can have."""

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""No separator, no NUL, no way up."""


@dataclass(frozen=True, slots=True)
class SegmenterModel:
    """An installed segmenter, ready to be opened. Pickles; holds no open file.

    config: of yolact resnet50, base or im700; of rfdetr nano, small or medium; of yolo None
    """

    name: str
    kind: Literal["yolo", "yolact", "rfdetr"]
    file: ModelFile
    config: str | None
    licence: Licence


@dataclass(frozen=True, slots=True)
class CaptionerModel:
    """An installed captioner, ready to be opened. Pickles; holds no open file.

    folder: with files in transformers' layout: config.json, weights, the tokenizer's; or None
    file: the authors' checkpoint, where it is that
    files: everything that the pack lists, checked; the tokenizer's too
    """

    name: str
    kind: Literal["blip"]
    config: Literal["base", "large"]
    folder: Path | None
    file: ModelFile | None
    licence: Licence
    files: tuple[ModelFile, ...] = ()


def find_segmenter(settings: Settings, name: str) -> SegmenterModel:
    """The segmenter that the operator names: `auto`, a pack, a pack file or a checkpoint file.

    Raises ConfigError where no such pack is known or its pack file is wrong, ModelMissing where
    its files are absent or damaged; the sentence names the command that helps.
    """
    known = packs_of(SegmenterPackSpec, settings)
    if name == AUTO:
        runnable = (place for place in known.values() if _runs(place.spec))
        best = _best(runnable, _segmenter)
        if best is None:
            raise ModelMissing(
                "no segmenter is installed; "
                f"run: facegraph models pull {DEFAULT_SEGMENTER} --accept-license"
            )
        return best
    name = _checkpoints(known).get(name, name)
    return _segmenter(locate_as(SegmenterPackSpec, name, settings))


def require_known(settings: Settings) -> None:
    """ConfigError where the settings name a segmenter or captioner that no pack is called."""
    for find, name in (
        (find_segmenter, settings.segmenter),
        (find_captioner, settings.captioner),
    ):
        if name not in NO_PACK:
            with suppress(ModelMissing):  # known, and not there yet
                find(settings, name)


def find_segmenter_named(settings: Settings, name: str) -> SegmenterModel:
    """The segmenter that a client names: a known pack or checkpoint file in the models folder.

    Raises InvalidRequest for any other name, ModelUnavailable where its files are absent or
    damaged; the sentence names the command that helps.
    """
    try:
        known = packs_of(SegmenterPackSpec, settings)
        names = {pack: pack for pack in known} | _checkpoints(known)
        if not CLIENT_NAME.fullmatch(name):
            raise InvalidRequest(f"model: not a name of a model; known: {', '.join(names)}")
        if name not in names:
            raise InvalidRequest(f"model: there is no model {name!r}; known: {', '.join(names)}")
        model = _segmenter(known[names[name]])
    except StartupError as error:
        told = str(error).replace(str(settings.models_path), "<models_dir>")
        raise ModelUnavailable(told) from None
    if not model.file.path.resolve().is_relative_to(settings.models_path):
        raise InvalidRequest(f"model: the file of {name} lies outside the models folder")
    return model


def find_captioner(settings: Settings, name: str) -> CaptionerModel | None:
    """The captioner that the operator names, as :func:`find_segmenter`; None: none installed."""
    if name != AUTO:
        known = packs_of(CaptionerPackSpec, settings)
        name = _checkpoints(known).get(name, name)
        return _captioner(locate_as(CaptionerPackSpec, name, settings))
    return _best(packs_of(CaptionerPackSpec, settings).values(), _captioner)


def _best(places: Iterable[PackPlace[S]], find: Callable[[PackPlace[S]], M]) -> M | None:
    """The model of the highest rank whose files are there and sound."""
    for place in sorted(places, key=lambda place: -place.spec.rank):
        if is_there(place):
            try:
                return find(place)
            except ModelMissing as error:
                log.warning("auto goes on to the next: %s", error)
    return None


def _runs(spec: SegmenterPackSpec) -> bool:
    """RF-DETR's network comes with a package of its own, which is an extra."""
    return spec.segmenter.kind != "rfdetr" or importlib.util.find_spec("rfdetr") is not None


def _checkpoints(known: Mapping[str, PackPlace[S]]) -> dict[str, str]:
    """Names of checkpoint files → their packs."""
    return {
        Path(name).name: pack for pack, place in known.items() for name in place.spec.opened[:1]
    }


def _segmenter(place: PackPlace[SegmenterPackSpec]) -> SegmenterModel:
    spec = place.spec
    return SegmenterModel(
        name=spec.name,
        kind=spec.segmenter.kind,
        file=model_file(place, spec.segmenter.file),
        config=spec.segmenter.config,
        licence=Licence.of(spec.licence),
    )


def _captioner(place: PackPlace[CaptionerPackSpec]) -> CaptionerModel:
    spec = place.spec
    files = tuple(model_file(place, name) for name in spec.opened)
    original = spec.captioner.file is not None
    return CaptionerModel(
        name=spec.name,
        kind=spec.captioner.kind,
        config=spec.captioner.config,
        folder=None if original else files[0].path.parent,
        file=files[0] if original else None,
        licence=Licence.of(spec.licence),
        files=files,
    )
