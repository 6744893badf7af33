"""The detector: one compressed image in, its faces and their aligned crops out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.config import DetectorTuning
from facegraph.faces.alignment import align
from facegraph.faces.attributes import AttributeReader
from facegraph.faces.heads import HEADS, Candidates
from facegraph.faces.refinement import SIDE, overlap, refine, vote
from facegraph.faces.upright import straighten
from facegraph.faces.views import FREE_SHAPES, Shape, View, close_up, draw, shrink, tiles, whole
from facegraph.images import decode
from facegraph.models.engines import Accelerator, EngineName, open_engine
from facegraph.models.packs import FacePack
from facegraph.types import ByteArray, Detection, Faces, FloatArray

EDGE = 12.0
"""A box that begins or ends this near to a tile's inner edge, in pixels of the input, counts as cut
by it: what is left of a face is often found as a smaller one."""

CLOSE_UP_PART = 0.8
"""A face this large, in parts of the image's shorter side, is looked at from farther away."""

MAX_CANDIDATES = 5000
"""Best-scored boxes looked at in one image; a group photo has some hundred."""


class Detector:
    """Finds faces with a pack's detection network.

    Any number of threads may call it at once; ``concurrency`` of them run the network without
    waiting for each other.
    """

    def __init__(
        self,
        pack: FacePack,
        tuning: DetectorTuning,
        *,
        engine: EngineName = "auto",
        accelerator: Accelerator = "auto",
        threads: int = 1,
        concurrency: int = 1,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self._pack = pack
        self._tuning = tuning
        self._head = HEADS[pack.detector.kind]
        self._engine = open_engine(
            pack.detector.file.path,
            engine=engine,
            accelerator=accelerator,
            threads=threads,
            concurrency=concurrency,
            gpu_memory_bytes=gpu_memory_bytes,
            exact=True,
        )
        self._attributes = AttributeReader(
            pack.attributes, engine=engine, threads=threads, concurrency=concurrency
        )
        self._shapes = _shapes(self._engine.input_shape)
        # OpenCV, too, would take every core of the machine for each of its calls.
        cv2.setNumThreads(threads)

    def reconfigure(self, tuning: DetectorTuning) -> None:
        """Takes effect with the next image; those in work keep the old values."""
        self._tuning = tuning

    def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        """The largest ``max_faces`` faces of a compressed image.

        min_score: instead of the tuning's
        crops, attributes: only where asked for
        Raises InvalidImage and ImageTooLarge.
        """
        rgb = decode(image, max_pixels=self._tuning.max_image_pixels)
        found, scale = self._find(rgb, min_score)
        faces = self._refined(rgb, found.take(slice(0, max_faces)), scale)
        aligned = align(rgb, faces if crops else Faces.empty())
        told = self._attributes.read(rgb, faces) if attributes else None
        return Detection(rgb.shape[1], rgb.shape[0], faces, aligned, len(found), told)

    def detect_pixels(self, rgb: ByteArray) -> Faces:
        """All faces of (h, w, 3) uint8 RGB pixels, in the order of Faces."""
        return self._refined(rgb, *self._find(rgb))

    def _find(self, rgb: ByteArray, min_score: float | None = None) -> tuple[Faces, float]:
        """All faces, and the finest scale at which they were looked for."""
        tuning = self._tuning
        least = tuning.min_score if min_score is None else min_score
        height, width = rgb.shape[:2]
        fine = tiles(width, height, self._shapes)
        # The finest scale is made first, so that the image at full size is read only once.
        source, source_scale = rgb, 1.0
        parts = []
        if fine:
            source, source_scale = shrink(rgb, fine[0].scale), fine[0].scale
            parts = [self._look(source, view, least) for view in fine]
        view = whole(width, height, self._shapes)
        parts.append(self._look(shrink(source, view.scale / source_scale), view, least))
        if _wants_close_up(parts, width, height):
            near = close_up(width, height, self._shapes)
            if near is not None:
                small = shrink(source, near.scale / source_scale)
                parts.append(self._look(small, near, least))
        return _faces(parts, tuning.nms_iou, width, height), (fine[0] if fine else view).scale

    def _refined(self, rgb: ByteArray, faces: Faces, scale: float) -> Faces:
        if self._shapes != FREE_SHAPES:
            return faces
        sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)
        faces = refine(rgb, faces, sides * scale < self._head.refine_below, self._see)
        return straighten(rgb, faces, self._see) if self._head.lags else faces

    def _see(self, pixels: ByteArray, min_score: float) -> Candidates:
        outputs = self._engine.run(self._head.blob(pixels))
        return self._head.decode(outputs, pixels.shape[0], pixels.shape[1], min_score)

    def warm_up(self) -> None:
        """Run every input size once, so that no request pays for compiling."""
        for shape in (*self._shapes, *([(SIDE, SIDE)] if self._shapes == FREE_SHAPES else [])):
            self._engine.run(self._head.blob(np.zeros((*shape, 3), np.uint8)))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self._pack.detector.kind,
            "pack": self._pack.name,
            "file": self._pack.detector.file.name,
            "sha256": self._pack.detector.file.sha256,
            "licence": self._pack.licence.name,
            "engine": self._engine.name,
            "provider": self._engine.provider,
            "attributes": self._attributes.describe(),
        }

    def _look(self, scaled: ByteArray, view: View, min_score: float) -> Candidates:
        """What the network sees in one view, in pixels of the image."""
        seen = self._see(draw(scaled, view), min_score)
        seen = _only(seen, ~_cut(seen.boxes, view))
        corner = np.array([view.left, view.top], np.float32)
        return Candidates(
            (seen.boxes + np.tile(corner, 2)) / np.float32(view.scale),
            (seen.landmarks + corner) / np.float32(view.scale),
            seen.scores,
        )


def _shapes(input_shape: tuple[int | None, ...]) -> tuple[Shape, ...]:
    height, width = input_shape[2:4]
    if height is None or width is None:
        return FREE_SHAPES
    return ((height, width),)


def _wants_close_up(parts: list[Candidates], width: int, height: int) -> bool:
    boxes = np.concatenate([part.boxes for part in parts])
    sides = boxes[:, 2:] - boxes[:, :2]
    return not len(boxes) or bool(sides.max() >= CLOSE_UP_PART * min(width, height))


def _cut(boxes: FloatArray, view: View) -> npt.NDArray[np.bool_]:
    left, top, right, bottom = view.cuts
    height, width = view.shape
    return np.asarray(
        (left & (boxes[:, 0] < EDGE))
        | (top & (boxes[:, 1] < EDGE))
        | (right & (boxes[:, 2] > width - EDGE))
        | (bottom & (boxes[:, 3] > height - EDGE))
    )


def _faces(parts: list[Candidates], nms_iou: float, width: int, height: int) -> Faces:
    """One face per person out of what all views saw, clipped to the image and in order."""
    boxes = np.concatenate([part.boxes for part in parts])
    landmarks = np.concatenate([part.landmarks for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(boxes).all(axis=1) & np.isfinite(landmarks).all(axis=(1, 2))
        sound &= np.isfinite(scores) & (sides >= 1).all(axis=1)
    seen = _only(Candidates(boxes, landmarks, scores), sound)
    clipped, sides = clipped[sound], sides[sound]
    # Clipped, because what networks guess beyond the frame differs from cell to cell.
    rows = _suppressed(clipped, seen.scores, nms_iou)
    area = sides[rows, 0].astype(np.float64) * sides[rows, 1]
    order = np.lexsort((clipped[rows, 0], clipped[rows, 1], -seen.scores[rows], -area))
    rows = rows[order]
    points = np.array([vote(seen.boxes[row], seen) for row in rows], np.float32)
    return Faces(clipped[rows], points.reshape(-1, 5, 2), np.clip(seen.scores[rows], 0, 1))


def _suppressed(boxes: FloatArray, scores: FloatArray, iou: float) -> npt.NDArray[np.intp]:
    """Rows that no better-scored box covers by ``iou`` or more."""
    left = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlap(boxes[best], boxes[left]) < iou]
    return np.array(kept, np.intp)


def _only(seen: Candidates, rows: npt.NDArray[np.bool_]) -> Candidates:
    return Candidates(seen.boxes[rows], seen.landmarks[rows], seen.scores[rows])
