"""Telling that memory ran out."""

from __future__ import annotations

import torch

PHRASES = ("can't allocate memory", "out of memory", "not enough memory")
"""What torch's allocators say; on the CPU in a plain RuntimeError."""


def ran_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in PHRASES)
