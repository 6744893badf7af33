"""What is told of faces: pose and quality exactly, the networks' pixels and numbers with tiny
graphs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper, numpy_helper

from facegraph.faces import pose, quality
from facegraph.faces.age_gender import age_of, gender_of, genderage_input, genderage_of
from facegraph.faces.attributes import AttributeReader
from facegraph.faces.liveness import live_of, liveness_input, surroundings
from facegraph.models.packs import AttributeKind, AttributeModel, Licence, ModelFile
from facegraph.types import QUALITY_PARTS, ByteArray, Faces, FloatArray
from tests.photos import ASTRONAUT, pixels
from tests.unit.graphs import serialised, value

CC0 = Licence("CC0-1.0", permissive=True)

ASTRONAUT_FACE = Faces(
    np.array([[177, 62, 268, 176]], np.float32),
    np.array([[[204, 109], [243, 108], [223, 132], [208, 149], [241, 148]]], np.float32),
    np.array([0.9], np.float32),
)
"""Where the default detector finds her, rounded."""


def points(yaw: float, pitch: float, roll: float) -> FloatArray:
    """The generic head in this pose, photographed from 90 cm: (1, 5, 2)."""
    y, p, r = np.radians([yaw, pitch, roll])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    head = pose.HEAD @ (lean @ turn @ nod).T
    seen = head[:, :2] * 900 / (900 - head[:, 2:])
    return np.asarray(seen[None] * 2 + 300, np.float32)


def degrees(landmarks: FloatArray) -> list[float]:
    (row,) = pose.angles(pose.rotations(landmarks)).tolist()
    return list(row)


class TestPose:
    @pytest.mark.parametrize(
        "angles",
        [
            (0, 0, 0),
            (30, 0, 0),  # to the image's right
            (-60, 0, 0),
            (0, 20, 0),  # up
            (0, -20, 0),
            (0, 0, 40),  # clockwise
            (0, 0, -170),  # nearly upside down
            (25, 15, 30),
            (-40, -15, -20),
        ],
    )
    def test_angles_of_a_generic_head(self, angles: tuple[float, float, float]) -> None:
        assert degrees(points(*angles)) == pytest.approx(angles, abs=2)

    def test_signs_in_words(self) -> None:
        """A nose right of the eyes' middle, and a right eye below the left one."""
        ahead = points(0, 0, 0)
        right = ahead.copy()
        right[0, 2, 0] += 10
        assert degrees(right)[0] > 5
        leaning = ahead.copy()
        leaning[0, [1, 4], 1] += 20
        assert degrees(leaning)[2] > 4
        up = ahead.copy()
        up[0, 2, 1] -= 10
        assert degrees(up)[1] > 5

    def test_mirrored(self) -> None:
        seen = points(25, 10, 15)
        mirrored = (seen * [-1, 1])[:, [1, 0, 2, 4, 3]].astype(np.float32)
        yaw, pitch, roll = degrees(seen)
        assert degrees(mirrored) == pytest.approx([-yaw, pitch, -roll], abs=1e-3)

    def test_many_and_none(self) -> None:
        three = np.concatenate([points(a, 0, 0) for a in (-30, 0, 30)])
        assert pose.angles(pose.rotations(three))[:, 0] == pytest.approx([-30, 0, 30], abs=2)
        assert pose.angles(pose.rotations(three[:0])).shape == (0, 3)

    def test_points_that_collapse_look_ahead(self) -> None:
        assert degrees(np.full((1, 5, 2), 7, np.float32)) == pytest.approx([0, 0, 0])


def parts_of(rgb: ByteArray, faces: Faces) -> tuple[dict[str, float], tuple[str, ...]]:
    parts, (reasons,) = quality.measure(rgb, faces, pose.rotations(faces.landmarks))
    return dict(zip(QUALITY_PARTS, parts[0].tolist(), strict=True)), reasons


def scaled(faces: Faces, by: float) -> Faces:
    return Faces(faces.boxes * by, faces.landmarks * by, faces.detection_scores)


class TestQuality:
    def test_of_a_good_photo(self) -> None:
        parts, reasons = parts_of(pixels(ASTRONAUT), ASTRONAUT_FACE)
        assert min(parts.values()) > 0.75
        assert reasons == ()

    def test_blur_lowers_sharpness_alone(self) -> None:
        rgb = pixels(ASTRONAUT)
        blurred = [rgb, *(cv2.GaussianBlur(rgb, (0, 0), s) for s in (0.7, 1, 1.5, 2, 3, 5))]
        told = [parts_of(np.asarray(each, np.uint8), ASTRONAUT_FACE) for each in blurred]
        sharpness = [parts["sharpness"] for parts, _ in told]
        assert sharpness == sorted(sharpness, reverse=True)
        assert len(set(sharpness)) == len(sharpness)
        assert told[-1][1] == ("blurred",)
        assert {parts["size"] for parts, _ in told} == {told[0][0]["size"]}

    def test_darkness_lowers_brightness_and_little_of_sharpness(self) -> None:
        rgb = pixels(ASTRONAUT)
        told = [
            parts_of((rgb * gain).astype(np.uint8), ASTRONAUT_FACE)
            for gain in (0.4, 0.2, 0.1, 0.05, 0.02)
        ]
        brightness = [parts["brightness"] for parts, _ in told]
        assert brightness == sorted(brightness, reverse=True)
        assert len(set(brightness)) == len(brightness)
        assert "too_dark" in told[-1][1]
        assert told[1][0]["sharpness"] == pytest.approx(told[0][0]["sharpness"], abs=0.05)

    def test_overexposed(self) -> None:
        rgb = pixels(ASTRONAUT).astype(int)
        told = [
            parts_of(np.clip(rgb + 40 * step, 0, 255).astype(np.uint8), ASTRONAUT_FACE)
            for step in (1, 2, 3, 4)
        ]
        brightness = [parts["brightness"] for parts, _ in told]
        assert brightness == sorted(brightness, reverse=True)
        assert "too_bright" in told[-1][1]

    def test_fog(self) -> None:
        rgb = (pixels(ASTRONAUT) * 0.05 + 120).astype(np.uint8)
        assert "low_contrast" in parts_of(rgb, ASTRONAUT_FACE)[1]

    def test_shrinking_lowers_size_and_is_no_blur(self) -> None:
        rgb = pixels(ASTRONAUT)
        sizes, reasons = [], []
        for side in (400, 300, 200, 150, 100):
            small = np.asarray(
                cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), np.uint8
            )
            parts, why = parts_of(small, scaled(ASTRONAUT_FACE, side / 512))
            sizes.append(parts["size"])
            reasons.append(why)
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(sizes)
        assert reasons == [(), (), (), ("too_small",), ("too_small",)]

    def test_an_enlarged_face_is_blurred(self) -> None:
        rgb = pixels(ASTRONAUT)
        small = cv2.resize(rgb, (77, 77), interpolation=cv2.INTER_AREA)
        enlarged = np.asarray(
            cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8
        )
        assert parts_of(enlarged, ASTRONAUT_FACE)[1] == ("blurred",)

    @pytest.mark.parametrize(
        ("angles", "part"),
        [((0, 0, 0), 1), ((0, 0, 60), 1), ((40, 0, 0), 0.59), ((50, 0, 0), 0.41)],
    )
    def test_a_face_that_is_turned_away(
        self, angles: tuple[float, float, float], part: float
    ) -> None:
        """Leaning is no harm: the crop is aligned."""
        seen = points(*angles)
        corners = np.concatenate([seen.min(1), seen.max(1)], 1)
        faces = Faces(corners, seen, np.ones(1, np.float32))
        rgb = np.zeros((600, 600, 3), np.uint8)
        parts, reasons = parts_of(rgb, faces)
        assert parts["pose"] == pytest.approx(part, abs=0.05)
        assert ("turned_away" in reasons) == (angles[0] == 50)

    def test_the_weakest_part_counts(self) -> None:
        parts = np.array([[0.9, 0.2, 0.5, 1], [1, 1, 1, 1]], np.float32)
        assert quality.score(parts).tolist() == pytest.approx([0.2, 1])

    @pytest.mark.parametrize("at", [(0, 0), (-30, 500), (300, -40), (10_000, 0)])
    def test_a_face_at_or_beyond_the_border(self, at: tuple[float, float]) -> None:
        faces = ASTRONAUT_FACE
        moved = Faces(
            faces.boxes, faces.landmarks + np.array(at, np.float32) - 200, faces.detection_scores
        )
        parts, _ = parts_of(pixels(ASTRONAUT), moved)
        assert all(0 <= part <= 1 for part in parts.values())

    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2)])
    def test_tiny_pictures(self, shape: tuple[int, int]) -> None:
        faces = Faces(
            np.array([[0, 0, 1, 1]], np.float32),
            np.zeros((1, 5, 2), np.float32),
            np.ones(1, np.float32),
        )
        _, reasons = parts_of(np.zeros((*shape, 3), np.uint8), faces)
        assert {"blurred", "too_dark", "too_small"} <= set(reasons)


class TestPixelsAndNumbers:
    @pytest.mark.parametrize(
        ("box", "scale", "expected"),
        [
            ((40, 40, 60, 60), 2.0, (30, 30, 71, 71)),
            ((0, 40, 20, 60), 2.0, (0, 30, 41, 71)),  # moved inside
            ((80, 80, 100, 100), 2.0, (59, 59, 100, 100)),
            ((10, 10, 90, 90), 4.0, (0, 0, 100, 100)),  # no larger than the image
            ((40, 10, 50, 90), 4.0, (38, 0, 52, 100)),
        ],
    )
    def test_surroundings(
        self,
        box: tuple[float, float, float, float],
        scale: float,
        expected: tuple[int, int, int, int],
    ) -> None:
        assert surroundings(list(box), scale, 100, 100) == expected

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
    def test_surroundings_are_never_empty(self, size: tuple[int, int]) -> None:
        for box in ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, *map(float, size)]):
            left, top, right, bottom = surroundings(box, 4.0, *size)
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]

    def test_liveness_takes_bgr_bytes(self) -> None:
        rgb = np.zeros((100, 100, 3), np.uint8)
        rgb[:] = (10, 20, 30)
        seen = liveness_input(rgb, ASTRONAUT_FACE, model("minifasnet", scale=2.7))
        assert seen.shape == (1, 3, 80, 80)
        assert seen[0, :, 40, 40].tolist() == [30, 20, 10]

    def test_genderage_takes_the_box_and_half_as_much(self) -> None:
        """Where the image ends it is black."""
        rgb = np.full((100, 200, 3), 7, np.uint8)
        faces = Faces(
            np.array([[0, 0, 64, 40]], np.float32),
            np.zeros((1, 5, 2), np.float32),
            np.ones(1, np.float32),
        )
        (plane, *_) = genderage_input(rgb, faces, model("genderage"))[0]
        assert plane[40, 40] == 7
        assert plane[:, :15].max() == 0
        assert plane[:27].max() == 0
        scaled = dataclasses.replace(model("genderage"), mean=5.0, std=2.0)
        assert genderage_input(rgb, faces, scaled)[0, 0, 40, 40] == 1

    def test_numbers(self) -> None:
        years = np.zeros((2, 81), np.float32)
        years[0, 0], years[1, 30], years[1, 40] = 1, 0.5, 0.5
        assert age_of(years)["ages"].tolist() == [0.25, 35]
        assert gender_of(np.array([[0.3, 0.7]], np.float32))["male_probabilities"].tolist() == [
            pytest.approx(0.7)
        ]
        told = genderage_of(np.array([[0, 0, 0.42], [3, -3, -0.1]], np.float32))
        assert told["ages"].tolist() == pytest.approx([42, 0])
        assert told["male_probabilities"].tolist() == pytest.approx([0.5, 0.0025], abs=1e-3)
        live = live_of(np.array([[0, 0, 0], [-500, 500, 0]], np.float32))["live_probabilities"]
        assert live.tolist() == pytest.approx([1 / 3, 1])


def model(kind: AttributeKind, path: Path = Path("x.onnx"), scale: float = 1.0) -> AttributeModel:
    return AttributeModel(kind, ModelFile(path.name, path, "ab" * 32, False), CC0, scale=scale)


def network(side: int, outputs: int, batch: int | str, bias: float = 0.0) -> bytes:
    """The mean of the red plane plus ``bias``, in every output."""
    weights = np.zeros((3, outputs), np.float32)
    weights[0] = 1
    return serialised(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sum"]),
            helper.make_node("Add", ["sum", "bias"], ["y"]),
        ],
        [value("x", batch, 3, side, side)],
        [value("y", batch, outputs)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias], np.float32), "bias"),
        ],
    )


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def three_faces() -> Faces:
    return ASTRONAUT_FACE.take(np.zeros(3, np.intp))


class TestReader:
    def test_without_models_pose_and_quality_are_told(self) -> None:
        told = AttributeReader(()).read(pixels(ASTRONAUT), three_faces())
        assert (told.ages, told.male_probabilities, told.live_probabilities) == (None, None, None)
        assert told.poses is not None
        assert told.poses.shape == (3, 3)
        assert told.qualities is not None
        assert told.quality_reasons == ((), (), ())

    @pytest.mark.parametrize("batch", ["n", 1, 2])
    def test_rows_belong_to_faces(self, tmp_path: Path, batch: int | str) -> None:
        """Networks of any batch; the last of a fixed one is filled up."""
        rgb = np.zeros((200, 600, 3), np.uint8)
        rgb[:, :200], rgb[:, 200:400], rgb[:, 400:] = 10, 20, 30
        boxes = np.array([[x + 50, 50, x + 150, 150] for x in (0, 200, 400)], np.float32)
        faces = Faces(boxes, np.zeros((3, 5, 2), np.float32), np.ones(3, np.float32))
        path = written(tmp_path, "ga.onnx", network(96, 3, batch))
        told = AttributeReader([model("genderage", path)]).read(rgb, faces)
        assert told.ages is not None
        assert told.ages.dtype == np.float32
        assert (np.diff(told.ages) > 900).all()
        alone = AttributeReader([model("genderage", path)]).read(rgb, faces.take(slice(1, 2)))
        assert alone.ages is not None
        assert alone.ages[0] == told.ages[1]

    def test_no_faces(self, tmp_path: Path) -> None:
        models = [
            model("dlib-age", written(tmp_path, "a.onnx", network(64, 81, "n"))),
            model("dlib-gender", written(tmp_path, "g.onnx", network(32, 2, "n"))),
            model("minifasnet", written(tmp_path, "l.onnx", network(80, 3, 1)), 2.7),
        ]
        told = AttributeReader(models).read(pixels(ASTRONAUT), Faces.empty())
        assert told.ages is not None
        assert told.male_probabilities is not None
        assert told.live_probabilities is not None
        assert told.poses is not None
        assert told.qualities is not None
        assert [len(column) for column in (told.ages, told.poses, told.qualities)] == [0, 0, 0]
        assert told.quality_reasons == ()

    def test_answers_of_several_are_averaged(self, tmp_path: Path) -> None:
        rgb = np.zeros((300, 300, 3), np.uint8)
        models = [
            model("genderage", written(tmp_path, f"{bias}.onnx", network(96, 3, "n", bias)))
            for bias in (0.2, 0.4)
        ]
        told = AttributeReader(models).read(rgb, three_faces())
        assert told.ages is not None
        assert told.ages.tolist() == pytest.approx([30, 30, 30])

    @pytest.mark.parametrize(
        "content",
        [b"no model", network(96, 5, "n"), network(64, 3, 1)],
        ids=["no model", "outputs", "side"],
    )
    def test_a_file_that_is_no_such_model_is_left_out(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        sound = model("dlib-gender", written(tmp_path, "g.onnx", network(32, 2, "n")))
        wrong = model("genderage", written(tmp_path, "wrong.onnx", content))
        reader = AttributeReader([wrong, sound])
        assert [told["file"] for told in reader.describe()] == ["g.onnx"]
        assert "going on without wrong.onnx" in caplog.text

    def test_describe_names_licences(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g.onnx", network(32, 2, "n"))
        (told,) = AttributeReader([model("dlib-gender", path)]).describe()
        assert (told["kind"], told["licence"], told["engine"]) == (
            "dlib-gender",
            "CC0-1.0",
            "onnxruntime",
        )
