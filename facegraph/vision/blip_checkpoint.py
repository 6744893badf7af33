"""The authors' BLIP checkpoints, under the names that transformers gives the same tensors.

`model_base_caption_capfilt_large.pth` and `model_large_caption.pth` hold a captioner.
`model_base.pth` and its like are what pre-training ends with: a captioner that has seen smaller
images, and beside it what only the other training losses need.

The names follow from the authors' classes; Li, Li, Xiong, Hoi: BLIP: Bootstrapping Language-Image
Pre-training for Unified Vision-Language Understanding and Generation, 2022 (arXiv 2201.12086).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BlipConfig, BlipForConditionalGeneration

from facegraph.errors import ConfigError
from facegraph.vision.state_dicts import (
    is_state_dict,
    kind_of,
    misfits,
    phrases,
    read_checkpoint,
)

IMAGE_SIZE = 384
"""Side of the images that BLIP's captioners take, in pixels."""

HEAD = 64
"""Width of an attention head, in both encoders of every size."""

VISION_EPS, TEXT_EPS = 1e-6, 1e-12
"""Of the layer normalisations. Converted files that are about say 1e-5 for vision, which was not
what the weights were trained with."""

VISION, WORDS = "visual_encoder.", "text_decoder.bert.embeddings."
LAYER = "text_decoder.bert.encoder.layer."

UNUSED = frozenset(
    {
        # Image-text contrast and matching.
        "text_encoder",
        "vision_proj",
        "text_proj",
        "itm_head",
        "temp",
        # The contrastive loss's momentum copies and queues.
        "visual_encoder_m",
        "text_encoder_m",
        "vision_proj_m",
        "text_proj_m",
        "image_queue",
        "text_queue",
        "queue_ptr",
    }
)
"""First parts of the keys that pre-training leaves behind and a captioner does not have."""

POSITION_IDS = WORDS + "position_ids"
"""0, 1, 2 …: a constant, and not in every file."""

TIED = {
    "text_decoder.cls.predictions.decoder.weight": WORDS + "word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
"""Second names of tensors. A file may lack them; where it has both, both are equal."""

RENAMED = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"encoder\.layers\.", "blocks."),
    (r"layer_norm([12])\.", r"norm\1."),
    (r"self_attn\.qkv\.", "attn.qkv."),
    (r"self_attn\.projection\.", "attn.proj."),
    (r"post_layernorm\.", "norm."),
)
"""Parts of transformers' names in the vision encoder → the authors', which are timm's. The text
decoder's names are BERT's in both."""


class Converted(NamedTuple):
    """A captioner as transformers knows it. ``config`` lacks what the vocabulary tells."""

    config: Any  # BlipConfig, whose type hints do not hold
    state: dict[str, Tensor]


def read_captioner(path: Path) -> Converted:
    """The captioner in the authors' file ``path``; weights stay on disk until they are used.

    Raises ModelMissing where the file is absent, damaged or holds more than weights, ConfigError
    where its keys or shapes are not a captioner's.
    """
    root = read_checkpoint(path)
    state = root.get("model") if isinstance(root, dict) else None
    try:
        if not is_state_dict(state):
            raise ConfigError('it holds no state dict under "model"')
        return convert(state)
    except ConfigError as error:
        raise ConfigError(f"{path.name} is no checkpoint of a BLIP captioner: {error}") from None


def convert(state: Mapping[str, Any]) -> Converted:
    """A state dict of the authors' classes → a captioner for images of 384×384.

    Raises ConfigError that names the first keys that are missing, unknown, misshapen or untied.
    """
    config = _config(state)
    with torch.device("meta"):
        network = BlipForConditionalGeneration(config).state_dict()
    names = {original_name(name): name for name in network}
    if faults := _faults(state, {key: network[name] for key, name in names.items()}):
        raise ConfigError(faults)
    kept = {name: state[key] for key, name in names.items() if key not in TIED}
    vision = config.vision_config
    positions = names[VISION + "pos_embed"]
    kept[positions] = resize_positions(kept[positions], IMAGE_SIZE // vision.patch_size)
    vision.image_size = IMAGE_SIZE
    return Converted(config, kept)


def original_name(name: str) -> str:
    """The authors' name of what transformers calls ``name``."""
    if not name.startswith("vision_model."):
        return name
    name = name.removeprefix("vision_model.")
    for pattern, original in RENAMED:
        name = re.sub(pattern, original, name)
    return VISION + name


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """(1, 1 + n², width) position embeddings → (1, 1 + side², width), the first one untouched.

    Bicubic between cell centres, as the authors fine-tune on larger images.
    """
    before = math.isqrt(positions.shape[1] - 1)
    if before == side:
        return positions
    first, rest = positions[:, :1], positions[:, 1:]
    grid = rest.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)


def _config(state: Mapping[str, Any]) -> Any:
    """What the shapes of the tensors say of the network."""
    width, _, patch, _ = _shape(state, VISION + "patch_embed.proj.weight", 4)
    positions = _shape(state, VISION + "pos_embed", 3)[1]
    words, hidden = _shape(state, WORDS + "word_embeddings.weight", 2)
    if width % HEAD or hidden % HEAD or not (width and hidden and patch):
        raise ConfigError(f"widths {width} and {hidden} are no multiples of {HEAD}")
    vision = {
        "hidden_size": width,
        "intermediate_size": _shape(state, VISION + "blocks.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": _count(state, VISION + "blocks."),
        "num_attention_heads": width // HEAD,
        "image_size": math.isqrt(max(positions - 1, 0)) * patch,
        "patch_size": patch,
        "layer_norm_eps": VISION_EPS,
    }
    text = {
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": _shape(state, LAYER + "0.intermediate.dense.weight", 2)[0],
        "num_hidden_layers": _count(state, LAYER),
        "num_attention_heads": hidden // HEAD,
        "max_position_embeddings": _shape(state, WORDS + "position_embeddings.weight", 2)[0],
        "layer_norm_eps": TEXT_EPS,
        "bos_token_id": words - 2,  # the authors add [DEC] and [ENC] to BERT's words
    }
    return BlipConfig(vision_config=vision, text_config=text)


def _shape(state: Mapping[str, Any], key: str, dimensions: int) -> tuple[int, ...]:
    value = state.get(key)
    if not isinstance(value, Tensor) or value.ndim != dimensions:
        raise ConfigError(
            f"missing {key}" if value is None else f"misshapen {key} ({kind_of(value)})"
        )
    return tuple(value.shape)


def _count(state: Mapping[str, Any], prefix: str) -> int:
    """How many layers begin with ``prefix``; one left out shows as missing."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _faults(state: Mapping[str, Any], needed: Mapping[str, Tensor]) -> str:
    """One phrase for each way in which ``state`` does not fit; nothing where it does."""
    read = {
        key: value
        for key, value in state.items()
        if key in needed or (key != POSITION_IDS and key.split(".")[0] not in UNUSED)
    }
    if faults := misfits(read, needed, optional=TIED):
        return faults
    wrong = [key for key, source in TIED.items() if key in state and not _same(state, key, source)]
    if not _counts_up(state.get(POSITION_IDS)):
        wrong.append(POSITION_IDS)
    return phrases({"unexpected values in": wrong})


def _same(state: Mapping[str, Any], key: str, source: str) -> bool:
    ours, theirs = state[key], state[source]
    return ours.data_ptr() == theirs.data_ptr() or torch.equal(ours, theirs)


def _counts_up(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, Tensor) and torch.equal(
        value.flatten(), torch.arange(value.numel(), dtype=value.dtype)
    )
