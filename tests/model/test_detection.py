"""The default detector on real photos, and on what peers get wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegraph.config import DetectorTuning
from facegraph.errors import ImageTooLarge, InvalidImage
from facegraph.faces.detection import Detector
from facegraph.models.packs import FacePack
from facegraph.types import ByteArray, Faces, FloatArray
from tests.photos import (
    ASTRONAUT,
    GROUP,
    GROUP_FACES,
    NO_FACE,
    PORTRAIT,
    encoded,
    pixels,
    resized,
)

pytestmark = pytest.mark.model


def found(detector: Detector, rgb: ByteArray) -> Faces:
    return detector.detect_pixels(rgb)


def nearest(faces: Faces, box: FloatArray) -> float:
    """Largest distance of any side of ``box`` from those of the nearest face, in box widths."""
    if not len(faces):
        return float("inf")
    return float(np.abs(faces.boxes - box).max(axis=1).min() / (box[2] - box[0]))


@pytest.fixture(scope="module")
def group_boxes(detector: Detector) -> FloatArray:
    return found(detector, pixels(GROUP)).boxes


def test_group_photo(detector: Detector) -> None:
    detection = detector.detect(GROUP.read_bytes(), max_faces=100, crops=True)
    assert (detection.width, detection.height) == (1280, 886)
    assert (len(detection.faces), detection.found) == (GROUP_FACES, GROUP_FACES)
    assert detection.crops.shape == (GROUP_FACES, 112, 112, 3)
    assert detection.faces.detection_scores.min() > 0.85
    sides = detection.faces.boxes[:, 2:] - detection.faces.boxes[:, :2]
    areas = sides.prod(axis=1)
    assert (np.diff(areas) <= 0).all()
    eyes, mouth = detection.faces.landmarks[:, :2], detection.faces.landmarks[:, 3:]
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all()
    assert (mouth[..., 1].min(axis=1) > eyes[..., 1].max(axis=1)).all()


@pytest.mark.parametrize(("path", "count"), [(ASTRONAUT, 1), (PORTRAIT, 1), (NO_FACE, 0)])
def test_other_photos(detector: Detector, path: Path, count: int) -> None:
    detection = detector.detect(path.read_bytes(), max_faces=10, crops=True)
    assert len(detection.faces) == len(detection.crops) == count


def test_max_faces_keeps_the_largest(detector: Detector) -> None:
    every = detector.detect(GROUP.read_bytes(), max_faces=100, crops=True)
    two = detector.detect(GROUP.read_bytes(), max_faces=2, crops=True)
    assert two.found == GROUP_FACES
    assert np.array_equal(two.faces.boxes, every.faces.boxes[:2])
    assert np.array_equal(two.crops, every.crops[:2])
    none = detector.detect(GROUP.read_bytes(), max_faces=2, crops=False)
    assert len(none.crops) == 0
    assert np.array_equal(none.faces.landmarks, two.faces.landmarks)


@pytest.mark.parametrize("face_width", [45, 60, 120, 300])
@pytest.mark.parametrize("place", [(0.03, 0.05), (0.37, 0.42), (0.66, 0.69)])
def test_tiny_faces_in_12_megapixels(
    detector: Detector, group_boxes: FloatArray, face_width: int, place: tuple[float, float]
) -> None:
    """The group photo somewhere in a large picture, its faces ``face_width`` pixels wide."""
    factor = face_width / float((group_boxes[:, 2] - group_boxes[:, 0]).mean())
    width, height = int(1280 * factor), int(886 * factor)
    small = resized(pixels(GROUP), (width, height))
    small = small[:3000, :4000]
    canvas = np.full((3000, 4000, 3), (96, 110, 84), np.uint8)
    left = min(int(4000 * place[0]), 4000 - small.shape[1])
    top = min(int(3000 * place[1]), 3000 - small.shape[0])
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    faces = found(detector, canvas)
    wanted = group_boxes * factor + np.array([left, top, left, top])
    assert [nearest(faces, box) < 0.25 for box in wanted] == [True] * GROUP_FACES
    assert len(faces) <= GROUP_FACES + 1  # no face twice; one false alarm is tolerated


@pytest.mark.parametrize("part", [1.2, 0.9, 0.7, 0.55])
@pytest.mark.parametrize("side", [150, 640, 1500])
@pytest.mark.parametrize("path", [ASTRONAUT, GROUP])
def test_face_that_fills_the_frame(detector: Detector, path: Path, part: float, side: int) -> None:
    """The picture shows only this part of the box around the largest face."""
    rgb = pixels(path)
    x1, y1, x2, y2 = found(detector, rgb).boxes[0]
    half = part * max(x2 - x1, y2 - y1) / 2
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    rows = slice(max(0, int(middle_y - half)), int(middle_y + half))
    columns = slice(max(0, int(middle_x - half)), int(middle_x + half))
    faces = found(detector, resized(rgb[rows, columns], (side, side)))
    assert len(faces) == 1
    assert (faces.boxes[0, 2:] - faces.boxes[0, :2]).min() > 0.5 * side


@pytest.mark.parametrize(("edge", "least"), [("left", 6), ("top", 6), ("right", 6), ("bottom", 5)])
def test_face_at_the_border(
    detector: Detector, group_boxes: FloatArray, edge: str, least: int
) -> None:
    """The picture ends a quarter into the face; at the bottom that takes mouth and chin."""
    rgb = pixels(GROUP)
    hits = 0
    for x1, y1, x2, y2 in group_boxes:
        quarter_x, quarter_y = (x2 - x1) / 4, (y2 - y1) / 4
        left = int(x1 + quarter_x) if edge == "left" else 0
        top = int(y1 + quarter_y) if edge == "top" else 0
        right = int(x2 - quarter_x) if edge == "right" else rgb.shape[1]
        bottom = int(y2 - quarter_y) if edge == "bottom" else rgb.shape[0]
        faces = found(detector, np.ascontiguousarray(rgb[top:bottom, left:right]))
        visible = np.array([max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)])
        hits += nearest(faces, visible - [left, top, left, top]) < 0.3
        assert faces.boxes.min() >= 0
        assert (faces.boxes[:, 2:] <= [right - left, bottom - top]).all()
    assert hits >= least


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(detector: Detector, orientation: int) -> None:
    """However the camera lay, the upright picture has the same faces."""
    upright = Image.fromarray(pixels(ASTRONAUT))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(stored[orientation]) if orientation > 1 else upright
    data = encoded(np.array(turned), exif=exif)
    straight = detector.detect(encoded(np.array(upright)), max_faces=5, crops=True)
    got = detector.detect(data, max_faces=5, crops=True)
    assert np.array_equal(got.faces.boxes, straight.faces.boxes)
    assert np.array_equal(got.crops, straight.crops)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 40_000), (7, 7)])
def test_odd_shapes(detector: Detector, shape: tuple[int, int]) -> None:
    assert len(found(detector, np.zeros((*shape, 3), np.uint8))) == 0


def test_bad_input(detector: Detector, opencv_pack: FacePack) -> None:
    with pytest.raises(InvalidImage):
        detector.detect(b"no picture", max_faces=1, crops=False)
    whole = GROUP.read_bytes()
    with pytest.raises(InvalidImage):
        detector.detect(whole[: len(whole) * 3 // 10], max_faces=1, crops=False)
    small = Detector(opencv_pack, DetectorTuning(max_image_pixels=1000), accelerator="cpu")
    with pytest.raises(ImageTooLarge):
        small.detect(GROUP.read_bytes(), max_faces=1, crops=False)


def test_reconfigure(opencv_pack: FacePack) -> None:
    detector = Detector(opencv_pack, DetectorTuning(), accelerator="cpu")
    assert len(found(detector, pixels(GROUP))) == GROUP_FACES
    detector.reconfigure(DetectorTuning(min_score=0.99))
    assert len(found(detector, pixels(GROUP))) == 0


def test_threads_get_the_same_answers(detector: Detector) -> None:
    photos = [path.read_bytes() for path in (GROUP, ASTRONAUT, PORTRAIT, NO_FACE)]

    def boxes(data: bytes) -> list[list[float]]:
        return detector.detect(data, max_faces=10, crops=True).faces.boxes.tolist()  # type: ignore[no-any-return]

    alone = [boxes(data) for data in photos]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(boxes, photos * 6)) == alone * 6


@pytest.fixture(params=["onnxruntime", "openvino"])
def by_engine(request: pytest.FixtureRequest, opencv_pack: FacePack) -> Detector:
    return Detector(opencv_pack, DetectorTuning(), engine=request.param, accelerator="cpu")


def test_engines_agree(by_engine: Detector, detector: Detector) -> None:
    ours, theirs = found(by_engine, pixels(GROUP)), found(detector, pixels(GROUP))
    assert np.allclose(ours.boxes, theirs.boxes, atol=0.05)
    assert np.allclose(ours.landmarks, theirs.landmarks, atol=0.05)


def test_describe(detector: Detector) -> None:
    said = detector.describe()
    assert said["file"] == "face_detection_yunet_2023mar_int8bq.onnx"
    assert said["sha256"].startswith("49f000ec501fef24")
    assert (said["engine"], said["provider"]) == ("onnxruntime", "CPUExecutionProvider")
