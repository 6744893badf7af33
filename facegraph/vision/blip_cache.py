"""What BLIP's decoder keeps between two tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache


class ImageCache(EncoderDecoderCache):
    """The decoder's cache, with what it needs of the images computed once an image.

    By itself the decoder would compute an image's keys and values for every beam, and move them
    with every step's choice of beams, which are all of the same image.
    """

    def __init__(self, decoder: Any, seen: Tensor, beams: int) -> None:
        """``seen`` is what the vision encoder says of n images, (n, patches, width).

        decoder: BlipTextLMHeadModel, which will search with ``beams`` beams an image
        """
        config = decoder.config
        images = DynamicCache(config=config)
        for index, layer in enumerate(decoder.bert.encoder.layer):
            attention = layer.crossattention.self
            heads = (*seen.shape[:2], attention.num_attention_heads, attention.attention_head_size)
            keys, values = (
                linear(seen).view(heads).transpose(1, 2).repeat_interleave(beams, dim=0)
                for linear in (attention.key, attention.value)
            )
            images.update(keys, values, index)
        super().__init__(DynamicCache(config=config), images)

    def reorder_cache(self, beam_idx: Any) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)
