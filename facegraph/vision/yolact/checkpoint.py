"""The authors' checkpoints: a file in, a network ready to run out, every key accounted for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from facegraph.errors import ConfigError
from facegraph.vision.state_dicts import is_state_dict, misfits, read_checkpoint
from facegraph.vision.yolact.configs import CLASSES, FEATURES, YolactConfig
from facegraph.vision.yolact.network import Yolact

TRAINING_ONLY: dict[str, tuple[int, ...]] = {
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


def official_tensors(config: YolactConfig) -> dict[str, Tensor]:
    """The authors' checkpoint for ``config``: its keys and shapes, no values."""
    with torch.device("meta"):
        unused = {key: torch.empty(shape) for key, shape in TRAINING_ONLY.items()}
        return Yolact(config).state_dict() | unused


def load_network(path: Path, config: YolactConfig) -> Yolact:
    """The network of ``config`` with the weights in ``path``, on the CPU, in float32.

    Raises ModelMissing where the file is absent, damaged or no file of weights, ConfigError where
    its keys or shapes are not those of ``config``, torch's errors where memory runs out.
    """
    state = read_checkpoint(path)
    if not is_state_dict(state):
        raise ConfigError(f"{path.name} holds no state dict: {type(state).__name__}")
    official = official_tensors(config)
    unused = {key for key in official if key in TRAINING_ONLY or key.endswith(COUNTER)}
    if faults := misfits(state, official, optional=unused):
        raise ConfigError(
            f"{path.name} is no checkpoint of YOLACT's configuration {config.name}: {faults}"
        )
    with torch.device("meta"):
        network = Yolact(config)
    network.to_empty(device="cpu")
    network.load_state_dict({key: state[key] for key in state if key not in unused})
    return network.requires_grad_(False)
