"""Short numbers: bfloat16, and int8 as far as this processor multiplies it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray

TOP = 127
"""Of int8, either way."""

_SLOWLY = 2.0
_TRIED = 8192


def torch_alone() -> Any:
    """PyTorch, which is to start no threads of its own for the calling one."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # it counts for the calling thread
    return torch


def to_bf16(rows: FloatArray) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest bfloat16, as its 16 bits."""
    torch = torch_alone()
    short = torch.from_numpy(rows).bfloat16().view(torch.uint16)
    codes: npt.NDArray[np.uint16] = short.numpy()
    return codes


def from_bf16(codes: npt.NDArray[np.uint16]) -> FloatArray:
    """What the 16 bits of a bfloat16 say."""
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


@functools.cache
def int8_is_exact() -> bool:
    """Whether products are; those of processors without instructions for them may saturate."""
    codes, probes = _int8_trial()
    rows, columns = codes.numpy().astype(np.float32), probes.numpy().astype(np.float32)
    try:
        return all(
            np.array_equal(
                torch_alone()._int_mm(codes, probes[:, :count].contiguous()).numpy(),
                rows @ columns[:, :count],
            )
            for count in (1, 8, probes.shape[1])
        )
    except RuntimeError:
        return False


@functools.cache
def int8_is_fast() -> bool:
    """Whether products are made by the processor's own instructions.

    Those are several times as fast as float32's, a loop without them many times slower: so how
    busy the machine is changes nothing, and all processes of a machine agree.
    """
    codes, probes = _int8_trial()
    probes = probes[:, :8].contiguous()
    rows, columns = codes.numpy().astype(np.float32), probes.numpy().astype(np.float32)
    times = [
        (_time(lambda: torch_alone()._int_mm(codes, probes)), _time(lambda: rows @ columns))
        for _ in range(5)
    ]
    short, long = (min(column) for column in zip(*times, strict=True))
    return bool(short < _SLOWLY * long)


def _int8_trial() -> tuple[Any, Any]:
    """Codes (_TRIED, 256) and probes (256, 64), the extremes among them, as tensors."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-TOP, TOP + 1, (_TRIED, 256), np.int8)
    probes = rng.integers(-TOP, TOP + 1, (256, 64), np.int8)
    codes[0], probes[:, 0] = TOP, -TOP
    return torch_alone().from_numpy(codes), torch_alone().from_numpy(probes)


def multiply_by_double(rows: Any, probes: Any, *, out: Any) -> None:
    """Exact on any processor, and slow: a file may come from one that needs no such thing."""
    out.copy_(rows.double() @ probes.double())


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
