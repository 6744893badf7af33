"""Joins the faces of sampled frames to tracks: one face followed through one shot of a camera.

A face continues the track where it is expected and whose face it resembles; who resembles nobody
begins a track. Which faces go to which tracks is decided for a frame as a whole (the Hungarian
method). In doubt a track ends and another begins: two tracks of one person meet again when both
are told who it is, two people in one track would not be parted any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from facegraph.faces.suppression import overlaps
from facegraph.types import FloatArray

NEAR_IOU = 0.3
"""Overlap with the expected box at which a face is where its track was a frame ago."""

ALIKE = 0.75
"""How similar a face that is near must be to its track, in parts of the threshold: the same face
turns, blurs and laughs from one frame to the next."""

REACH = 1.0
"""How far a face may have moved from where it was expected, in widths of its box, if it is as
similar as the threshold asks; for each second without it, as much again."""

RESIZED = 2.0
"""A face grows or shrinks by at most this factor between two frames."""

STEADY = 0.5
"""Weight of the newest step in a track's velocity."""

NEXT = 1.9
"""Two sightings less than so many sampling periods apart come from neighbouring frames: a video's
own frames lie where they lie, so samples come up to almost two periods apart."""

FOLLOWED = 300
"""Tracks that wait for their next face at a time; of more, those end that were seen longest ago."""

SHOT_EVERY_S = 0.4
"""Best shots lie at least this far apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face at a time.

    box: (4,) float32, x1 y1 x2 y2 in pixels of the video
    embedding: (d,) float32, L2-normalised
    quality: 0..1, how much it is worth for recognition
    """

    time_s: float
    box: FloatArray
    embedding: FloatArray
    quality: float


@dataclass(slots=True, eq=False)
class Track:
    """What is kept of a track; its size does not depend on how long it is.

    number: counts up from 1 in the order in which tracks began
    shots: the best few sightings, in order of time
    """

    number: int
    start_s: float
    last: Sighting
    most_shots: int
    faces: int = 1
    shots: list[Sighting] = field(default_factory=list)
    _velocity: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))

    def __post_init__(self) -> None:
        self.shots = [self.last]

    @property
    def last_s(self) -> float:
        return self.last.time_s

    def add(self, sighting: Sighting) -> None:
        step_s = sighting.time_s - self.last_s
        moved = (_centre(sighting.box) - _centre(self.last.box)) / np.float32(step_s)
        self._velocity = STEADY * moved + (1 - STEADY) * self._velocity
        self.last = sighting
        self.faces += 1
        self._keep(sighting)

    def expected(self, time_s: float) -> FloatArray:
        """The box moved on at the track's velocity, slowing down: at most by one width."""
        width = float(self.last.box[2] - self.last.box[0])
        shift = self._velocity * np.float32(time_s - self.last_s)
        box: FloatArray = self.last.box + np.tile(np.clip(shift, -width, width), 2)
        return box

    def similarities(self, embeddings: FloatArray) -> FloatArray:
        """How much (n, d) faces resemble the newest one or the mean of the best ones: (n,)."""
        mean = self.mean()
        values: FloatArray = np.maximum(embeddings @ self.last.embedding, embeddings @ mean)
        return values

    def mean(self) -> FloatArray:
        """The direction of the best shots' embeddings: (d,) float32 of length 1, or zeros."""
        total = np.sum([shot.embedding for shot in self.shots], axis=0, dtype=np.float64)
        length = float(np.linalg.norm(total))
        return np.asarray(total / length if length > 1e-6 else total, np.float32)

    def _keep(self, sighting: Sighting) -> None:
        """The best shots so far; the longer a track is, the farther they lie apart."""
        every_s = max(SHOT_EVERY_S, (sighting.time_s - self.start_s) / (2 * self.most_shots))
        kept: list[Sighting] = []
        for shot in [*self.shots, sighting]:
            if kept and shot.time_s - kept[-1].time_s < every_s - 1e-6:
                kept[-1] = max(kept[-1], shot, key=_quality)
            else:
                kept.append(shot)
        if len(kept) > self.most_shots:
            kept.remove(min(kept, key=_quality))
        self.shots = kept


class Tracker:
    """Follows faces through the sampled frames of one video.

    threshold: similarity at which two faces are one person's (the pack's)
    gap_s: a track ends when its face was away for longer; if that is less than from one sampled
        frame to the next, when it was not in the next one
    min_track_s, period_s: a track that spans less is forgotten; a sighting lasts one period
    most_tracks: of more, those of the fewest faces are forgotten and counted in ``left_out``
    """

    def __init__(
        self,
        *,
        threshold: float,
        gap_s: float,
        min_track_s: float,
        period_s: float,
        most_tracks: int,
        most_shots: int,
    ) -> None:
        self._threshold = threshold
        self._gap_s = max(gap_s, NEXT * period_s)
        self._min_track_s = min_track_s
        self._period_s = period_s
        self._most_tracks = most_tracks
        self._most_shots = most_shots
        self._active: list[Track] = []
        self._ended: list[Track] = []
        self._begun = 0
        self.left_out = 0

    def see(self, time_s: float, seen: Sequence[Sighting], *, cut: bool) -> None:
        """The faces of the next sampled frame; ``cut``: another shot of a camera began with it."""
        over = [t for t in self._active if cut or time_s - t.last_s > self._gap_s]
        self._end(over)
        self._active = [t for t in self._active if t not in over]
        rest = set(range(len(seen)))
        for track, face in self._joined(time_s, seen):
            track.add(seen[face])
            rest.discard(face)
        for face in sorted(rest):
            self._begun += 1
            self._active.append(Track(self._begun, time_s, seen[face], most_shots=self._most_shots))
        if len(self._active) > FOLLOWED:
            self._active.sort(key=lambda track: (track.last_s, track.faces))
            self._end(self._active[:-FOLLOWED])
            self._active = self._active[-FOLLOWED:]

    def finish(self) -> list[Track]:
        """Every track, in order of their numbers."""
        self._end(self._active)
        self._active = []
        return sorted(self._ended, key=lambda track: track.number)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            if track.last_s - track.start_s + self._period_s >= self._min_track_s - 1e-6:
                self._ended.append(track)
            if len(self._ended) > self._most_tracks:
                self._ended.remove(min(self._ended, key=lambda t: (t.faces, -t.number)))
                self.left_out += 1

    def _joined(self, time_s: float, seen: Sequence[Sighting]) -> list[tuple[Track, int]]:
        """The pairs of the best total of similarity and overlap."""
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

        if not self._active or not seen:
            return []
        boxes = np.stack([face.box for face in seen])
        embeddings = np.stack([face.embedding for face in seen])
        gains = np.stack([self._gains(t, time_s, boxes, embeddings) for t in self._active])
        rows, columns = linear_sum_assignment(gains, maximize=True)
        return [
            (self._active[row], int(column))
            for row, column in zip(rows, columns, strict=True)
            if gains[row, column] > 0
        ]

    def _gains(
        self, track: Track, time_s: float, boxes: FloatArray, embeddings: FloatArray
    ) -> FloatArray:
        """What joining each face to ``track`` is worth; 0 where it must not be joined: (n,)."""
        expected = track.expected(time_s)
        away_s = time_s - track.last_s
        alike = track.similarities(embeddings)
        (covers,) = overlaps(expected[None], boxes)
        width = float(expected[2] - expected[0])
        widths = boxes[:, 2] - boxes[:, 0]
        sized = (widths < RESIZED * width) & (widths * RESIZED > width)
        far = np.linalg.norm(_centre(boxes) - _centre(expected), axis=-1)
        near = (covers >= NEAR_IOU) & (away_s < NEXT * self._period_s)
        reachable = far <= REACH * width * (1 + away_s)
        joins = sized & (
            (near & (alike >= ALIKE * self._threshold)) | (reachable & (alike >= self._threshold))
        )
        gains: FloatArray = np.where(joins, alike + covers, 0).astype(np.float32)
        return gains


def _centre(boxes: FloatArray) -> FloatArray:
    """The middle of (…, 4) boxes: (…, 2)."""
    middle: FloatArray = (boxes[..., :2] + boxes[..., 2:]) / np.float32(2)
    return middle


def _quality(sighting: Sighting) -> float:
    return sighting.quality
