"""Small values that the store's tests enrol."""

from __future__ import annotations

from typing import Any

import numpy as np

from facegraph.types import Contract, FloatArray, NewSample

CONTRACT = Contract("contract-a", "pack-a", "a" * 64, "arcface-112", 4)
OTHER_CONTRACT = Contract("contract-b", "pack-b", "b" * 64, "arcface-112", 3)


def vector(*numbers: float) -> FloatArray:
    """(4,) float32: the numbers first, zeros after."""
    return np.array([*numbers, 0.0, 0.0, 0.0, 0.0][:4], np.float32)


def sample(*numbers: float, **fields: Any) -> NewSample:
    return NewSample(vector(*numbers), **fields)
