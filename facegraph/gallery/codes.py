"""What a search reads of every row to choose candidates: short codes with proven error bounds.

A block of rows shares one scale. For each block is kept how far a row's code may lie from the
row, so that a score of codes says within which bounds the similarity lies. A search takes every
row whose upper bound reaches what it has, and so misses none.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray

Storage = Literal["float32", "bf16", "int8"]

BLOCK = 8192
"""Rows that share a scale, and are scored at a time."""

_SLACK = 1e-6
"""Above what a similarity loses when it is rounded to float32."""

_TOP = 127

_FEW_ROWS = 4096
_SLOWLY = 2.0

_LOWEST = np.iinfo(np.int32).min


class Scores(Protocol):
    """Scores of the rows of one array with some probes, step by step; for one thread.

    steps: how many there are
    rows_per_step: rows scored at a time
    factors: (steps, probes) by which a score becomes a similarity
    margins: (steps, probes) by how much that similarity may be wrong, either way
    """

    rows_per_step: int
    factors: npt.NDArray[np.float64]
    margins: npt.NDArray[np.float64]

    def compute(self, step: int) -> None:
        """Scores the rows of ``step``; what is asked below is asked of them."""
        ...

    def top(self, wanted: int) -> Pairs:
        """The best ``wanted`` rows for each probe, or all."""
        ...

    def reaching(self, least: npt.NDArray[np.float64]) -> Pairs:
        """Rows whose score is at least their probe's of ``least`` (probes,)."""
        ...

    def at(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """The scores of ``pairs``."""
        ...


class Coded(Protocol):
    """Codes wherever they lie; ``stripes`` is how many threads may share their rows."""

    @property
    def stripes(self) -> int: ...

    def scores(self, probes: FloatArray) -> Scores:
        """How ``probes`` (b, d) float32 score; for one thread."""
        ...


class Pairs(NamedTuple):
    """Rows, counted from the step's first, each with a probe; (n,) intp both."""

    rows: npt.NDArray[np.intp]
    probes: npt.NDArray[np.intp]

    def take(self, kept: npt.NDArray[np.intp]) -> Pairs:
        return Pairs(self.rows[kept], self.probes[kept])


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
                return _Int8Scores(self, probes)
            case "bf16":
                return _Bf16Scores(self, probes)
            case "float32":
                return _FloatScores(self, probes)


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
    scale = float(np.float32(np.abs(rows).max(initial=0) / _TOP)) or 1.0
    rounded = np.rint(rows * np.float32(1 / scale))
    np.clip(rounded, -_TOP, _TOP, out=rounded)
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
    return "int8" if rows > _FEW_ROWS and _int8_is_exact() and _int8_is_fast() else "float32"


@functools.cache
def _int8_is_exact() -> bool:
    """Whether products are; those of processors without instructions for them may saturate."""
    codes, probes = _int8_trial()
    rows, columns = codes.numpy().astype(np.float32), probes.numpy().astype(np.float32)
    try:
        return all(
            np.array_equal(
                _torch()._int_mm(codes, probes[:, :count].contiguous()).numpy(),
                rows @ columns[:, :count],
            )
            for count in (1, 8, probes.shape[1])
        )
    except RuntimeError:
        return False


@functools.cache
def _int8_is_fast() -> bool:
    """Whether products are made by the processor's own instructions.

    Those are several times as fast as float32's, a loop without them many times slower: so how
    busy the machine is changes nothing, and all processes of a machine agree.
    """
    codes, probes = _int8_trial()
    probes = probes[:, :8].contiguous()
    rows, columns = codes.numpy().astype(np.float32), probes.numpy().astype(np.float32)
    times = [
        (_time(lambda: _torch()._int_mm(codes, probes)), _time(lambda: rows @ columns))
        for _ in range(5)
    ]
    short, long = (min(column) for column in zip(*times, strict=True))
    return bool(short < _SLOWLY * long)


def _int8_trial() -> tuple[Any, Any]:
    """Codes (BLOCK, 256) and probes (256, 64), the extremes among them, as tensors."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-_TOP, _TOP + 1, (BLOCK, 256), np.int8)
    probes = rng.integers(-_TOP, _TOP + 1, (256, 64), np.int8)
    codes[0], probes[:, 0] = _TOP, -_TOP
    return _torch().from_numpy(codes), _torch().from_numpy(probes)


def _multiply_by_double(rows: Any, probes: Any, *, out: Any) -> None:
    """Exact on any processor, and slow: a file may come from one that needs no such thing."""
    out.copy_(rows.double() @ probes.double())


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class _CpuScores:
    """What the kinds of codes have in common: a product into ``_scores``, then NumPy."""

    rows_per_step = BLOCK
    factors: npt.NDArray[np.float64]
    margins: npt.NDArray[np.float64]
    _scores: npt.NDArray[Any]
    _hits: npt.NDArray[np.bool_] | None = None

    def top(self, wanted: int) -> Pairs:
        rows, probes = self._scores.shape
        wanted = min(wanted, rows)
        by_probe = np.ascontiguousarray(self._scores.T)
        best = np.argpartition(by_probe, rows - wanted, axis=1)[:, rows - wanted :]
        return Pairs(best.ravel(), np.repeat(np.arange(probes), wanted))

    def reaching(self, least: npt.NDArray[np.float64]) -> Pairs:
        kind = self._scores.dtype
        if kind == np.int32:
            bound = np.clip(np.floor(least), _LOWEST, -(_LOWEST + 1)).astype(kind)
        else:
            bound = np.nextafter(least.astype(kind), kind.type(-np.inf))
        rows, probes = self._scores.shape
        if self._hits is None:
            self._hits = np.empty((self.rows_per_step, probes), np.bool_)
        reach = np.greater_equal(self._scores, bound, out=self._hits[:rows])
        return Pairs(*np.divmod(np.flatnonzero(reach), probes))

    def at(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._scores[pairs.rows, pairs.probes].astype(np.float64)
        return found


class _Int8Scores(_CpuScores):
    def __init__(self, codes: Codes, probes: FloatArray) -> None:
        torch = _torch()
        scales = np.abs(probes).max(axis=1, initial=0).astype(np.float64) / _TOP
        scales[scales == 0] = 1.0
        short = np.rint(probes / scales[:, np.newaxis])
        self.factors = codes.scales[:, np.newaxis] * scales
        self.margins = margins(codes, probes, short * scales[:, np.newaxis], 0.0)
        self._rows = torch.from_numpy(codes.data)
        self._probes = torch.from_numpy(np.ascontiguousarray(short.T.astype(np.int8)))
        self._out = torch.empty((BLOCK, len(probes)), dtype=torch.int32)
        self._multiply = torch._int_mm if _int8_is_exact() else _multiply_by_double

    def compute(self, step: int) -> None:
        rows = self._rows[step * BLOCK : (step + 1) * BLOCK]
        out = self._out[: rows.shape[0]]
        self._multiply(rows, self._probes, out=out)
        self._scores = out.numpy()


class _Bf16Scores(_CpuScores):
    def __init__(self, codes: Codes, probes: FloatArray) -> None:
        torch = _torch()
        short = to_bf16(probes)
        self.factors = np.ones((len(codes.scales), len(probes)))
        self.margins = margins(codes, probes, from_bf16(short), bf16_rounding(probes.shape[1]))
        self._rows = torch.from_numpy(codes.data).view(torch.bfloat16)
        self._probes = torch.from_numpy(np.ascontiguousarray(short.T)).view(torch.bfloat16)
        self._out = torch.empty((BLOCK, len(probes)), dtype=torch.bfloat16)
        self._multiply = torch.mm

    def compute(self, step: int) -> None:
        rows = self._rows[step * BLOCK : (step + 1) * BLOCK]
        out = self._out[: rows.shape[0]]
        self._multiply(rows, self._probes, out=out)
        self._scores = out.float().numpy()


class _FloatScores(_CpuScores):
    def __init__(self, codes: Codes, probes: FloatArray) -> None:
        self.factors = np.ones((len(codes.scales), len(probes)))
        self.margins = margins(codes, probes, probes, codes.data.shape[1] * 2.0**-23)
        self._rows, self._probes = codes.data, np.ascontiguousarray(probes.T)
        self._out = np.empty((min(BLOCK, len(codes.data)), len(probes)), np.float32)

    def compute(self, step: int) -> None:
        rows = self._rows[step * BLOCK : (step + 1) * BLOCK]
        self._scores = np.matmul(rows, self._probes, out=self._out[: len(rows)])


def _torch() -> Any:
    """PyTorch, which is to start no threads of its own for the calling one."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # it counts for the calling thread
    return torch


def bf16_rounding(dimension: int) -> float:
    """Relative error of a product summed in float32 and then rounded to bfloat16 itself."""
    return 2.0**-8 + dimension * 2.0**-23


class Bounded(Protocol):
    """Codes, as far as bounds need them; see :class:`Codes`."""

    @property
    def errors(self) -> FloatArray: ...
    @property
    def norms(self) -> FloatArray: ...


def margins(
    codes: Bounded, probes: FloatArray, short: npt.NDArray[Any], rounding: float
) -> npt.NDArray[np.float64]:
    """By how much the products of codes with ``short``, the probes' codes, may be wrong.

    With e what a code lacks of its row x, and f of its probe p, x·p is (x-e)·(p-f) but for
    e·p + (x-e)·f, which by Cauchy and Schwarz is at most |e||p| + |x-e||f|.

    rounding: relative error of the product itself
    """
    error, norm = (codes.errors[:, np.newaxis] * 1.0, codes.norms[:, np.newaxis] * 1.0)
    length = np.linalg.norm(probes.astype(np.float64), axis=1)
    lost = np.linalg.norm(probes - short.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):  # of infinite lengths nothing is known
        largest = (norm + error) * (length + lost)
        bound: npt.NDArray[np.float64] = (
            error * length + (norm + error) * lost + largest * rounding + _SLACK
        )
    bound[np.isnan(bound)] = np.inf
    return bound


def _longest(rows: FloatArray) -> float:
    """The length of the longest row, rounded up."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return float(np.sqrt(squares.max(initial=0))) * 1.0001


def to_bf16(rows: FloatArray) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest bfloat16, as its 16 bits."""
    torch = _torch()
    short = torch.from_numpy(rows).bfloat16().view(torch.uint16)
    codes: npt.NDArray[np.uint16] = short.numpy()
    return codes


def from_bf16(codes: npt.NDArray[np.uint16]) -> FloatArray:
    """What the 16 bits of a bfloat16 say."""
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
