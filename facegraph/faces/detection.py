"""The detector: one compressed image in, its faces and their aligned crops out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facegraph.config import DetectorTuning
from facegraph.faces.alignment import align
from facegraph.faces.attributes import AttributeReader
from facegraph.faces.heads import HEADS, Candidates
from facegraph.faces.looks import Look, Looking, answered
from facegraph.faces.refinement import SIDE, refine
from facegraph.faces.seeing import Sight
from facegraph.faces.suppression import suppressed, votes
from facegraph.faces.trials import detector_trial
from facegraph.faces.upright import straighten
from facegraph.faces.views import (
    FREE_SHAPES,
    Shape,
    View,
    close_up,
    draw,
    scaled,
    shrink,
    tiles,
    whole,
)
from facegraph.images import Picture, Raster, open_picture
from facegraph.models.engines import Accelerator, EngineName, described, open_engine
from facegraph.models.engines.onnxruntime import cuda_available
from facegraph.models.packs import FacePack
from facegraph.models.shared import open_shared
from facegraph.types import ByteArray, Detection, Faces, FloatArray

EDGE = 12.0
"""A box that begins or ends this near to a tile's inner edge, in pixels of the input, counts as cut
by it: what is left of a face is often found as a smaller one."""

CLOSE_UP_PART = 0.8
"""A face this large, in parts of the image's shorter side, is looked at from farther away."""


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
        engines_dir: Path | None = None,
    ) -> None:
        """``engines_dir``: the engine is chosen by measuring, and remembered there; without it
        nothing is measured.
        """
        self._pack = pack
        self._tuning = tuning
        self._head = HEADS[pack.detector.kind]
        opened = functools.partial(
            open_engine,
            engine=engine,
            accelerator=accelerator,
            threads=threads,
            concurrency=concurrency,
            gpu_memory_bytes=gpu_memory_bytes,
            exact=True,
            trial=None
            if engines_dir is None
            else detector_trial(self._head, tuning.max_batch, engines_dir),
        )
        self._engine = open_shared(
            pack.detector.file.path,
            tuning.max_batch,
            opened,
            may_gain=accelerator != "cpu" and cuda_available(),
        )
        self._sight = Sight(self._engine, self._head)
        self._attributes = AttributeReader(
            pack.attributes, engine=engine, threads=threads, concurrency=concurrency
        )
        self._shapes = _shapes(self._engine.input_shape)
        # OpenCV, too, would take every core of the machine for each of its calls.
        cv2.setNumThreads(threads)

    def reconfigure(self, tuning: DetectorTuning) -> None:
        """Takes effect with the next image; those in work keep the old values."""
        self._tuning = tuning
        self._sight.limit(tuning.max_batch)

    @property
    def at_once(self) -> int:
        """Pictures that gain from being in work at the same time: their network inputs, and those
        of one picture, run together. 1 where that gains nothing, as on a CPU."""
        return self._sight.most

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
        looking = self.detecting(
            image, max_faces=max_faces, crops=crops, min_score=min_score, attributes=attributes
        )
        return answered(looking, self.see)

    def detecting(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Looking[Detection]:
        """As :meth:`detect`, without running the network: what it wants to look at, in turns.

        Decoding, drawing, merging and aligning happen in whoever drives it. Where only boxes and
        landmarks are wanted the pixels are decoded no finer than the views need, and again, whole,
        if a face turns out small. Crops hang on the landmarks' last tenths of a pixel, which
        differ between the two, so for crops the views are drawn from all pixels.
        """
        picture = open_picture(image, max_pixels=self._tuning.max_image_pixels)
        if crops or attributes:
            picture.at(1)
        found, scale = yield from self._find(picture, min_score)
        faces = yield from self._refined(picture, found.take(slice(0, max_faces)), scale)
        aligned = align(picture.at(int(crops)).rgb, faces if crops else Faces.empty())
        told = self._attributes.read(picture.at(1).rgb, faces) if attributes else None
        return Detection(picture.width, picture.height, faces, aligned, len(found), told)

    def detect_pixels(self, rgb: ByteArray) -> Faces:
        """All faces of (h, w, 3) uint8 RGB pixels, in the order of Faces."""
        return answered(self._all(Picture.of(rgb)), self.see)

    def _all(self, picture: Picture) -> Looking[Faces]:
        found, scale = yield from self._find(picture)
        return (yield from self._refined(picture, found, scale))

    def _find(
        self, picture: Picture, min_score: float | None = None
    ) -> Looking[tuple[Faces, float]]:
        """All faces, and the finest scale at which they were looked for."""
        tuning = self._tuning
        least = tuning.min_score if min_score is None else min_score
        width, height = picture.width, picture.height
        fine = tiles(width, height, self._shapes)
        views = [*fine, whole(width, height, self._shapes)]
        raster = picture.at(views[0].scale)
        # The finest scale is made first, so that the image at full size is read only once.
        source = scaled(raster, width, height, views[0].scale)
        coarse = shrink(source, views[-1].scale / views[0].scale)
        canvases = [*(draw(source, view) for view in fine), draw(coarse, views[-1])]
        answers = yield [Look(canvas, least) for canvas in canvases]
        parts = [_in_picture(seen, view, raster) for seen, view in zip(answers, views, strict=True)]
        if _wants_close_up(parts, width, height):
            near = close_up(width, height, self._shapes)
            if near is not None:
                if fine:
                    small = shrink(source, near.scale / views[0].scale)
                else:
                    small = scaled(raster, width, height, near.scale)
                canvas = draw(small, near)
                (seen,) = yield [Look(canvas, least)]
                parts.append(_in_picture(seen, near, raster))
        return _faces(parts, tuning.nms_iou, width, height), views[0].scale

    def _refined(self, picture: Picture, faces: Faces, scale: float) -> Looking[Faces]:
        if self._shapes != FREE_SHAPES:
            return faces
        sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)
        faces = yield from refine(picture, faces, sides * scale < self._head.refine_below)
        return (yield from straighten(picture, faces)) if self._head.lags else faces

    def see(self, looks: Sequence[Look]) -> list[Candidates]:
        """What the network sees in each, in pixels of the look."""
        return self._sight.see(looks)

    def warm_up(self) -> None:
        """Run every input size once, so that no request pays for compiling."""
        small = [(SIDE, SIDE)] if self._shapes == FREE_SHAPES else []
        self._sight.warm_up([*self._shapes, *small])

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self._pack.detector.kind,
            "pack": self._pack.name,
            "file": self._pack.detector.file.name,
            "sha256": self._pack.detector.file.sha256,
            "licence": self._pack.licence.name,
            **described(self._engine),
            "attributes": self._attributes.describe(),
        }


def _shapes(input_shape: tuple[int | None, ...]) -> tuple[Shape, ...]:
    height, width = input_shape[2:4]
    if height is None or width is None:
        return FREE_SHAPES
    return ((height, width),)


def _in_picture(seen: Candidates, view: View, raster: Raster) -> Candidates:
    """From pixels of a view on ``raster`` to pixels of the picture, without what the view cuts."""
    seen = _only(seen, ~_cut(seen.boxes, view))
    corner = np.array([view.left, view.top], np.float32)
    overhang = np.array([raster.left, raster.top], np.float32)
    return Candidates(
        (seen.boxes + np.tile(corner, 2)) / np.float32(view.scale) - np.tile(overhang, 2),
        (seen.landmarks + corner) / np.float32(view.scale) - overhang,
        seen.scores,
    )


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
    rows = suppressed(clipped, seen.scores, nms_iou)
    area = sides[rows, 0].astype(np.float64) * sides[rows, 1]
    order = np.lexsort((clipped[rows, 0], clipped[rows, 1], -seen.scores[rows], -area))
    rows = rows[order]
    return Faces(clipped[rows], votes(rows, seen), np.clip(seen.scores[rows], 0, 1))


def _only(seen: Candidates, rows: npt.NDArray[np.bool_]) -> Candidates:
    return Candidates(seen.boxes[rows], seen.landmarks[rows], seen.scores[rows])
