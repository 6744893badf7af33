"""The 5-point transform and the crops it makes."""

from __future__ import annotations

import numpy as np
import pytest

from facegraph.faces.alignment import TEMPLATE as TEMPLATE64
from facegraph.faces.alignment import align, similarity, transforms
from facegraph.types import ByteArray, Faces, FloatArray

TEMPLATE = TEMPLATE64.astype(np.float32)


def faces_at(landmarks: FloatArray, boxes: list[list[float]] | None = None) -> Faces:
    n = len(landmarks)
    if boxes is None:
        low, high = landmarks.min(axis=1), landmarks.max(axis=1)
        boxes = np.hstack([low - 10, high + 10]).tolist()
    return Faces(
        np.array(boxes, np.float32).reshape(n, 4),
        landmarks.astype(np.float32),
        np.ones(n, np.float32),
    )


def moved(scale: float, angle: float, shift: tuple[float, float]) -> FloatArray:
    """The template's points turned, scaled and moved: (1, 5, 2)."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (TEMPLATE @ turn.T + shift)[None].astype(np.float32)


def test_points_in_place_need_no_transform() -> None:
    matrix = similarity(TEMPLATE[None].astype(np.float32))[0]
    assert np.allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.5])
@pytest.mark.parametrize("angle", [-2.0, 0.0, 0.4, 3.1])
def test_transform_undoes_a_movement(scale: float, angle: float) -> None:
    landmarks = moved(scale, angle, (40, 900))
    matrix = similarity(landmarks)[0]
    back = landmarks[0] @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(back - TEMPLATE).max() < 1e-3


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_equals_insightface() -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 9, (50, 5, 2)) + rng.uniform(-500, 4000, (50, 1, 2))
    landmarks = (TEMPLATE * 3 + noise).astype(np.float32)
    ours = similarity(landmarks)
    for row, matrix in zip(landmarks, ours, strict=True):
        theirs = face_align.estimate_norm(row)
        placed = row @ matrix[:, :2].T + matrix[:, 2]
        assert np.abs(placed - (row @ theirs[:, :2].T + theirs[:, 2])).max() < 1e-3


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 50.0),  # all in one point
        np.full((5, 2), 50.0) + np.eye(5, 2) * 0.01,  # nearly
        np.full((5, 2), np.nan),
    ],
)
def test_points_without_extent_give_the_box(points: FloatArray) -> None:
    faces = faces_at(points[None], [[20, 30, 120, 80]])
    matrix = transforms(faces)[0]
    corners = np.array([[20, 5], [120, 105]]) @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(corners, [[0, 0], [112, 112]], atol=1e-6)
    assert align(np.zeros((200, 200, 3), np.uint8), faces).shape == (1, 112, 112, 3)


def checkerboard(side: int, cell: int) -> ByteArray:
    y, x = np.mgrid[:side, :side] // cell
    return np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def test_large_face_is_averaged_not_sampled() -> None:
    """One-pixel squares, shrunk tenfold, are grey; sampling would show stripes."""
    crop = align(checkerboard(1120, 1), faces_at(TEMPLATE[None] * 10))[0]
    assert np.abs(crop[5:-5, 5:-5].astype(int) - 127).max() <= 2


def test_shrinking_does_not_shift() -> None:
    rgb = np.zeros((1150, 1150, 3), np.uint8)
    rgb[:, 575:] = 255  # an edge in the middle of the crop
    for scale in (1.0, 4.3, 9.99):
        landmarks = (TEMPLATE[None] * scale + 575 - 56 * scale).astype(np.float32)
        row = align(rgb, faces_at(landmarks))[0][56, :, 0].astype(float)
        assert abs((255 - row).sum() / 255 - 56) < 0.6


def test_outside_of_the_image_is_black() -> None:
    rgb = np.full((100, 100, 3), 255, np.uint8)
    crop = align(rgb, faces_at(TEMPLATE[None] - 60))[0]
    assert crop[61:, 61:].min() == 255
    assert crop[:59].max() == 0
    assert crop[:, :59].max() == 0
    far = align(rgb, faces_at(TEMPLATE[None] + 10_000))[0]
    assert far.max() == 0


def test_image_wider_than_warpaffine_allows() -> None:
    rgb = np.zeros((120, 40_000, 3), np.uint8)
    rgb[:, 39_000:] = 200
    crop = align(rgb, faces_at(TEMPLATE[None] + np.array([39_500, 4], np.float32)))[0]
    assert crop.min() == 200


def test_no_faces() -> None:
    assert align(np.zeros((9, 9, 3), np.uint8), Faces.empty()).shape == (0, 112, 112, 3)
