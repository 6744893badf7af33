"""What a search reads of every row to choose candidates: short codes with proven error bounds.

A block of rows shares one scale. For each block is kept how far a row's code may lie from the
row, so that a score of codes says within which bounds the similarity lies. A search takes every
row whose upper bound reaches what it has, and so misses none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facegraph.gallery.arithmetic import TOP, from_bf16, int8_is_exact, int8_is_fast, to_bf16
from facegraph.gallery.scoring import BLOCK, Bf16Scores, FloatScores, Int8Scores, Scores
from facegraph.types import FloatArray

Storage = Literal["float32", "bf16", "int8"]

_FEW_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """The codes of an array of rows.

    data: (n, d): the rows themselves (float32), bfloat16 as uint16, or int8
    scales, errors, norms: (blocks,) float32: a code's unit; the greatest distance of a row from
        its code; the greatest length of a row
    """

    storage: Storage
    data: npt.NDArray[Any]
    scales: FloatArray
    errors: FloatArray
    norms: FloatArray

    @property
    def stripes(self) -> int:
        """How many threads may share the rows."""
        return max(1, len(self.scales))

    def scores(self, probes: FloatArray) -> Scores:
        """How ``probes`` (b, d) float32 score; for one thread."""
        match self.storage:
            case "int8":
                return Int8Scores(self, probes)
            case "bf16":
                return Bf16Scores(self, probes)
            case "float32":
                return FloatScores(self, probes)


def blocks(rows: int) -> int:
    """How many blocks hold ``rows``."""
    return -(-rows // BLOCK)


def code_type(storage: Storage) -> npt.DTypeLike:
    """What codes are made of."""
    return {"float32": np.float32, "bf16": np.uint16, "int8": np.int8}[storage]


def encode(
    storage: Storage, rows: FloatArray, out: npt.NDArray[Any] | None
) -> tuple[float, float, float]:
    """Writes the codes of one block (n, d) into ``out``; answers its scale, error and norm."""
    norm = _longest(rows)
    if storage == "float32":
        return 1.0, 0.0, norm
    assert out is not None
    if storage == "bf16":
        codes = to_bf16(rows)
        out[:] = codes
        return 1.0, _longest(rows - from_bf16(codes)), norm
    scale = float(np.float32(np.abs(rows).max(initial=0) / TOP)) or 1.0
    rounded = np.rint(rows * np.float32(1 / scale))
    np.clip(rounded, -TOP, TOP, out=rounded)
    out[:] = rounded
    rounded *= np.float32(scale)
    rounded -= rows
    return scale, _longest(rounded), norm


def float_codes(rows: FloatArray, norm: float) -> Codes:
    """Rows (n, d) as their own codes, none longer than ``norm``."""
    count = blocks(len(rows))
    one = np.ones(count, np.float32)
    return Codes("float32", rows, one, 0 * one, np.float32(norm) * one)


def best_storage(rows: int) -> Storage:
    """int8 where the processor multiplies it exactly and not slowly, else float32.

    A few thousand ``rows`` are read as fast either way.
    """
    return "int8" if rows > _FEW_ROWS and int8_is_exact() and int8_is_fast() else "float32"


def _longest(rows: FloatArray) -> float:
    """The length of the longest row, rounded up."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return float(np.sqrt(squares.max(initial=0))) * 1.0001
