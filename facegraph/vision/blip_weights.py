"""A captioner's files in, a network ready to run out; nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import BlipConfig, BlipForConditionalGeneration
from transformers.utils import logging as transformers_logging

from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.vision_packs import CaptionerModel
from facegraph.vision.blip_checkpoint import Converted, read_captioner
from facegraph.vision.blip_pixels import Preprocessing, read_preprocessing
from facegraph.vision.blip_tokenizer import BlipTokenizer, read_tokenizer
from facegraph.vision.state_dicts import phrases
from facegraph.vision.torch_device import first_line, ran_out_of_memory

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In transformers' order; an index names the parts of weights that were split."""

CONSTANTS = ("position_ids",)
"""What older files hold beside weights, by the end of the name."""

CONFIGURED = ("text_config", "vision_config")


class Blip(NamedTuple):
    """A captioner in parts.

    network: BlipForConditionalGeneration, whose type hints do not hold
    """

    tokenizer: BlipTokenizer
    preprocessing: Preprocessing
    network: Any


def load_blip(model: CaptionerModel, dtype: torch.dtype) -> Blip:
    """The captioner in ``model``'s folder or file, on the CPU, in ``dtype``.

    Raises ModelMissing where a file is absent or damaged, ConfigError where one is not what it
    should be; a weight that is missing or left over is an error, never a guess.
    """
    _hush()
    if model.folder is not None:
        return _of_folder(model.folder, dtype)
    if model.file is None:
        raise ConfigError(f"captioner {model.name}: neither a folder nor a file")
    return _of_file(model.file.path, dtype)


def _of_file(path: Path, dtype: torch.dtype) -> Blip:
    tokenizer = read_tokenizer(path.parent)
    converted = read_captioner(path)
    text = converted.config.text_config
    if tokenizer.size not in (text.vocab_size, text.bos_token_id):
        raise ConfigError(
            f"the vocabulary in {path.parent} has {tokenizer.size} words, {path.name} was trained "
            f"with {text.bos_token_id}"
        )
    text.sep_token_id, text.pad_token_id = tokenizer.end, tokenizer.pad
    network = _built(None, converted, dtype)
    return Blip(tokenizer, Preprocessing(converted.config.vision_config.image_size), network)


def _of_folder(folder: Path, dtype: torch.dtype) -> Blip:
    config = _read_config(folder)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelMissing(f"there are no weights in {folder}: none of {', '.join(WEIGHTS)}")
    tokenizer = read_tokenizer(folder)
    text = config.text_config
    if (tokenizer.end, tokenizer.pad) != (text.sep_token_id, text.pad_token_id):
        raise ConfigError(f"the vocabulary in {folder} is not the one of its config.json")
    preprocessing = read_preprocessing(folder, config.vision_config.image_size)
    return Blip(tokenizer, preprocessing, _built(folder, Converted(config, {}), dtype))


def _read_config(folder: Path) -> Any:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
        kind = values.get("model_type")
        # A part left out would be filled in with defaults that are no model's.
        complete = all(isinstance(values.get(part), dict) for part in CONFIGURED)
        if kind != "blip" or not complete:
            raise ValueError(f"model_type is {kind!r}, parts: {', '.join(values)}")
        return BlipConfig.from_dict(values)
    except FileNotFoundError:
        raise ModelMissing(f"there is no file {path}") from None
    except Exception as error:  # the configuration's checks raise whatever they like
        raise ConfigError(f"{path} does not describe a BLIP captioner: {error}") from error


def _built(folder: Path | None, converted: Converted, dtype: torch.dtype) -> Any:
    """The network with its weights mapped from disk, converted one by one to ``dtype``."""
    source = folder or "the checkpoint"
    load: Any = BlipForConditionalGeneration.from_pretrained
    try:
        network, report = load(
            folder,
            config=converted.config,
            state_dict=converted.state if folder is None else None,
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
        )
    except Exception as error:  # torch, safetensors and pickle share no base class
        if ran_out_of_memory(error):
            raise
        raise ModelMissing(
            f"the weights in {source} cannot be read: {first_line(error)}"
        ) from error
    if faults := _faults(report):
        raise ConfigError(f"the weights in {source} are no BLIP captioner's: {faults}")
    return network.eval().requires_grad_(False)


def _faults(report: dict[str, Any]) -> str:
    unknown = (key for key in report["unexpected_keys"] if not key.endswith(CONSTANTS))
    return phrases(
        {
            "missing": sorted(report["missing_keys"]),
            "unknown": sorted(unknown),
            "misshapen": sorted(key for key, *_ in report["mismatched_keys"]),
        }
    )


def _hush() -> None:
    """Neither progress bars nor advice; what matters is raised."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
