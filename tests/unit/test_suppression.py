"""One box per face, against the definition written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from facegraph.faces import suppression
from facegraph.faces.heads import Candidates
from facegraph.faces.suppression import BLOCK, VOTE_OVERLAP, overlaps, suppressed, votes
from facegraph.types import FloatArray

pytestmark = pytest.mark.unit


def clusters(faces: int, each: int, seed: int = 0, side: float = 60.0) -> Candidates:
    """``each`` boxes about every one of ``faces`` places, some of which overlap; scores tie."""
    rng = np.random.default_rng(seed)
    middle = np.repeat(rng.uniform(0, 600, (faces, 2)), each, axis=0)
    middle += rng.normal(0, 6, middle.shape)
    half = rng.uniform(side / 3, side / 2, (faces * each, 1))
    boxes = np.hstack([middle - half, middle + half]).astype(np.float32)
    points = rng.uniform(0, 600, (faces * each, 5, 2)).astype(np.float32)
    scores = (rng.integers(60, 99, faces * each) / 100).astype(np.float32)
    return Candidates(boxes, points, scores)


def overlap(one: FloatArray, other: FloatArray) -> float:
    """Of two boxes."""
    (a, b, c, d), (e, f, g, h) = one.tolist(), other.tolist()
    common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return float(common / ((c - a) * (d - b) + (g - e) * (h - f) - common))


def slow_suppressed(boxes: FloatArray, scores: FloatArray, iou: float) -> list[int]:
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: (-scores[row], row)):
        if all(overlap(boxes[best], boxes[row]) < iou for best in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("iou", [0.05, 0.4, 0.9])
@pytest.mark.parametrize(
    ("faces", "each"),
    [
        (0, 0),
        (1, 1),
        (6, 8),  # a group photo
        (25, 12),  # a crowd: several blocks
        (150, 1),  # nearly all are kept
        (1, 150),  # long chains of boxes that cover each other
    ],
)
def test_as_pair_by_pair(faces: int, each: int, iou: float) -> None:
    seen = clusters(faces, each)
    rows = suppressed(seen.boxes, seen.scores, iou)
    assert rows.tolist() == slow_suppressed(seen.boxes, seen.scores, iou)


def test_a_chain_keeps_every_other_box() -> None:
    """Each covers the next but not the one after it, so what is covered covers nobody."""
    left = np.arange(0, 5 * (BLOCK + 7), 5, dtype=np.float32)
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 10)], axis=1)
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    assert suppressed(boxes, scores, 0.3).tolist() == list(range(0, len(boxes), 2))


def test_at_the_very_threshold_a_box_is_covered() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert suppressed(boxes, scores, 0.5).tolist() == [0]
    assert suppressed(boxes, scores, 0.5001).tolist() == [0, 1]


def test_only_the_best_scored_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", 20)
    seen = clusters(300, 1)
    best = np.argsort(-seen.scores, kind="stable")[:20]
    assert set(suppressed(seen.boxes, seen.scores, 0.4)) <= set(best.tolist())


def test_overlaps() -> None:
    one, other = clusters(7, 3, seed=1).boxes, clusters(5, 4, seed=2).boxes
    table = overlaps(one, other)
    assert table.dtype == np.float32
    assert np.allclose(table, [[overlap(a, b) for b in other] for a in one], atol=1e-5)


@pytest.mark.parametrize("pairs", [2**18, 100, 1])  # at once, some faces at a time, one at a time
def test_votes(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "MAX_PAIRS", pairs)
    seen = clusters(20, 9)
    rows = suppressed(seen.boxes, seen.scores, 0.4)
    points = votes(rows, seen)
    assert points.dtype == np.float32
    assert points.shape == (len(rows), 5, 2)
    for row, got in zip(rows, points, strict=True):
        near = np.array([overlap(seen.boxes[row], box) >= VOTE_OVERLAP for box in seen.boxes])
        weights = seen.scores[near].astype(np.float64) ** 2
        want = (weights @ seen.landmarks[near].reshape(-1, 10)) / weights.sum()
        assert np.allclose(got.reshape(-1), want, rtol=1e-6)


def test_nobody_votes() -> None:
    seen = clusters(0, 0)
    assert votes(np.zeros(0, np.intp), seen).shape == (0, 5, 2)
