"""Captioner packs that nobody wrote a pack file for: a folder, a checkpoint file, a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from facegraph.models.packfile import (
    CaptionerPackSpec,
    CaptionerSpec,
    FileSpec,
    HubSource,
    LicenceSpec,
    bundled_packs,
)

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json")
"""What a captioner needs of a hub's repository in transformers' layout."""


def folder_pack(folder: Path) -> CaptionerPackSpec:
    """The captioner in transformers' layout in ``folder``."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return _pack(folder.name, "the operator's own", tuple(FileSpec(name=name) for name in names))


def checkpoint_pack(path: Path) -> CaptionerPackSpec:
    """The captioner in the authors' file ``path``."""
    return _pack(path.stem, "the operator's own", (), path.name)


def hub_pack(repo: str) -> CaptionerPackSpec:
    """The captioner that the hub calls ``repo``: a bundled pack's, or any in that layout."""
    for spec in bundled_packs().values():
        if isinstance(spec, CaptionerPackSpec) and spec.captioner.file is None:
            sources = [source for file in spec.files for source in file.sources]
            if repo in {source.repo for source in sources if isinstance(source, HubSource)}:
                return spec
    files = tuple(
        FileSpec(name=name, sources=(HubSource(kind="hub", repo=repo, member=name),))
        for name in HUB_FILES
    )
    return _pack(repo.replace("/", "--"), f"unknown: read it at the hub, {repo}", files)


def _pack(
    name: str, licence: str, files: tuple[FileSpec, ...], checkpoint: str | None = None
) -> CaptionerPackSpec:
    size = "large" if "large" in name else "base"
    return CaptionerPackSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "captioner",
        licence=LicenceSpec(name=licence, permissive=False),
        captioner=CaptionerSpec(kind="blip", config=size, file=checkpoint),
        files=files,
    )
