"""Heads that lean: photos turned on a larger canvas, and the people in them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facegraph.config import DetectorTuning
from facegraph.faces import detection
from facegraph.faces.alignment import align
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.faces.looks import Looking
from facegraph.faces.upright import leaning, leans
from facegraph.images import Picture
from facegraph.models.packs import FacePack
from facegraph.types import ByteArray, Faces, FloatArray
from tests.photos import ASTRONAUT, GROUP, PORTRAIT, assets, pixels

pytestmark = pytest.mark.model


def turned(rgb: ByteArray, degrees: float) -> ByteArray:
    """Clockwise, all of it, on black."""
    height, width = rgb.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return np.asarray(cv2.warpAffine(rgb, matrix, (side, side)), np.uint8)


def largest(detector: Detector, embedder: EmbeddingModel, rgb: ByteArray) -> FloatArray | None:
    """The embedding (d,) of the largest face."""
    face = detector.detect_pixels(rgb).take(slice(0, 1))
    return embedder.embed(align(rgb, face))[0] if len(face) else None


@pytest.mark.parametrize(
    ("path", "degrees"),
    [
        (ASTRONAUT, -45),
        (ASTRONAUT, -30),
        (ASTRONAUT, -15),
        (ASTRONAUT, 15),
        (ASTRONAUT, 30),  # a cosine of 0.40 without turned looks
        (PORTRAIT, -30),
        (PORTRAIT, 30),
    ],
)
def test_a_leaning_head_stays_the_person(
    detector: Detector, embedder: EmbeddingModel, path: Path, degrees: float
) -> None:
    """Not at every angle: the astronaut at 45° and the portrait at ±15° show next to nothing of it
    (cosines 0.13, 0.81 and 0.68), and the portrait at ±45° is not found."""
    upright = largest(detector, embedder, pixels(path))
    leaning = largest(detector, embedder, turned(pixels(path), degrees))
    assert upright is not None
    assert leaning is not None
    assert float(upright @ leaning) > 0.9


@pytest.mark.parametrize("degrees", [-45, -30, -15, 15, 30, 45])
def test_everybody_in_the_turned_group_is_known(
    detector: Detector, embedder: EmbeddingModel, opencv_pack: FacePack, degrees: float
) -> None:
    """Those that are found; YuNet loses some heads that lean by 30° and more."""
    rgb, other = pixels(GROUP), turned(pixels(GROUP), degrees)
    people = embedder.embed(align(rgb, detector.detect_pixels(rgb)))
    found = detector.detect_pixels(other)
    similarity = embedder.embed(align(other, found)) @ people.T
    own = similarity.max(axis=1)
    assert len(set(similarity.argmax(axis=1).tolist())) == len(found) >= 1
    assert own.min() > 0.75
    assert np.sort(similarity, axis=1)[:, -2].max() < opencv_pack.threshold


def test_upright_faces_are_left_alone(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    with_looks = [detector.detect_pixels(pixels(path)) for path in (ASTRONAUT, PORTRAIT, GROUP)]

    def as_they_are(_: Picture, faces: Faces) -> Looking[Faces]:
        yield from ()
        return faces

    monkeypatch.setattr(detection, "straighten", as_they_are)
    without = [detector.detect_pixels(pixels(path)) for path in (ASTRONAUT, PORTRAIT, GROUP)]
    for here, there in zip(with_looks, without, strict=True):
        upright = ~leaning(there.landmarks)
        assert np.array_equal(here.landmarks[upright], there.landmarks[upright])
        assert np.array_equal(here.boxes, there.boxes)
        assert np.array_equal(here.detection_scores, there.detection_scores)
    assert [int(leaning(faces.landmarks).sum()) for faces in without] == [0, 0, 3]


def test_other_networks_are_left_alone(
    edgeface_pack: FacePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> Faces:
        raise AssertionError(arguments)

    monkeypatch.setattr(detection, "straighten", fail)
    detector = Detector(edgeface_pack, DetectorTuning(), accelerator="cpu")
    faces = detector.detect_pixels(turned(pixels(ASTRONAUT), 30))
    assert float(leans(faces.landmarks)[0]) == pytest.approx(30, abs=8)


@pytest.mark.parametrize("degrees", [-30, 30])
def test_pairs_with_one_leaning_head(
    detector: Detector, embedder: EmbeddingModel, opencv_pack: FacePack, degrees: float
) -> None:
    """Forty television faces: no person is missed and none taken for another."""
    upright, leaning, people = [], [], []
    for path in sorted(assets("faces", "bbt").glob("*/*.png")):
        here = largest(detector, embedder, pixels(path))
        there = largest(detector, embedder, turned(pixels(path), degrees))
        if here is not None and there is not None:
            upright.append(here)
            leaning.append(there)
            people.append(path.parent.name)
    assert len(people) >= 38
    similarity = np.array(leaning) @ np.array(upright).T
    same = np.array(people)[:, None] == np.array(people)
    others = same & ~np.eye(len(people), dtype=bool)
    assert similarity.diagonal().min() > 0.6
    assert similarity[others].min() >= opencv_pack.threshold
    assert similarity[~same].max() < opencv_pack.threshold
