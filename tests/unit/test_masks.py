"""Run lengths equal those of pycocotools, made and read in windows."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from facegraph.types import ByteArray
from facegraph.vision import masks

pytestmark = pytest.mark.unit


def published(mask: ByteArray) -> bytes:
    """What pycocotools makes of the whole mask."""
    return bytes(coco.encode(np.asfortranarray(mask))["counts"])


def placed(crop: ByteArray, left: int, top: int, width: int, height: int) -> ByteArray:
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return mask


@st.composite
def windows(draw: st.DrawFn) -> tuple[ByteArray, int, int, int, int]:
    """A crop of any pattern somewhere in an image, often touching its edges."""
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    bits = draw(
        st.one_of(
            hnp.arrays(np.uint8, (rows, columns), elements=st.integers(0, 1)),
            st.sampled_from([0, 1]).map(lambda bit: np.full((rows, columns), bit, np.uint8)),
        )
    )
    margins = st.one_of(st.just(0), st.integers(0, 5))
    left, right, top, bottom = (draw(margins) for _ in range(4))
    width, height = max(1, left + columns + right), max(1, top + rows + bottom)
    return bits, left, top, width, height


@given(windows())
@settings(max_examples=400, deadline=None)
def test_encodes_as_pycocotools_does(window: tuple[ByteArray, int, int, int, int]) -> None:
    crop, left, top, width, height = window
    want = published(placed(crop, left, top, width, height))
    assert masks.encode(crop, left, top, width, height) == want
    assert masks.encode(crop.astype(bool), left, top, width, height) == want
    assert masks.encode(crop * 255, left, top, width, height) == want


@given(windows(), st.data())
@settings(max_examples=400, deadline=None)
def test_decodes_windows(window: tuple[ByteArray, int, int, int, int], data: st.DataObject) -> None:
    mask = placed(*window)
    height, width = mask.shape
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, width)] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, height)] * 2)))
    counts = published(mask)
    got = masks.decode_window(counts, width, height, (left, top, right, bottom))
    assert got.dtype == np.uint8
    assert np.array_equal(got, mask[top:bottom, left:right])
    assert np.array_equal(masks.decode(counts, width, height), mask)
    assert masks.area(counts, width, height) == mask.sum()


@pytest.mark.parametrize(
    ("width", "height", "density"),
    [
        (700, 500, 0.5),  # runs of a pixel or two
        (700, 500, 0.001),  # runs over several columns
        (5000, 1, 0.3),
        (1, 5000, 0.3),
        (3000, 2000, 1.0),  # one run of six million
        (3000, 2000, 0.0),
    ],
)
def test_large_masks(width: int, height: int, density: float) -> None:
    mask = (np.random.default_rng(0).random((height, width)) < density).astype(np.uint8)
    counts = masks.encode(mask, 0, 0, width, height)
    assert counts == published(mask)
    window = (width // 3, height // 3, width - width // 4, height - height // 4)
    left, top, right, bottom = window
    got = masks.decode_window(counts, width, height, window)
    assert np.array_equal(got, mask[top:bottom, left:right])


def test_memory_follows_the_crop() -> None:
    crop = np.ones((100, 100), np.uint8)
    tracemalloc.start()
    try:
        counts = masks.encode(crop, 9000, 4000, 10_000, 5000)
        got = masks.decode_window(counts, 10_000, 5000, (8990, 3990, 9110, 4110))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.sum() == 10_000
    assert peak < 1_000_000  # the image has fifty million pixels


@pytest.mark.parametrize(
    ("left", "top"), [(-1, 0), (0, -1), (8, 0), (0, 7)], ids=["left", "top", "right", "bottom"]
)
def test_a_crop_beyond_the_image_is_refused(left: int, top: int) -> None:
    with pytest.raises(ValueError, match="a crop of 3×4 at"):
        masks.encode(np.ones((4, 3), np.uint8), left, top, 10, 10)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((1.0, 2.0, 3.0, 4.0), (1, 2, 3, 4)),
        ((1.2, 2.9, 3.1, 4.0), (1, 2, 4, 4)),  # outwards
        ((-5.0, -0.1, 100.0, 8.5), (0, 0, 10, 8)),  # clipped
        ((20.0, 20.0, 30.0, 30.0), (20, 20, 20, 20)),  # beyond: empty
        ((-9.0, -9.0, -3.0, -3.0), (0, 0, 0, 0)),
    ],
)
def test_window_of(box: tuple[float, ...], window: masks.Window) -> None:
    assert masks.window_of(box, 10, 8) == window


@pytest.mark.parametrize(
    ("box", "coverage", "iou"),
    [
        ((2, 3, 6, 5), 1.0, 1.0),
        ((0, 0, 10, 8), 8 / 80, 8 / 80),
        ((2, 3, 4, 5), 1.0, 0.5),
        ((4, 4, 8, 6), 2 / 8, 2 / 14),
        ((5.5, 4.5, 5.9, 4.6), 1.0, 1 / 8),  # within one pixel
        ((7, 0, 9, 2), 0.0, 0.0),
        ((12, 12, 20, 20), 0.0, 0.0),  # outside the image
        ((3, 3, 3, 3), 0.0, 0.0),
    ],
)
def test_mask_against_a_box(box: tuple[float, ...], coverage: float, iou: float) -> None:
    counts = masks.encode(np.ones((2, 4), np.uint8), 2, 3, 10, 8)
    assert masks.coverage(counts, 10, 8, box) == pytest.approx(coverage)
    assert masks.box_iou(counts, 10, 8, box) == pytest.approx(iou)


def test_an_empty_mask() -> None:
    counts = masks.encode(np.zeros((2, 4), np.uint8), 2, 3, 10, 8)
    assert masks.area(counts, 10, 8) == 0
    assert masks.coverage(counts, 10, 8, (0, 0, 10, 8)) == 0
    assert masks.box_iou(counts, 10, 8, (3, 3, 3, 3)) == 0


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 5), (16, 3)])
def test_png(width: int, height: int) -> None:
    mask = (np.random.default_rng(1).random((height, width)) < 0.5).astype(np.uint8)
    data = masks.png(published(mask), width, height)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "1")
        assert np.array_equal(np.array(picture.convert("L")), mask * 255)
