"""Pictures of segmentations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facegraph.types import ByteArray, Segmentation
from facegraph.vision.drawing import annotate, colour_masks, colour_of
from facegraph.vision.masks import encode

pytestmark = pytest.mark.unit


def segmentation(width: int, height: int, *windows: tuple[int, int, int, int]) -> Segmentation:
    """Objects that fill their boxes, in this order."""
    masks = [
        encode(np.ones((bottom - top, right - left), np.uint8), left, top, width, height)
        for left, top, right, bottom in windows
    ]
    return Segmentation(
        width,
        height,
        tuple(["person", "dog", "dining table"][at % 3] for at in range(len(windows))),
        np.linspace(0.9, 0.3, len(windows), dtype=np.float32),
        np.array(windows, np.float32).reshape(-1, 4),
        tuple(masks),
        "test",
    )


def photo(width: int, height: int) -> ByteArray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_masks_on_black_the_better_score_on_top() -> None:
    picture = colour_masks(segmentation(40, 30, (5, 5, 20, 20), (10, 10, 30, 25)))
    assert picture.shape == (30, 40, 3)
    assert picture.dtype == np.uint8
    want = np.zeros((30, 40, 3), np.uint8)
    want[10:25, 10:30] = colour_of(1)
    want[5:20, 5:20] = colour_of(0)
    assert np.array_equal(picture, want)


def test_colours_differ() -> None:
    colours = [np.array(colour_of(at), int) for at in range(30)]
    assert all(colour.max() >= 200 for colour in colours)
    nearest = min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2))
    assert nearest >= 12
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours[:8], 2)) >= 50


def test_nothing_found() -> None:
    nothing = segmentation(40, 30)
    assert not colour_masks(nothing).any()
    rgb = photo(40, 30)
    assert np.array_equal(annotate(rgb, nothing), rgb)


def test_annotate() -> None:
    rgb = photo(640, 480)
    before = rgb.copy()
    said = segmentation(640, 480, (100, 100, 200, 250), (300, 300, 400, 400))
    picture = annotate(rgb, said)
    assert np.array_equal(rgb, before)
    assert np.array_equal(picture, annotate(rgb, said))
    # Half the colour within, all of it on the edge, nothing far from any object.
    assert np.array_equal(picture[200, 150], rgb[200, 150] // 2 + np.array(colour_of(0)) // 2)
    assert tuple(picture[249, 150]) == colour_of(0)
    assert tuple(picture[350, 300]) == colour_of(1)
    assert np.array_equal(picture[:80], rgb[:80])
    assert np.array_equal(picture[:, 450:], rgb[:, 450:])
    # The label stands on its colour above the box, in black.
    label = picture[86:99, 101:150].reshape(-1, 3)
    assert (label == colour_of(0)).all(axis=1).any()
    assert (label < 40).all(axis=1).any()


def test_labels_avoid_each_other() -> None:
    one = segmentation(640, 480, (100, 100, 200, 250))
    two = segmentation(640, 480, (100, 100, 200, 250), (100, 100, 201, 251))
    rgb = np.zeros((480, 640, 3), np.uint8)
    above = annotate(rgb, one)[:98]
    assert np.array_equal(annotate(rgb, two)[:98], above)
    assert above.any()


@pytest.mark.parametrize(
    ("width", "height", "readable"),
    [
        (1, 1, False),
        (5000, 1, False),
        (1, 5000, False),
        (16, 16, False),  # a label would hide it all
        (112, 112, True),
        (4000, 3000, True),
    ],
)
def test_any_size(width: int, height: int, readable: bool) -> None:
    rgb = np.full((height, width, 3), 255, np.uint8)
    picture = annotate(rgb, segmentation(width, height, (0, 0, width, height)))
    assert picture.shape == rgb.shape
    ink = int((picture[..., 0] < 128).sum())  # the first colour is bright red
    assert (ink > 60) == readable


def test_an_empty_box() -> None:
    rgb = photo(300, 200)
    said = segmentation(300, 200, (50, 60, 50, 60))
    assert not colour_masks(said).any()
    assert not np.array_equal(annotate(rgb, said), rgb)


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 30×40×3"):
        annotate(photo(30, 40), segmentation(40, 30))
