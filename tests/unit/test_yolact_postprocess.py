"""YOLACT around its network: priors, decoding, Fast NMS, choice and masks, against slow loops."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from facegraph.types import FloatArray, SegmentOptions
from facegraph.vision import enlarging
from facegraph.vision.masks import Window
from facegraph.vision.yolact.assembly import assemble
from facegraph.vision.yolact.configs import CONFIGS
from facegraph.vision.yolact.postprocess import (
    MAX_OBJECTS,
    Objects,
    decode,
    fast_nms,
    find_objects,
)
from facegraph.vision.yolact.priors import make_priors
from tests import yolact_reference as reference

pytestmark = pytest.mark.unit

EVERYTHING = SegmentOptions(top_k=1_000_000, score_threshold=0.0)

SIZES = [(640, 480), (1, 1), (5000, 1), (1, 3000), (7, 1000)]


@pytest.mark.parametrize(("name", "count"), [("base", 19_248), ("im700", 30_963)])
def test_priors(name: str, count: int) -> None:
    config = CONFIGS[name]
    priors = make_priors(config)
    assert priors.shape == (count, 4)
    assert priors.dtype == torch.float32
    expected = np.array(reference.priors(config.size, config.scales), np.float32)
    np.testing.assert_allclose(priors.numpy(), expected, rtol=1e-6)


def test_priors_are_squares_as_the_authors_trained_them() -> None:
    """The three of the first cell, in pixels of the input."""
    first = make_priors(CONFIGS["resnet50"])[:3] * 550
    half = 550 / 69 / 2
    sides = [24, 24 * 0.5**0.5, 24 * 2**0.5]
    expected = torch.tensor([[half, half, side, side] for side in sides])
    torch.testing.assert_close(first, expected)


def test_scales_of_im700_are_those_of_base_enlarged_and_rounded_down() -> None:
    assert CONFIGS["im700"].scales == tuple(scale * 700 // 550 for scale in CONFIGS["base"].scales)


def test_decode() -> None:
    priors = torch.tensor([[0.5, 0.25, 0.2, 0.1], [0.5, 0.5, 0.1, 0.1]])
    offsets = torch.tensor([[0.0, 0.0, 0.0, 0.0], [10.0, -10.0, 5 * math.log(2), 0.0]])
    expected = torch.tensor([[0.4, 0.2, 0.6, 0.3], [0.5, 0.35, 0.7, 0.45]])
    torch.testing.assert_close(decode(offsets, priors), expected)


def grid_boxes(random: np.random.Generator, count: int) -> FloatArray:
    """On a coarse grid, so that overlaps of exactly one half and equal boxes occur."""
    corner = random.integers(0, 6, (count, 2))
    corners = np.hstack([corner, corner + random.integers(1, 5, (count, 2))])
    return (corners / 8).astype(np.float32)


class TestFastNms:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize(("count", "classes"), [(1, 1), (2, 3), (40, 4), (260, 2)])
    @pytest.mark.parametrize("above", [-1.0, 0.375, 0.7])
    def test_equals_loops(self, seed: int, count: int, classes: int, above: float) -> None:
        random = np.random.default_rng(seed)
        boxes = grid_boxes(random, count)
        # Few different scores: ties within classes and between them.
        scores = (random.integers(0, 12, (count, classes)) / 16).astype(np.float32)
        rows, labels = fast_nms(torch.from_numpy(boxes), torch.from_numpy(scores), above)
        everything = reference.fast_nms([(x, y, u, v) for x, y, u, v in boxes.tolist()], scores)
        expected = [(row, label) for row, label in everything if scores[row, label] > above]
        assert list(zip(rows.tolist(), labels.tolist(), strict=True)) == expected

    def test_a_box_that_went_still_suppresses(self) -> None:
        """Unlike in classic suppression: b goes for a, c goes for b, though a lets c be."""
        boxes = torch.tensor([[0.0, 0, 6, 1], [2.0, 0, 8, 1], [4.0, 0, 10, 1]])
        scores = torch.tensor([[0.9], [0.8], [0.7]])
        moved = torch.tensor([[0.0, 0, 6, 1], [1.5, 0, 7.5, 1], [3.0, 0, 9, 1]])
        assert fast_nms(boxes, scores, 0.0)[0].tolist() == [
            0,
            1,
            2,
        ]  # one half is not over one half
        assert fast_nms(moved, scores, 0.0)[0].tolist() == [0]

    def test_classes_do_not_suppress_each_other(self) -> None:
        boxes = torch.tensor([[0.0, 0, 1, 1], [0.0, 0, 1, 1]])
        rows, labels = fast_nms(boxes, torch.tensor([[0.9, 0.1], [0.2, 0.8]]), 0.0)
        assert (rows.tolist(), labels.tolist()) == ([0, 1], [0, 1])

    def test_only_the_best_two_hundred_of_a_class(self) -> None:
        at = torch.arange(300.0)
        boxes = torch.stack([at, at * 0, at + 1, at * 0 + 1], 1)  # side by side
        rows, _ = fast_nms(boxes, at[:, None] / 300, 0.0)
        assert rows.tolist() == list(range(299, 99, -1))


class Outputs:
    """A network's random output for one image; some priors stand out, some are far outside."""

    def __init__(self, seed: int, count: int, classes: int, bright: float) -> None:
        random = np.random.default_rng(seed)
        centers = random.uniform(-0.1, 1.1, (count, 2))
        sides = random.choice([0.05, 0.2, 0.5], (count, 1)).repeat(2, 1)
        self.priors = np.hstack([centers, sides]).astype(np.float32)
        self.offsets = random.normal(0, 2, (count, 4)).astype(np.float32)
        logits = random.normal(0, 1, (count, classes))
        logits[:, 0] += 4
        stands_out = random.random(count) < bright
        logits[stands_out, random.integers(1, classes, stands_out.sum())] += 7
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        # A coarse scale of scores brings ties.
        self.scores = (np.round(scores * 50) / 50).astype(np.float32)
        self.coefficients = np.tanh(random.normal(0, 1, (count, 32))).astype(np.float32)

    def find(self, width: int, height: int, options: SegmentOptions) -> Objects:
        return find_objects(
            torch.from_numpy(self.offsets),
            torch.from_numpy(self.scores),
            torch.from_numpy(self.coefficients),
            torch.from_numpy(self.priors),
            width=width,
            height=height,
            options=options,
        )

    def expected(self, width: int, height: int, options: SegmentOptions) -> list[reference.Found]:
        return reference.find(
            self.offsets,
            self.scores,
            self.priors,
            width,
            height,
            options.top_k,
            options.score_threshold,
        )

    def check(self, width: int, height: int, options: SegmentOptions) -> int:
        """Asserts equality with the loops; answers how many objects there are."""
        found, expected = self.find(width, height, options), self.expected(width, height, options)
        assert found.classes.tolist() == [one.label for one in expected]
        assert found.scores.tolist() == [one.score for one in expected]
        rows = [one.prior for one in expected]
        np.testing.assert_array_equal(found.coefficients, self.coefficients[rows])
        boxes = np.array([one.box for one in expected], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-5, atol=1e-5 * max(width, height))
        assert found.boxes.dtype == found.scores.dtype == found.coefficients.dtype == np.float32
        return len(expected)


class TestFindObjects:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("size", SIZES)
    def test_equals_loops(self, seed: int, size: tuple[int, int]) -> None:
        outputs = Outputs(seed, count=100, classes=6, bright=0.3)
        assert outputs.check(*size, EVERYTHING) > 20
        assert outputs.check(*size, SegmentOptions(15, 0.15)) == 15
        assert outputs.check(*size, SegmentOptions(0, 0.15)) == 0

    def test_all_classes(self) -> None:
        assert Outputs(1, count=150, classes=81, bright=0.4).check(640, 480, EVERYTHING) == 100

    def test_one(self) -> None:
        outputs = Outputs(3, count=1, classes=81, bright=1)
        outputs.priors[:] = [[0.5, 0.5, 0.2, 0.2]]
        assert outputs.check(640, 480, SegmentOptions(15, 0.15)) == 1

    def test_none(self) -> None:
        outputs = Outputs(0, count=100, classes=81, bright=0)
        outputs.scores[:, 1:] = np.minimum(outputs.scores[:, 1:], 0.05)  # not over it
        assert outputs.check(640, 480, EVERYTHING) == 0
        found = outputs.find(640, 480, EVERYTHING)
        assert (found.boxes.shape, found.coefficients.shape) == ((0, 4), (0, 32))
        assert found.boxes.dtype == np.float32

    def test_the_threshold_itself_is_not_over_it(self) -> None:
        outputs = Outputs(0, count=3, classes=2, bright=0)
        outputs.priors[:] = [[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]
        outputs.offsets[:] = 0
        above = np.nextafter(np.float32(0.3), np.float32(1))
        outputs.scores[:, 1] = [0.3, above, 0.9]
        found = outputs.find(100, 100, SegmentOptions(15, 0.3))
        assert found.scores.tolist() == [np.float32(0.9), above]

    def test_boxes_outside_the_image_leave_no_place_empty(self) -> None:
        outputs = Outputs(0, count=4, classes=2, bright=0)
        outputs.offsets[:] = 0
        outputs.priors[:] = [
            [1.2, 0.5, 0.2, 0.2],  # beyond the right edge
            [1.1, 0.5, 0.2, 0.2],  # touches it
            [0.0, 0.0, 0.2, 0.4],  # half inside
            [0.5, 0.5, 0.2, 0.2],
        ]
        outputs.scores[:, 1] = [0.9, 0.8, 0.7, 0.6]
        found = outputs.find(200, 100, SegmentOptions(2, 0.15))
        np.testing.assert_allclose(found.boxes, [[0, 0, 20, 20], [80, 40, 120, 60]], rtol=1e-6)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
    def test_what_is_no_number_is_dropped(self, bad: float) -> None:
        outputs = Outputs(0, count=3, classes=2, bright=0)
        outputs.offsets[:] = 0
        outputs.priors[:] = [[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]
        outputs.scores[:, 1] = [0.9, 0.8, 0.7]
        outputs.offsets[0, 2] = bad
        outputs.scores[1] = np.nan
        found = outputs.find(100, 100, EVERYTHING)
        assert found.scores.tolist() == [np.float32(0.7)]

    def test_at_most_a_hundred(self) -> None:
        outputs = Outputs(0, count=400, classes=3, bright=0)
        at = np.arange(400)
        outputs.priors[:] = np.stack(
            [at % 20 / 20 + 0.02, at // 20 / 20 + 0.02, at * 0 + 0.03, at * 0 + 0.03], 1
        )
        outputs.offsets[:] = 0
        outputs.scores[:, 1:] = 0.4
        assert outputs.check(100, 100, EVERYTHING) == MAX_OBJECTS


def mix(seed: int, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(seed)
    prototypes = np.maximum(random.normal(0, 1, (32, rows, columns)), 0).astype(np.float32)
    return prototypes, np.tanh(random.normal(0, 1, 32)).astype(np.float32)


class TestAssemble:
    @pytest.mark.parametrize(
        ("size", "window"),
        [
            ((40, 30), (0, 0, 40, 30)),
            ((40, 30), (13, 7, 29, 30)),
            ((40, 30), (39, 29, 40, 30)),
            ((1, 1), (0, 0, 1, 1)),
            ((500, 1), (17, 0, 500, 1)),
            ((1, 500), (0, 400, 1, 420)),
            ((5, 4), (1, 1, 4, 3)),  # smaller than the prototypes
        ],
    )
    def test_equals_loops(self, size: tuple[int, int], window: Window) -> None:
        prototypes, coefficients = mix(0, 9, 11)
        mask = assemble(prototypes, coefficients, window, *size)
        left, top, right, bottom = window
        assert mask.shape == (bottom - top, right - left)
        sure = 0
        for y in range(top, bottom):
            for x in range(left, right):
                value = reference.mask_value(prototypes, coefficients, x, y, *size)
                if abs(value - 0.5) > 1e-5:
                    assert mask[y - top, x - left] == (value > 0.5)
                    sure += 1
        assert sure > 0.99 * mask.size

    @pytest.mark.parametrize("size", [(640, 480), (100, 90), (3, 2000)])
    def test_the_whole_equals_torch(self, size: tuple[int, int]) -> None:
        width, height = size
        prototypes, coefficients = mix(1, 138, 138)
        cells = torch.from_numpy(np.tensordot(coefficients, prototypes, 1)).sigmoid()
        large = functional.interpolate(
            cells[None, None], (height, width), mode="bilinear", align_corners=False
        )[0, 0].numpy()
        mask = assemble(prototypes, coefficients, (0, 0, width, height), width, height)
        sure = np.abs(large - 0.5) > 1e-5
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(mask[sure], (large > 0.5)[sure])
        assert 0.05 < mask.mean() < 0.95

    def test_a_window_is_cut_out_of_the_whole(self) -> None:
        prototypes, coefficients = mix(2, 138, 138)
        whole = assemble(prototypes, coefficients, (0, 0, 900, 700), 900, 700)
        part = assemble(prototypes, coefficients, (123, 456, 800, 601), 900, 700)
        np.testing.assert_array_equal(part, whole[456:601, 123:800])

    def test_tiles_leave_no_seam(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prototypes, coefficients = mix(3, 20, 20)
        expected = assemble(prototypes, coefficients, (0, 0, 100, 90), 100, 90)
        monkeypatch.setattr(enlarging, "TILE", 7)
        found = assemble(prototypes, coefficients, (0, 0, 100, 90), 100, 90)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize(("factor", "share"), [(1e6, 1.0), (-1e6, 0.0), (0.0, 0.0)])
    def test_extremes(self, factor: float, share: float) -> None:
        """Nothing overflows; exactly one half is not over one half."""
        prototypes = np.ones((32, 4, 4), np.float32)
        coefficients = np.full(32, factor, np.float32)
        mask: npt.NDArray[np.bool_] = assemble(prototypes, coefficients, (0, 0, 10, 10), 10, 10)
        assert mask.mean() == share
