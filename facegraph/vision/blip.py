"""BLIP behind the seam of captioners, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import transformers
from transformers import GenerationConfig

from facegraph.errors import InvalidRequest
from facegraph.models.vision_packs import CaptionerModel
from facegraph.types import ByteArray, CaptionOptions
from facegraph.vision.blip_cache import ImageCache
from facegraph.vision.blip_weights import WEIGHTS, load_blip
from facegraph.vision.torch_device import Accelerator, Precision, open_device

CPU_BATCH, GPU_BATCH = 8, 16

WARM_UP = CaptionOptions(num_beams=1, max_length=3, min_length=3, prompt="")
"""Reads every weight from disk once; a model that loads and does not run is noticed."""

MAX_BEAMS = 16

MAX_PROMPT = 1000
"""Characters; a caption has room for far fewer."""


class BlipCaptioner:
    """A BLIP captioner, loaded. One thread at a time calls it.

    In float32 a caption does not depend on the images beside it; in bfloat16 rounding differs with
    the size of the batch, and near ties may go the other way.
    """

    def __init__(
        self,
        model: CaptionerModel,
        *,
        threads: int = 1,
        accelerator: Accelerator = "cpu",
        gpu_memory_bytes: int | None = None,
        precision: Precision | Literal["auto"] = "auto",
    ) -> None:
        """``threads`` and ``gpu_memory_bytes`` hold for all of torch in this process.

        precision: auto is bf16 where the processor or GPU computes in it, else fp32
        Raises ConfigError where the files are no BLIP captioner or the device is not there,
        ModelMissing where a file is absent or damaged, ModelUnavailable where it does not run.
        """
        self._model = model
        self._weights = model.file or next(
            (file for name in WEIGHTS for file in model.files if file.path.name == name), None
        )
        self._torch = open_device(accelerator, threads=threads, memory_bytes=gpu_memory_bytes)
        self._device = self._torch.device
        if precision == "auto":
            precision = "bf16" if computes_bf16(self._device) else "fp32"
        self._precision = precision
        self._torch.attempt(self._load, f"{model.name} cannot be loaded")
        self.name = model.name
        self.best_batch = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH
        self.caption([np.zeros((1, 1, 3), np.uint8)], WARM_UP)

    def caption(self, images: Sequence[ByteArray], options: CaptionOptions) -> list[str]:
        """One sentence for each (h, w, 3) uint8 RGB image, all in one run.

        Raises as :meth:`facegraph.vision.base.Captioner.caption`.
        """
        prompt = self._prompt(options)
        rows = self._generate(images, prompt, options) if images else []
        return [self._tokenizer.decode(row[len(prompt) :]) for row in rows]

    def tokens(self, images: Sequence[ByteArray], options: CaptionOptions) -> list[list[int]]:
        """The tokens of each caption: the prompt's first, padded to the longest."""
        return self._generate(images, self._prompt(options), options)

    def describe(self) -> dict[str, Any]:
        model, weights = self._model, self._weights
        return {
            "kind": model.kind,
            "pack": self.name,
            "config": model.config,
            "file": weights.name if weights else None,
            "sha256": weights.sha256 if weights else None,
            "licence": model.licence.name,
            "engine": f"transformers {transformers.__version__}",
            "provider": self._device.type,
            "precision": self._precision,
        }

    def _load(self) -> None:
        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        blip = load_blip(self._model, dtype)
        self._network = blip.network.to(self._device)
        self._tokenizer, self._preprocessing = blip.tokenizer, blip.preprocessing
        self._text = blip.network.config.text_config

    def _prompt(self, options: CaptionOptions) -> list[int]:
        """What a caption begins with: the decoder's first token and the prompt's."""
        longest = self._text.max_position_embeddings
        if not 1 <= options.num_beams <= MAX_BEAMS:
            raise InvalidRequest(f"num_beams: from 1 to {MAX_BEAMS}, not {options.num_beams}")
        if not 1 <= options.min_length <= options.max_length <= longest:
            raise InvalidRequest(
                f"min_length and max_length: 1 <= min_length <= max_length <= {longest}, "
                f"not {options.min_length} and {options.max_length}"
            )
        if len(options.prompt) > MAX_PROMPT:
            raise InvalidRequest(f"prompt: at most {MAX_PROMPT} characters")
        first = self._text.bos_token_id
        prompt = [first, *self._tokenizer.encode(options.prompt)]
        if len(prompt) >= options.max_length:
            raise InvalidRequest(
                f"prompt: it takes {len(prompt)} tokens with the one that begins a caption, which "
                f"leaves none of max_length {options.max_length}"
            )
        return prompt

    def _generate(
        self, images: Sequence[ByteArray], prompt: list[int], options: CaptionOptions
    ) -> list[list[int]]:
        return self._torch.attempt(
            lambda: self._run(images, prompt, options), f"{self.name} could not run"
        )

    @torch.inference_mode()
    def _run(
        self, images: Sequence[ByteArray], prompt: list[int], options: CaptionOptions
    ) -> list[list[int]]:
        network, text = self._network, self._text
        pixels = torch.from_numpy(self._preprocessing.blob(images)).to(self._device)
        seen = network.vision_model(pixel_values=pixels.to(network.dtype)).last_hidden_state
        search = GenerationConfig(  # type: ignore[no-untyped-call]
            num_beams=options.num_beams,
            max_length=options.max_length,
            # An end right after the prompt would be no caption.
            min_length=max(options.min_length, len(prompt) + 1),
            do_sample=False,
            bos_token_id=text.bos_token_id,
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
        )
        rows = network.text_decoder.generate(
            input_ids=torch.tensor([prompt] * len(images), device=self._device),
            generation_config=search,
            past_key_values=ImageCache(network.text_decoder, seen, options.num_beams),
            encoder_hidden_states=seen[:, :1],  # says that there is an image; the cache holds it
        )
        tokens: list[list[int]] = rows.tolist()
        return tokens


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed there, and not only stored."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
