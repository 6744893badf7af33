"""Checkpoints of torch: read as data, and compared with a network key by key."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from facegraph.errors import ModelMissing
from facegraph.vision.torch_device import ran_out_of_memory

NAMED = 3
"""Offending keys that a message names before it counts the rest."""


def read_checkpoint(path: Path, *settings: type) -> Any:
    """What is in the file ``path``; an archive's tensors stay on disk until they are used.

    settings: classes of which objects may stand beside the tensors
    Raises ModelMissing where the file is absent, damaged, or holds anything else: a pickle could
    hold what runs, and that is refused before it does.
    """
    if not path.is_file():
        raise ModelMissing(f"there is no file {path}")
    try:
        # Files older than PyTorch 1.6 are no archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(list(settings)):
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except Exception as error:  # its readers raise anything from EOFError to UnicodeDecodeError
        if ran_out_of_memory(error):
            raise
        raise ModelMissing(
            f"{path.name} is damaged, or holds something else than weights; nothing in it was run"
        ) from error


def is_state_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether it has names; what they name is for :func:`misfits` to say."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def misfits(
    found: Mapping[str, object], needed: Mapping[str, Tensor], optional: Container[str] = ()
) -> str:
    """Which keys are missing, unknown or misshapen; nothing where ``found`` fits ``needed``.

    needed: tensors of the right shapes, integer or not, on any device
    optional: those of them that may be absent
    """
    lists = {
        "missing": [key for key in needed if key not in found and key not in optional],
        "unknown": [key for key in found if key not in needed],
        "misshapen": [
            f"{key} ({kind} instead of {_called(tensor)})"
            for key, tensor in needed.items()
            if key in found
            and (kind := kind_of(found[key], tensor.is_floating_point())) != _called(tensor)
        ],
    }
    return phrases(lists)


def phrases(lists: Mapping[str, Collection[str]]) -> str:
    """One phrase for each fault that keys have: "missing a, b, c and 2 more; unknown d"."""
    return "; ".join(
        f"{fault} {', '.join(list(keys)[:NAMED])}"
        + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
        for fault, keys in lists.items()
        if keys
    )


def kind_of(value: object, floating: bool = True) -> str:
    """The shape of a tensor that can be a weight, or a counter, or what it is instead."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_floating_point() != floating:
        return str(value.dtype)
    return _called(value)


def _called(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
