"""Turned looks at leaning faces, for their landmarks.

YuNet's five points lag behind a head that leans towards a shoulder: of a photo turned by 30° they
show 18° at the median, of some 4°, so the crop goes on leaning and identity suffers. But they lean
the right way. Seen again in a window turned back by a little more than they show, the head leans
less, and after one to three looks most are upright. docs/models.md has what that gains. A turn that
was too much, or the wrong way, shows in the next look. SCRFD's points follow by themselves.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.faces import pose
from facegraph.faces.alignment import sample, similarity
from facegraph.faces.looks import Look, Looking, in_turns
from facegraph.faces.refinement import FILL, MIN_SCORE, SIDE, central
from facegraph.images import Picture, Raster
from facegraph.types import Faces, FloatArray

MIN_LEAN = 3.0
"""Degrees that the points must show; nine in ten upright faces show less."""

YAW_POWER = 4
"""The points of a face that looks aside slant because of its nose, so more is asked of it:
``MIN_LEAN`` over this power of the yaw's cosine, 5° at 30° and 12° at 45°."""

GAIN = 1.25
"""Turn per degree shown: 1 needs a look more, 1.5 overshoots where the points lag little."""

MAX_LOOKS = 3

MAX_LOSS = 0.05
"""A look that scores lower by more than this was a wrong turn and does not count."""

MIN_CHANGE = 5.0
STRONG = 20.0
"""Looks that end up within ``MIN_CHANGE`` degrees of what the points showed found no lag: the
points stay. Of a head that leans by ``STRONG`` and more, those of the window are better anyway."""


def straighten(picture: Picture, faces: Faces) -> Looking[Faces]:
    """``faces`` with better landmarks for those that lean; boxes and scores stay."""
    rows = np.flatnonzero(leaning(faces.landmarks))
    if not len(rows):
        return faces
    raster = picture.at(max(_scale(faces.boxes[row]) for row in rows))
    landmarks = faces.landmarks.copy()
    followed = [_followed(raster, faces.take(slice(row, row + 1))) for row in rows]
    for row, points in zip(rows, (yield from in_turns(followed)), strict=True):
        before, after = leans(np.stack([landmarks[row], points]))
        if abs(after - before) >= MIN_CHANGE or abs(after) >= STRONG:
            landmarks[row] = points
    return Faces(faces.boxes, landmarks, faces.detection_scores)


def leaning(landmarks: FloatArray) -> npt.NDArray[np.bool_]:
    """(n, 5, 2) points → (n,): which of them lean so much that a look may show more."""
    yaws = np.radians(pose.angles(pose.rotations(landmarks))[:, 0])
    return np.asarray(np.abs(leans(landmarks)) * np.cos(yaws) ** YAW_POWER >= MIN_LEAN)


def leans(landmarks: FloatArray) -> FloatArray:
    """(n, 5, 2) points → (n,) degrees clockwise that the crop is turned back by; not a number
    where all five points are one."""
    matrices = similarity(landmarks)
    return np.asarray(np.degrees(np.arctan2(-matrices[:, 1, 0], matrices[:, 0, 0])), np.float32)


def _followed(raster: Raster, face: Faces) -> Looking[FloatArray]:
    """The landmarks (5, 2) of one face, from the last look that was no wrong turn."""
    points, score = face.landmarks[0], float(face.detection_scores[0])
    turn, lean = 0.0, float(leans(face.landmarks)[0])
    for _ in range(MAX_LOOKS):
        turn += GAIN * lean
        matrix = _turned_back(face.boxes[0], turn)
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        sample(raster, matrix, pixels)
        (answer,) = yield [Look(pixels, MIN_SCORE)]
        seen = central(answer)
        if seen is None or seen[1] < score - MAX_LOSS:
            break
        shown, score = seen
        points = _mapped(shown, np.asarray(cv2.invertAffineTransform(matrix), np.float64))
        lean = float(leans(shown[None])[0])
        if not abs(lean) >= MIN_LEAN:
            break
    return np.asarray(points)


def _turned_back(box: FloatArray, degrees: float) -> npt.NDArray[np.float64]:
    """(2, 3): image → network's input, where a head is upright that leans ``degrees`` clockwise."""
    x1, y1, x2, y2 = (float(value) for value in box)
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    matrix = np.asarray(cv2.getRotationMatrix2D(middle, degrees, _scale(box)), np.float64)
    matrix[:, 2] += SIDE / 2 - np.array(middle)
    return matrix


def _scale(box: FloatArray) -> float:
    return FILL * SIDE / float((box[2:] - box[:2]).max())


def _mapped(points: FloatArray, matrix: npt.NDArray[np.float64]) -> FloatArray:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)
