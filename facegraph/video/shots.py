"""The faces of sampled frames, and which of a track's say best who it is."""

from __future__ import annotations

import cv2
import numpy as np

from facegraph.types import CROP_SIZE, ByteArray, Detection, FloatArray
from facegraph.video.tracks import Sighting

SHARP = 100.0
"""Variance of a crop's Laplacian at which it counts as half sharp."""

PROFILE = 0.1
"""What a face in profile is worth, in parts of the same face seen from the front."""


def sightings(
    time_s: float, detection: Detection, embeddings: FloatArray, scale: float
) -> list[Sighting]:
    """One for each face of ``detection``, with boxes in pixels of the video.

    embeddings: (n, d) float32, L2-normalised
    scale: of the picture looked at, in parts of the video's frame
    """
    boxes = detection.faces.boxes / np.float32(scale)
    return [
        Sighting(time_s, box, embedding, float(quality))
        for box, embedding, quality in zip(boxes, embeddings, qualities(detection), strict=True)
    ]


def qualities(detection: Detection) -> FloatArray:
    """How much each face is worth for recognition: (n,) float32 in 0..1.

    The attributes' own measure where they tell it; else detection score × size × sharpness ×
    frontality.
    """
    told = detection.attributes.qualities if detection.attributes is not None else None
    if told is not None:
        return told
    faces = detection.faces
    sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(axis=1)
    sharp = np.array([_sharpness(crop) for crop in detection.crops], np.float32)
    size = np.minimum(sides / np.float32(CROP_SIZE), 1)
    product: FloatArray = faces.detection_scores * size * sharp * _frontality(faces.landmarks)
    return product


def _sharpness(crop: ByteArray) -> float:
    variance = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
    return variance / (variance + SHARP)


def _frontality(landmarks: FloatArray) -> FloatArray:
    """1 where the nose lies midway between the eyes, PROFILE where it lies at one or beyond."""
    eyes = landmarks[:, 1] - landmarks[:, 0]
    nose = landmarks[:, 2] - landmarks[:, 0]
    along = (nose * eyes).sum(axis=1) / np.maximum((eyes * eyes).sum(axis=1), 1e-6)
    frontal = np.clip(1 - 2 * np.abs(along - 0.5), 0, 1)
    part: FloatArray = (PROFILE + (1 - PROFILE) * frontal).astype(np.float32)
    return part
