"""FAR, FRR and the recommended threshold, on pairs whose answer is known."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

from facegraph.calibration import Pairs, draw_curve, equal_error, pairs_of, recommend
from facegraph.errors import InvalidRequest


def pairs(genuine: list[float], impostor: list[float]) -> Pairs:
    return Pairs(np.sort(np.array(genuine)), np.sort(np.array(impostor)))


SIMPLE = pairs([0.3, 0.5, 0.7, 0.9], [-0.1, 0.0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    ("threshold", "far", "frr", "accuracy"),
    [
        (-1.0, 1.0, 0.0, 4 / 9),
        (0.0, 0.8, 0.0, 5 / 9),  # inclusive: 0.0 itself is accepted
        (0.3, 0.4, 0.0, 7 / 9),
        (0.4, 0.4, 0.25, 6 / 9),
        (0.41, 0.0, 0.25, 8 / 9),
        (0.95, 0.0, 1.0, 5 / 9),
    ],
)
def test_rates(threshold: float, far: float, frr: float, accuracy: float) -> None:
    assert float(SIMPLE.far(threshold)) == pytest.approx(far)
    assert float(SIMPLE.frr(threshold)) == pytest.approx(frr)
    assert SIMPLE.accuracy(threshold) == pytest.approx(accuracy)


def test_pairs_of_labelled_rows() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    got = pairs_of(rows, ["a", "a", "b"])
    assert got.genuine.tolist() == pytest.approx([0.6])
    assert got.impostor.tolist() == pytest.approx([0.0, 0.8])


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a"], ["a", "b"]])
def test_too_few(labels: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="two people"):
        pairs_of(np.eye(2, dtype=np.float32)[: len(labels)], labels)


def test_equal_error() -> None:
    assert equal_error(pairs([0.6, 0.7], [0.1, 0.2]))[1] == 0
    threshold, rate = equal_error(pairs([0.2, 0.6, 0.7, 0.8], [0.0, 0.1, 0.3, 0.65]))
    assert rate == pytest.approx(0.25)
    assert 0.3 < threshold <= 0.65


def test_recommendation_holds_what_is_observed() -> None:
    """One impostor pair far above the rest: the shape alone would accept it."""
    impostor = [0.0] * 999 + [0.8]
    chosen = recommend(pairs([0.9, 0.95], impostor), 0.0005)
    assert chosen.threshold == pytest.approx(0.81)
    assert (chosen.far, chosen.frr) == (0, 0)


def test_recommendation_expects_more_than_few_pairs_show() -> None:
    """Fifty pairs of a known distribution: the threshold lies near its true quantile."""
    normal = NormalDist(0.05, 0.1)
    impostor = [normal.inv_cdf((at + 0.5) / 50) for at in range(50)]
    chosen = recommend(pairs([0.6, 0.7], impostor), 0.001)
    assert chosen.extrapolated
    assert chosen.threshold == pytest.approx(normal.inv_cdf(0.999), abs=0.02)
    assert chosen.threshold > max(impostor)
    assert 0.01 < chosen.far_bound < 0.1


def test_many_pairs_need_no_extrapolation() -> None:
    impostor = np.random.default_rng(0).normal(0, 0.1, 50_000).tolist()
    chosen = recommend(pairs([0.6], impostor), 0.01)
    assert not chosen.extrapolated
    assert chosen.threshold == pytest.approx(0.24, abs=0.011)
    assert chosen.far <= 0.01
    assert chosen.far < chosen.far_bound < 0.012


def test_curve_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    draw_curve(SIMPLE, recommend(SIMPLE, 0.01), "a title", path)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (800, 500))
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 10
