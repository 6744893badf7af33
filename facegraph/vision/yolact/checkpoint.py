"""The authors' checkpoints: a file in, a network ready to run out, every key accounted for.

A checkpoint is read as data: whatever else a pickle could hold is refused before it runs.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegraph.errors import ConfigError, ModelMissing
from facegraph.vision.yolact.configs import CLASSES, FEATURES, YolactConfig
from facegraph.vision.yolact.network import Yolact

Shape = tuple[int, ...]

TRAINING_ONLY: dict[str, Shape] = {
    # For the paper's semantic segmentation loss.
    "semantic_seg_conv.weight": (CLASSES - 1, FEATURES, 1, 1),
    "semantic_seg_conv.bias": (CLASSES - 1,),
    # A sixth level of the pyramid, left over in the released files, that no head ever read.
    "fpn.downsample_layers.2.weight": (FEATURES, FEATURES, 3, 3),
    "fpn.downsample_layers.2.bias": (FEATURES,),
}
"""What the files hold and a prediction does not need; may be absent, is checked, is not kept."""

COUNTER = ".num_batches_tracked"
"""Ends the names of the normalisations' counters of training steps: as above."""

NAMED = 3
"""Offending keys that a message names before it counts the rest."""


def official_shapes(config: YolactConfig) -> dict[str, Shape]:
    """The keys of the authors' checkpoint for ``config``, with their tensors' shapes."""
    with torch.device("meta"):
        network = Yolact(config)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()} | TRAINING_ONLY


def load_network(path: Path, config: YolactConfig) -> Yolact:
    """The network of ``config`` with the weights in ``path``, on the CPU, in float32.

    Raises ModelMissing where the file is absent, damaged or no file of weights, ConfigError where
    its keys or shapes are not those of ``config``.
    """
    state = _read(path)
    shapes = official_shapes(config)
    if faults := _faults(state, shapes):
        raise ConfigError(
            f"{path.name} is no checkpoint of YOLACT's configuration {config.name}: "
            + "; ".join(faults)
        )
    with torch.device("meta"):
        network = Yolact(config)
    network.to_empty(device="cpu")
    network.load_state_dict({key: state[key] for key in state if _needed(key)})
    return network.requires_grad_(False)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelMissing(f"there is no file {path}")
    try:
        # Files older than PyTorch 1.6 are no archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except Exception as error:  # its readers raise anything from EOFError to UnicodeDecodeError
        raise ModelMissing(
            f"{path.name} is damaged, or holds something else than weights; nothing in it was run"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"{path.name} holds no state dict: {type(state).__name__}")
    return state


def _needed(key: str) -> bool:
    return key not in TRAINING_ONLY and not key.endswith(COUNTER)


def _faults(state: dict[str, Any], shapes: dict[str, Shape]) -> list[str]:
    """One phrase for each way in which ``state`` does not fit; nothing where it does."""
    lists = {
        "missing": [key for key in shapes if _needed(key) and key not in state],
        "unknown": [key for key in state if key not in shapes],
        "misshapen": [
            f"{key} ({found} instead of {_called(shape)})"
            for key, shape in shapes.items()
            if key in state and (found := _kind(state[key], key)) != _called(shape)
        ],
    }
    return [f"{fault} {_first(keys)}" for fault, keys in lists.items() if keys]


def _kind(value: object, key: str) -> str:
    """The shape of a tensor that can be this key's value, or what it is instead."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_floating_point() == key.endswith(COUNTER):
        return str(value.dtype)
    return _called(tuple(value.shape))


def _called(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _first(keys: list[str]) -> str:
    rest = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + rest
