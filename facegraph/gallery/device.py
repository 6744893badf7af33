"""Codes that lie on a GPU, where scoring, choosing and the best of a step are computed too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from facegraph.gallery.scoring import Pairs, bf16_rounding, margins
from facegraph.types import FloatArray

if TYPE_CHECKING:
    import torch

STEP = 2**18
"""Rows scored at a time; their bfloat16 scores with 128 probes take 64 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCodes:
    """The rows of an array on a torch device.

    rows: (n, d) bfloat16, or float32 where the products shall be those of float32
    errors, norms: (steps,) as of :class:`facegraph.gallery.codes.Codes`
    """

    rows: torch.Tensor
    errors: FloatArray
    norms: FloatArray
    stripes: int = 1

    @classmethod
    def of(cls, rows: FloatArray, storage: Literal["bf16", "float32"], device: str) -> DeviceCodes:
        """Copies ``rows`` (n, d) float32 to ``device``, a step at a time; RuntimeError."""
        import torch

        # A product's error is bounded for sums in float32 only; either may be set for a process.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_tf32 = False
        kind = torch.bfloat16 if storage == "bf16" else torch.float32
        placed = torch.empty(rows.shape, dtype=kind, device=device)
        bounds = []
        for start in range(0, len(rows), STEP):
            part = torch.from_numpy(np.array(rows[start : start + STEP])).to(device)
            codes = placed[start : start + STEP]
            codes.copy_(part)
            bounds.append([_longest(part - codes.float()), _longest(part)])
        table = np.array(bounds, np.float32).reshape(-1, 2)
        return cls(placed, table[:, 0], table[:, 1])

    def scores(self, probes: FloatArray) -> _DeviceScores:
        """How ``probes`` (b, d) float32 score."""
        return _DeviceScores(self, probes)


class _DeviceScores:
    """Implements :class:`facegraph.gallery.scoring.Scores`."""

    rows_per_step = STEP

    def __init__(self, codes: DeviceCodes, probes: FloatArray) -> None:
        import torch

        self._rows = codes.rows
        sent = torch.from_numpy(probes).to(codes.rows.device, codes.rows.dtype)
        exact = codes.rows.dtype == torch.float32
        rounding = probes.shape[1] * 2.0**-23 if exact else bf16_rounding(probes.shape[1])
        self.factors = np.ones((len(codes.norms), len(probes)))
        self.margins = margins(codes, probes, sent.float().cpu().numpy(), rounding)
        self._probes = sent.T.contiguous()

    def compute(self, step: int) -> None:
        import torch

        self._scores = torch.mm(self._rows[step * STEP : (step + 1) * STEP], self._probes)

    def top(self, wanted: int) -> Pairs:
        rows, probes = self._scores.shape
        wanted = min(wanted, rows)
        best = self._scores.topk(wanted, dim=0).indices.T.reshape(-1)
        return Pairs(best.cpu().numpy(), np.repeat(np.arange(probes), wanted))

    def reaching(self, least: npt.NDArray[np.float64]) -> Pairs:
        import torch

        lower = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        bound = torch.from_numpy(lower).to(self._scores.device)
        hits = (self._scores.float() >= bound).nonzero().cpu().numpy()
        return Pairs(hits[:, 0], hits[:, 1])

    def at(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        import torch

        rows, probes = (torch.from_numpy(part).to(self._scores.device) for part in pairs)
        found: npt.NDArray[np.float64] = self._scores[rows, probes].double().cpu().numpy()
        return found


def _longest(rows: torch.Tensor) -> float:
    """The length of the longest row, rounded up."""
    return float(rows.norm(dim=1).max()) * 1.0001
