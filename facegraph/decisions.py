"""What similarities mean: match, ambiguous or unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facegraph.types import Decision, FloatArray, Match


def similarity(left: FloatArray, right: FloatArray) -> float:
    """Raw cosine of two L2-normalised (d,) float32 vectors, in -1..1.

    Summed in float64 and rounded to float32, as the galleries do, so that a pair is as similar
    in a verification as in a search.
    """
    return float(similarities(right[np.newaxis], left)[0])


def similarities(rows: FloatArray, probe: FloatArray) -> FloatArray:
    """Raw cosine of each of ``rows`` (n, d) with ``probe`` (d,), as (n,) float32 in -1..1."""
    return pair_similarities(rows, np.broadcast_to(probe, rows.shape))


def pair_similarities(left: FloatArray, right: FloatArray) -> FloatArray:
    """Raw cosine of row i of ``left`` (n, d) with row i of ``right``, as (n,) float32 in -1..1.

    A pair's value does not depend on the pairs beside it, unlike a BLAS product's.
    """
    products = left.astype(np.float64) * right
    clipped: FloatArray = np.clip(products.sum(axis=1), -1, 1).astype(np.float32)
    return clipped


def decide(matches: Sequence[Match], threshold: float, margin: float) -> Decision:
    """The decision for one probe from its subjects, best first.

    ``unknown`` when the best is below ``threshold`` (inclusive); ``ambiguous`` when another
    subject comes closer to the best than ``margin``, be it over the threshold or not.
    """
    if not matches or matches[0].similarity < threshold:
        return "unknown"
    if len(matches) > 1 and matches[0].similarity - matches[1].similarity < margin:
        return "ambiguous"
    return "match"
