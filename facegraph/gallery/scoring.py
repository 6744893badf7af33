"""Scores of codes with probes, and within which bounds they tell the similarity."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from facegraph.gallery.arithmetic import (
    TOP,
    from_bf16,
    int8_is_exact,
    multiply_by_double,
    to_bf16,
    torch_alone,
)
from facegraph.types import FloatArray

BLOCK = 8192
"""Rows that share a scale, and are scored at a time."""

_SLACK = 1e-6
"""Above what a similarity loses when it is rounded to float32."""

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


class Stored(Protocol):
    """Codes in memory; see :class:`facegraph.gallery.codes.Codes`."""

    @property
    def data(self) -> npt.NDArray[Any]: ...
    @property
    def scales(self) -> FloatArray: ...
    @property
    def errors(self) -> FloatArray: ...
    @property
    def norms(self) -> FloatArray: ...


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


class Int8Scores(_CpuScores):
    def __init__(self, codes: Stored, probes: FloatArray) -> None:
        torch = torch_alone()
        scales = np.abs(probes).max(axis=1, initial=0).astype(np.float64) / TOP
        scales[scales == 0] = 1.0
        short = np.rint(probes / scales[:, np.newaxis])
        self.factors = codes.scales[:, np.newaxis] * scales
        self.margins = margins(codes, probes, short * scales[:, np.newaxis], 0.0)
        self._rows = torch.from_numpy(codes.data)
        self._probes = torch.from_numpy(np.ascontiguousarray(short.T.astype(np.int8)))
        self._out = torch.empty((BLOCK, len(probes)), dtype=torch.int32)
        self._multiply = torch._int_mm if int8_is_exact() else multiply_by_double

    def compute(self, step: int) -> None:
        rows = self._rows[step * BLOCK : (step + 1) * BLOCK]
        out = self._out[: rows.shape[0]]
        self._multiply(rows, self._probes, out=out)
        self._scores = out.numpy()


class Bf16Scores(_CpuScores):
    def __init__(self, codes: Stored, probes: FloatArray) -> None:
        torch = torch_alone()
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


class FloatScores(_CpuScores):
    def __init__(self, codes: Stored, probes: FloatArray) -> None:
        self.factors = np.ones((len(codes.scales), len(probes)))
        self.margins = margins(codes, probes, probes, codes.data.shape[1] * 2.0**-23)
        self._rows, self._probes = codes.data, np.ascontiguousarray(probes.T)
        self._out = np.empty((min(BLOCK, len(codes.data)), len(probes)), np.float32)

    def compute(self, step: int) -> None:
        rows = self._rows[step * BLOCK : (step + 1) * BLOCK]
        self._scores = np.matmul(rows, self._probes, out=self._out[: len(rows)])


def bf16_rounding(dimension: int) -> float:
    """Relative error of a product summed in float32 and then rounded to bfloat16 itself."""
    return 2.0**-8 + dimension * 2.0**-23


class Bounded(Protocol):
    """Codes, as far as bounds need them; see :class:`facegraph.gallery.codes.Codes`."""

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
