"""From labelled faces to a threshold.

FAR (false accept rate): the part of pairs of different people whose similarity reaches the
threshold. FRR (false reject rate): the part of pairs of one person that stays below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from facegraph.errors import InvalidRequest
from facegraph.types import FloatArray

RateArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Similarities of all pairs of faces, each sorted from low to high.

    genuine: (n,) float64, both faces of one person; impostor: (m,) float64, of two
    """

    genuine: RateArray
    impostor: RateArray

    def far(self, thresholds: RateArray | float) -> RateArray:
        return _share_at_or_over(self.impostor, thresholds)

    def frr(self, thresholds: RateArray | float) -> RateArray:
        return 1 - _share_at_or_over(self.genuine, thresholds)

    def accuracy(self, threshold: float) -> float:
        """The part of all pairs that a threshold decides rightly."""
        right = (self.genuine >= threshold).sum() + (self.impostor < threshold).sum()
        return float(right / (len(self.genuine) + len(self.impostor)))


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A threshold for a wanted FAR, with what was observed at it.

    far_bound: the largest true FAR that such a count of false accepts leaves plausible (95 %)
    extrapolated: the wanted FAR is rarer than the pairs can show, so the threshold comes from
        the shape of the impostors' distribution
    """

    threshold: float
    far: float
    frr: float
    far_bound: float
    extrapolated: bool


def pairs_of(embeddings: FloatArray, labels: Sequence[str]) -> Pairs:
    """All pairs among (n, d) float32 rows of length 1; ``labels[i]`` is the person of row i.

    Raises InvalidRequest unless there are two people, and one of them has two faces.
    """
    names = np.asarray(labels)
    rows, columns = np.triu_indices(len(names), k=1)
    similarities = (embeddings.astype(np.float64) @ embeddings.astype(np.float64).T)[rows, columns]
    same = names[rows] == names[columns]
    if not same.any() or same.all():
        raise InvalidRequest(
            "calibration needs at least two people, and two faces of at least one of them"
        )
    return Pairs(np.sort(similarities[same]), np.sort(similarities[~same]))


def equal_error(pairs: Pairs) -> tuple[float, float]:
    """The threshold at which FAR and FRR are nearest to each other, and their mean there."""
    thresholds = np.concatenate([pairs.genuine, pairs.impostor])
    far, frr = pairs.far(thresholds), pairs.frr(thresholds)
    best = int(np.lexsort((far + frr, np.abs(far - frr)))[0])
    return float(thresholds[best]), float((far[best] + frr[best]) / 2)


def recommend(pairs: Pairs, target_far: float) -> Recommendation:
    """The smallest threshold, to two decimals, that holds ``target_far`` in two ways.

    Observed: the share of impostor pairs at or over it is at most the target. Expected: a normal
    distribution with the impostors' mean and deviation leaves at most the target over it. The
    second matters where few pairs stand behind a small target: with a hundred pairs the largest
    similarity seen says little about one in a thousand. Cosines of unrelated embeddings of a
    hundred dimensions and more are close to normal. Where the people are few or alike the first
    is the larger one.
    """
    impostor = pairs.impostor
    tail = NormalDist(float(impostor.mean()), max(float(impostor.std()), 1e-9))
    threshold = math.ceil(tail.inv_cdf(1 - target_far) * 100) / 100
    while pairs.far(threshold) > target_far:
        threshold = round(threshold + 0.01, 2)
    accepted = int((impostor >= threshold).sum())
    return Recommendation(
        threshold=threshold,
        far=float(pairs.far(threshold)),
        frr=float(pairs.frr(threshold)),
        far_bound=_upper_bound(accepted, len(impostor)),
        extrapolated=target_far * len(impostor) < 1,
    )


def draw_curve(pairs: Pairs, chosen: Recommendation, title: str, path: Path) -> None:
    """FAR and FRR against the threshold, as a PNG (or what the suffix of ``path`` says)."""
    from matplotlib.figure import Figure

    thresholds = np.linspace(-0.2, 1.0, 601)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(thresholds, pairs.far(thresholds), label=f"FAR, {len(pairs.impostor)} pairs")
    axes.plot(thresholds, pairs.frr(thresholds), label=f"FRR, {len(pairs.genuine)} pairs")
    axes.axvline(
        chosen.threshold, color="grey", linestyle="--", label=f"threshold {chosen.threshold:g}"
    )
    axes.set(xlabel="threshold (cosine)", ylabel="rate", title=title, xlim=(-0.2, 1.0))
    axes.legend()
    figure.savefig(path)


def _share_at_or_over(values: RateArray, thresholds: RateArray | float) -> RateArray:
    below = np.searchsorted(values, thresholds, side="left")
    return np.asarray(1 - below / len(values), np.float64)


def _upper_bound(successes: int, trials: int) -> float:
    """One-sided 95 % bound of a rate (Wilson's score interval)."""
    z = 1.645
    rate = successes / trials
    middle = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return min(1.0, (middle + spread) / (1 + z * z / trials))
