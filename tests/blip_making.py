"""A tiny BLIP with random weights, on disk as transformers and as its authors lay one out."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from facegraph.models.places import Licence, ModelFile, sha256_of
from facegraph.models.vision_packs import CaptionerModel

LICENCE = Licence("MIT", True)

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", "the", "dog", "cat"),
    *("man", "woman", "child", "horse", "bus", "table", "ball", "street", "red", "old", "two"),
    *("with", "on", "in", "and", "runs", "sits", "play", "##ing", "##s", "##er", "'", ".", ","),
    *("[", "]", "sep", "-"),
    *(letter for letter in string.ascii_lowercase if letter != "a"),
    *("##" + letter for letter in string.ascii_lowercase if letter != "s"),
)
"""A WordPiece vocabulary that can spell every English word."""

IMAGE_SIZE = 48


def make_tiny_blip(folder: Path, *, seed: int = 0) -> CaptionerModel:
    """A captioner in transformers' layout in ``folder``; it takes images of 48×48.

    Different images get different sentences of nonsense, the same in every run.
    Files: config.json, generation_config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json, vocab.txt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = BlipForConditionalGeneration(tiny_config())
    network.load_state_dict(random_weights(network.state_dict(), seed))
    network.save_pretrained(folder)
    write_vocabulary(folder)
    tokenizer: Any = BertTokenizer
    tokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder_model(folder)


def folder_model(folder: Path) -> CaptionerModel:
    """The captioner in transformers' layout in ``folder``, whatever lies there."""
    files = tuple(map(model_file, sorted(folder.iterdir())))
    return CaptionerModel("tiny", "blip", "base", folder, None, LICENCE, files)


def file_model(path: Path) -> CaptionerModel:
    """The captioner in the authors' file ``path``."""
    return CaptionerModel("tiny", "blip", "base", None, model_file(path), LICENCE)


def model_file(path: Path) -> ModelFile:
    return ModelFile(path.name, path, sha256_of(path), known=False)


def write_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")


def tiny_config() -> BlipConfig:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {
        "vocab_size": len(WORDS) + 2,
        "bos_token_id": len(WORDS),
        "sep_token_id": WORDS.index("[SEP]"),
        "pad_token_id": WORDS.index("[PAD]"),
        "max_position_embeddings": 64,
        "hidden_size": 32,
    }
    vision = {"hidden_size": 32, "image_size": IMAGE_SIZE, "patch_size": 16}
    return BlipConfig(text_config=layers | text, vision_config=layers | vision)


END_BIAS = 4.5


def random_weights(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights for the same keys, equal where tied, that let outputs depend on the image.

    As transformers initialises them, every image would get the same words.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Tensor] = {}
    for key, value in state.items():
        if value.data_ptr() not in made:
            noise = torch.randn(value.shape, generator=generator)
            made[value.data_ptr()] = _like_trained(key, noise)
    return {key: made[value.data_ptr()] for key, value in state.items()}


def _like_trained(key: str, noise: Tensor) -> Tensor:
    if key.endswith("predictions.bias"):
        # Captions end, each in its time, and hardly name special tokens.
        silent = [
            word.startswith("[") and word.endswith("]") for word in (*WORDS, "[DEC]", "[ENC]")
        ]
        noise = noise - 8 * torch.tensor(silent)
        noise[WORDS.index("[SEP]")] = END_BIAS
        return noise
    if "norm" in key.lower():
        return 0.1 * noise + key.endswith("weight")
    if key.endswith("bias"):
        return 0.3 * noise
    if "crossattention" in key or "predictions.transform" in key:
        return 0.8 * noise
    return 0.3 * noise
