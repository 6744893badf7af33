"""Attributes of real faces: the networks against their own packages, signs, and spoofs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facegraph.config import DetectorTuning, Settings
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.models.packs import FacePack, find_pack
from facegraph.types import Attributes, ByteArray, FloatArray
from tests.photos import ASTRONAUT, GROUP, PORTRAIT, assets, encoded, pixels

pytestmark = pytest.mark.model

CAST = {
    "amy": "female",
    "bernadette": "female",
    "penny": "female",
    "howard": "male",
    "leonard": "male",
    "raj": "male",
    "sheldon": "male",
    "stuart": "male",
}

FRIENDS = {
    "Chandler": "male",
    "Joey": "male",
    "Monica": "female",
    "Phoebe": "female",
    "Rachel": "female",
    "Ross": "male",
}


def read(detector: Detector, image: bytes, max_faces: int = 100) -> Attributes:
    told = detector.detect(image, max_faces=max_faces, crops=False, attributes=True).attributes
    assert told is not None
    return told


def column(values: FloatArray | None) -> FloatArray:
    assert values is not None
    return values


def male(told: Attributes) -> list[bool]:
    return [p > 0.5 for p in column(told.male_probabilities)]


def test_nothing_is_read_unless_asked_for(detector: Detector) -> None:
    detection = detector.detect(ASTRONAUT.read_bytes(), max_faces=1, crops=False)
    assert detection.attributes is None


def test_age_and_gender(detector: Detector) -> None:
    """Eileen Collins at 42, Tom Hanks at about 50, and a cast of three men and three women."""
    astronaut = read(detector, ASTRONAUT.read_bytes())
    assert male(astronaut) == [False]
    assert 25 < column(astronaut.ages)[0] < 45
    portrait = read(detector, PORTRAIT.read_bytes())
    assert male(portrait) == [True]
    assert 35 < column(portrait.ages)[0] < 60
    group = read(detector, GROUP.read_bytes())
    assert male(group) == [True, False, False, True, False, False]
    assert all(20 < age < 45 for age in column(group.ages))
    assert column(group.male_probabilities).min() >= 0


def test_gender_of_many(detector: Detector) -> None:
    """20 of 21 at least: one picture of each of the cast, the friends, and the photos above."""
    shown = {assets("faces", "bbt", who, f"{who}1.png"): label for who, label in CAST.items()}
    shown |= {assets("faces", "friends", f"{who}.png"): label for who, label in FRIENDS.items()}
    right = [
        male(read(detector, path.read_bytes(), 1)) == [label == "male"]
        for path, label in shown.items()
    ]
    group = male(read(detector, GROUP.read_bytes()))
    right += [found == wanted for found, wanted in zip(group, [1, 0, 0, 1, 0, 0], strict=True)]
    right += [male(read(detector, ASTRONAUT.read_bytes())) == [False]]
    assert len(right) == 21
    assert sum(right) >= 20


DLIB_AGES = {"amy4": 45, "howard4": 32, "leonard4": 34, "penny2": 23, "raj2": 30, "sheldon2": 37}
"""What the package age-and-gender 2.0.0 itself says, with its own landmarks."""


def test_ages_are_near_those_of_the_package(detector: Detector) -> None:
    ages = [
        float(
            column(read(detector, assets("faces", "bbt", n[:-1], f"{n}.png").read_bytes()).ages)[0]
        )
        for n in DLIB_AGES
    ]
    assert ages == pytest.approx(list(DLIB_AGES.values()), abs=6)


@pytest.fixture(scope="module")
def insightface_pack(insightface_home: Path) -> FacePack:
    return find_pack(Settings(face_pack="buffalo_s", insightface_home=insightface_home))


def test_genderage_as_insightface_does_it(
    insightface_pack: FacePack, insightface_home: Path
) -> None:
    """The same boxes: the same ages and genders, to the year."""
    from insightface.app.common import Face
    from insightface.model_zoo.attribute import Attribute

    path = insightface_home / "models" / "buffalo_s" / "genderage.onnx"
    theirs = Attribute(model_file=str(path))
    theirs.prepare(-1)
    detector = Detector(insightface_pack, DetectorTuning(), accelerator="cpu")
    photos = [GROUP, ASTRONAUT, PORTRAIT]
    photos += sorted(assets("faces", "bbt").glob("*.jpg"))
    photos += sorted(assets("faces", "bbt").glob("*/*.png"))
    compared = 0
    for photo in photos:
        rgb = pixels(photo)
        detection = detector.detect(encoded(rgb), max_faces=100, crops=False, attributes=True)
        told = detection.attributes
        assert told is not None
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        for box, age, man in zip(detection.faces.boxes, column(told.ages), male(told), strict=True):
            gender, years = theirs.get(bgr, Face(bbox=box))
            assert (round(float(age)), man) == (years, gender == 1)
            compared += 1
    assert compared > 60


def liveness_pack(opencv_pack: FacePack, folder: Path) -> FacePack:
    """The default pack with the liveness files beside its own."""
    home = folder / "opencv"
    home.mkdir()
    for file in opencv_pack.detector.file.path.parent.iterdir():
        (home / file.name).symlink_to(file)
    (home / "liveness").symlink_to(assets("liveness"))
    return find_pack(Settings(face_pack="opencv", models_dir=folder))


def test_spoofs(opencv_pack: FacePack, tmp_path: Path) -> None:
    """The samples of MiniFASNet's authors: one person, two pictures of her."""
    pack = liveness_pack(opencv_pack, tmp_path)
    detector = Detector(pack, DetectorTuning(), accelerator="cpu")
    kinds = [told["kind"] for told in detector.describe()["attributes"]]
    assert kinds == ["dlib-age", "dlib-gender", "minifasnet", "minifasnet"]
    live = [
        float(
            column(read(detector, assets("faces", "spoof", name).read_bytes()).live_probabilities)[
                0
            ]
        )
        for name in ("image_T1.jpg", "image_F1.jpg", "image_F2.jpg")
    ]
    assert live[0] > 0.9
    assert max(live[1:]) < 0.3


def test_without_liveness_files_none_is_told(detector: Detector) -> None:
    assert read(detector, ASTRONAUT.read_bytes()).live_probabilities is None


def angles(detector: Detector, rgb: ByteArray) -> FloatArray:
    return column(read(detector, encoded(rgb)).poses)


def test_mirroring_turns_yaw_and_roll_around(detector: Detector) -> None:
    """The faces of a group come out in the order of their size, so in the same one."""
    rgb = pixels(GROUP)
    here, there = angles(detector, rgb), angles(detector, np.ascontiguousarray(rgb[:, ::-1]))
    assert len(here) == len(there) == 6
    for angle, least in ((0, 25), (2, 9)):
        clear = np.abs(here[:, angle]) > least
        assert clear.sum() >= 2
        assert (here[clear, angle] * there[clear, angle] < 0).all()
    assert np.abs(here[:, 0] + there[:, 0]).mean() < 10


def turned(rgb: ByteArray, degrees: float) -> ByteArray:
    """Clockwise, its border going on; OpenCV counts the other way."""
    height, width = rgb.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    done = cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(done, np.uint8)


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_turning_the_picture_shifts_roll(edgeface_pack: FacePack, degrees: float) -> None:
    """By as much, with a detector whose points follow."""
    detector = Detector(edgeface_pack, DetectorTuning(), accelerator="cpu")
    rgb = pixels(ASTRONAUT)
    before, after = angles(detector, rgb)[0], angles(detector, turned(rgb, degrees))[0]
    assert after[2] - before[2] == pytest.approx(degrees, abs=8)
    assert after[0] == pytest.approx(before[0], abs=8)


@pytest.mark.parametrize("degrees", [-45, -35, 15, 20, 25, 30, 35])
def test_turning_the_picture_and_yunet(detector: Detector, degrees: float) -> None:
    """YuNet's points lag behind a head that leans; turned looks catch up, at these angles. Turned
    by -30 to -15 the same face shows too little of it and stays behind."""
    rgb = pixels(ASTRONAUT)
    before, after = angles(detector, rgb)[0], angles(detector, turned(rgb, degrees))[0]
    assert after[2] - before[2] == pytest.approx(degrees, abs=8)
    assert after[0] == pytest.approx(before[0], abs=8)


def test_leaning_more_shows_more(detector: Detector) -> None:
    """Also where the points show too little of it for another look."""
    rgb = pixels(ASTRONAUT)
    rolls = [float(angles(detector, turned(rgb, by))[0, 2]) for by in range(-45, 36, 10)]
    assert rolls == sorted(rolls)


def test_a_face_that_looks_aside(detector: Detector) -> None:
    """Second of the group: a woman turned to the image's left, her nose near its contour."""
    group = read(detector, GROUP.read_bytes())
    assert column(group.poses)[1, 0] < -35
    assert group.quality_reasons is not None
    assert group.quality_reasons[1] == ("turned_away",)
    assert [bool(why) for why in group.quality_reasons] == [False, True] + [False] * 4


def test_quality_falls_as_recognition_does(detector: Detector, embedder: EmbeddingModel) -> None:
    """A spoilt picture's embedding turns away from the clean one's, and its quality says so."""
    rgb = pixels(ASTRONAUT)

    def look(each: Any) -> tuple[float, FloatArray]:
        detection = detector.detect(
            encoded(np.asarray(each, np.uint8)), max_faces=1, crops=True, attributes=True
        )
        assert detection.attributes is not None
        return float(column(detection.attributes.qualities)[0]), embedder.embed(detection.crops)[0]

    clean, whole = look(rgb)
    assert clean > 0.75
    spoilt = [look(cv2.GaussianBlur(rgb, (0, 0), sigma)) for sigma in (1, 2, 3, 4)]
    for row in (spoilt, [look(rgb * gain) for gain in (0.4, 0.15, 0.05)]):
        scores, cosines = [q for q, _ in row], [float(e @ whole) for _, e in row]
        assert scores == sorted(scores, reverse=True)
        assert cosines == sorted(cosines, reverse=True)
    assert spoilt[-1][0] < 0.4


@pytest.mark.parametrize("edge", ["left", "top", "right", "bottom"])
def test_faces_cut_by_the_border(opencv_pack: FacePack, tmp_path: Path, edge: str) -> None:
    """Squares around a face reach beyond the picture; every network still answers."""
    detector = Detector(liveness_pack(opencv_pack, tmp_path), DetectorTuning(), accelerator="cpu")
    rgb = pixels(ASTRONAUT)
    top, bottom = (85 if edge == "top" else 0), (160 if edge == "bottom" else 512)
    left, right = (200 if edge == "left" else 0), (250 if edge == "right" else 512)
    detection = detector.detect(
        encoded(np.ascontiguousarray(rgb[top:bottom, left:right])),
        max_faces=5,
        crops=False,
        attributes=True,
    )
    told = detection.attributes
    assert told is not None
    assert len(detection.faces) == 1
    assert np.isfinite(column(told.ages)).all()
    assert 0 <= column(told.live_probabilities)[0] <= 1
    assert 0 <= column(told.qualities)[0] <= 1


def test_attributes_do_not_depend_on_the_other_faces(detector: Detector) -> None:
    all_of_them, largest = read(detector, GROUP.read_bytes()), read(detector, GROUP.read_bytes(), 1)
    assert column(largest.ages)[0] == pytest.approx(column(all_of_them.ages)[0], abs=1e-3)
    assert column(largest.qualities)[0] == column(all_of_them.qualities)[0]
