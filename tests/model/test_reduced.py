"""Photos of 12 megapixels, decoded whole and at half their size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from facegraph import images
from facegraph.errors import InvalidImage
from facegraph.faces.alignment import align
from facegraph.faces.detection import Detector
from facegraph.faces.suppression import overlaps
from facegraph.faces.views import FREE_SHAPES, tiles
from facegraph.images import Raster, decode
from facegraph.types import ByteArray, Detection
from tests.photos import ASTRONAUT, GROUP, GROUP_FACES, encoded, pixels, resized

pytestmark = pytest.mark.model

MANY = 50_000_000
TWELVE_MEGAPIXELS = {"group": (4160, 2880), "portrait": (3465, 3463)}


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    """The photos in 12 megapixels; sides of no multiple of 2 among them."""
    photos = {"group": GROUP, "portrait": ASTRONAUT}
    return {
        name: encoded(resized(pixels(photos[name]), size), "JPEG", quality=90)
        for name, size in TWELVE_MEGAPIXELS.items()
    }


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many times smaller each decoding was."""
    seen: list[int] = []
    plain = images._decoded

    def noted(*args: object) -> Raster:
        raster = plain(*args)  # type: ignore[arg-type]
        seen.append(raster.factor)
        return raster

    monkeypatch.setattr(images, "_decoded", noted)
    return seen


def detect(detector: Detector, data: bytes, *, crops: bool = False) -> Detection:
    return detector.detect(data, max_faces=100, crops=crops)


@pytest.mark.parametrize("name", ["group", "portrait"])
def test_the_same_faces(detector: Detector, large: dict[str, bytes], name: str) -> None:
    coarse, whole = (detect(detector, large[name], crops=crops) for crops in (False, True))
    assert (coarse.width, coarse.height) == (whole.width, whole.height) == TWELVE_MEGAPIXELS[name]
    assert len(coarse.faces) == len(whole.faces) == (GROUP_FACES if name == "group" else 1)
    for box, landmarks in zip(whole.faces.boxes, whole.faces.landmarks, strict=True):
        near = overlaps(box[None], coarse.faces.boxes)[0]
        side = (box[2:] - box[:2]).max()
        assert near.max() > 0.96
        assert np.abs(coarse.faces.landmarks[near.argmax()] - landmarks).max() < 0.03 * side


def test_crops_come_from_all_pixels(
    detector: Detector, large: dict[str, bytes], factors: list[int]
) -> None:
    """Decoded once, and crop by crop what those pixels give."""
    got = detect(detector, large["group"], crops=True)
    assert factors == [1]
    rgb = decode(large["group"], max_pixels=MANY)
    assert np.array_equal(got.crops, align(rgb, got.faces))


def test_large_faces_need_no_second_decoding(
    detector: Detector, large: dict[str, bytes], factors: list[int]
) -> None:
    detect(detector, large["portrait"])
    assert factors == [2]


def test_small_faces_are_looked_at_again_in_all_pixels(
    detector: Detector, factors: list[int]
) -> None:
    """Six faces of some 100 pixels in 12 megapixels."""
    canvas = np.full((3000, 4000, 3), 90, np.uint8)
    group = pixels(GROUP)
    canvas[1000 : 1000 + group.shape[0], 1500 : 1500 + group.shape[1]] = group
    data = encoded(canvas, "JPEG", quality=95)
    coarse = detect(detector, data)
    assert factors == [2, 1]
    whole = detect(detector, data, crops=True)
    assert len(coarse.faces) == len(whole.faces) == GROUP_FACES


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation(detector: Detector, large: dict[str, bytes], orientation: int) -> None:
    """Boxes are those of the upright picture, also where the reduced one begins before it."""
    stored = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    rgb: ByteArray = decode(large["portrait"], max_pixels=MANY)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.array(Image.fromarray(rgb).transpose(stored[orientation]))
    got = detect(detector, encoded(turned, "JPEG", quality=90, exif=exif))
    straight = detect(detector, large["portrait"])
    assert (got.width, got.height) == (straight.width, straight.height)
    side = np.ptp(straight.faces.boxes[0].reshape(2, 2), axis=0).max()
    assert np.abs(got.faces.boxes - straight.faces.boxes).max() < 0.03 * side


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_photo_is_refused(
    detector: Detector, large: dict[str, bytes], crops: bool, kept: float
) -> None:
    data = large["group"]
    with pytest.raises(InvalidImage):
        detect(detector, data[: int(len(data) * kept)], crops=crops)


def test_threads(detector: Detector, large: dict[str, bytes]) -> None:
    alone = {name: detect(detector, data).faces.boxes for name, data in large.items()}
    names = [*large] * 3
    with ThreadPoolExecutor(3) as pool:
        for name, got in zip(
            names, pool.map(lambda name: detect(detector, large[name]), names), strict=True
        ):
            assert np.array_equal(got.faces.boxes, alone[name])


def test_the_views_are_wanted_together(detector: Detector, large: dict[str, bytes]) -> None:
    """All tiles and the whole in the first turn, so that they can run together."""
    looking = detector.detecting(large["group"], max_faces=100, crops=False)
    assert len(next(looking)) == len(tiles(4160, 2880, FREE_SHAPES)) + 1
    looking.close()
