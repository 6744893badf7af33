"""Where a face looks, from its five landmarks.

The points are taken for a scaled orthographic view of one generic head: least squares give the
2×3 matrix from head to image, its nearest scaled rotation gives the angles.

No better than the points. Against a dense face mesh, 84 faces of photos and television, yaw up to
60°: with SCRFD's points yaw was 2.4° off on average, roll 1.8°, pitch 6°, since five points lie
nearly in a plane and noses differ. YuNet's points follow a turned head (2.9°), lag behind one
that leans until ``facegraph.faces.upright`` looks again, and hardly show nodding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray

HEAD = np.array(
    [
        [-31.5, -37.0, 0.0],
        [31.5, -37.0, 0.0],
        [0.0, 1.5, 34.0],
        [-25.0, 34.5, 4.0],
        [25.0, 34.5, 4.0],
    ]
)
"""A grown-up's eyes, tip of the nose and corners of the mouth, millimetres: x to the image's right,
y down, z towards the camera."""

_CENTRED = HEAD - HEAD.mean(axis=0)
_INVERSE = np.linalg.pinv(_CENTRED)

Rotations = npt.NDArray[np.float64]


def rotations(landmarks: FloatArray) -> Rotations:
    """(n, 5, 2) points → (n, 3, 3): head to camera, axes as in ``HEAD``; points that collapse into
    one look straight ahead."""
    points = landmarks.astype(np.float64)
    points -= points.mean(axis=1, keepdims=True)
    seen = np.einsum("kp,npx->nxk", _INVERSE, points)
    left, _, right = np.linalg.svd(seen, full_matrices=False)
    across = left @ right
    ahead = np.cross(across[:, 0], across[:, 1])
    return np.concatenate([across, ahead[:, None]], axis=1)


def angles(turned: Rotations) -> FloatArray:
    """(n, 3) float32, degrees: yaw, pitch and roll as :class:`facegraph.types.Attributes` has
    them; first the head nods, then it turns, then it leans."""
    yaw = np.arcsin(np.clip(-turned[:, 2, 0], -1, 1))
    pitch = np.arctan2(turned[:, 2, 1], turned[:, 2, 2])
    roll = np.arctan2(turned[:, 1, 0], turned[:, 0, 0])
    return np.asarray(np.degrees(np.stack([yaw, pitch, roll], axis=1)), np.float32)
