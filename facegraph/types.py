"""The values that travel between the rooms. All are frozen; arrays are validated on construction.

Coordinates are pixels of the upright image (EXIF orientation applied), origin top left.
Images and crops are RGB, uint8, height × width × 3.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facegraph.columns import Texts

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

CROP_SIZE = 112
"""Side of an aligned crop, in pixels."""

Decision = Literal["match", "ambiguous", "unknown"]
Consistency = Literal["strong", "eventual"]
SearchMode = Literal["auto", "exact", "approximate"]


def _require(
    name: str, array: npt.NDArray[Any], dtype: type, shape: tuple[int | None, ...]
) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        want = "×".join("n" if side is None else str(side) for side in shape)
        raise ValueError(
            f"{name}: expected {want} {np.dtype(dtype)}, got {array.shape} {array.dtype}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The faces of one image, as columns; row i of each array is the same face.

    boxes: (n, 4) float32, x1 y1 x2 y2 in pixels, clipped to the image
    landmarks: (n, 5, 2) float32, x y: eye, eye, nose, mouth corner, mouth corner that
        lie on the image's left, right, middle, left, right
    detection_scores: (n,) float32 in 0..1

    Order: largest area first; ties by score (higher first), then top, then left.
    """

    boxes: FloatArray
    landmarks: FloatArray
    detection_scores: FloatArray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _require("boxes", self.boxes, np.float32, (n, 4))
        _require("landmarks", self.landmarks, np.float32, (n, 5, 2))
        _require("detection_scores", self.detection_scores, np.float32, (n,))

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Faces:
        """The faces of these rows, in the order given."""
        return Faces(self.boxes[rows], self.landmarks[rows], self.detection_scores[rows])

    @classmethod
    def empty(cls) -> Faces:
        return cls(
            np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """What is told of faces beyond where they are, as columns; row i of each is face i.

    A column is None where no model at hand tells it.

    ages: (n,) float32, years
    male_probabilities: (n,) float32 in 0..1
    poses: (n, 3) float32, degrees: yaw (positive: turned to the image's right), pitch (positive:
        up), roll (positive: clockwise)
    qualities: (n,) float32 in 0..1
    quality_parts: (n, 4) float32 in 0..1, in the order of ``QUALITY_PARTS``; 1 is as good as it
        gets for recognition
    quality_reasons: per face what its quality suffers from, out of
        :data:`facegraph.faces.quality.REASONS`; empty where nothing is below its bar
    live_probabilities: (n,) float32 in 0..1, that it is no picture of a picture
    """

    ages: FloatArray | None = None
    male_probabilities: FloatArray | None = None
    poses: FloatArray | None = None
    qualities: FloatArray | None = None
    quality_parts: FloatArray | None = None
    live_probabilities: FloatArray | None = None
    quality_reasons: tuple[tuple[str, ...], ...] | None = None


QUALITY_PARTS = ("sharpness", "brightness", "size", "pose")


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """What the detector says of one image.

    width, height: of the upright image, pixels
    faces: at most the ``max_faces`` asked for, largest first
    crops: (n, 112, 112, 3) uint8 RGB, aligned, row i belongs to face i; n is 0 when crops
        were not asked for
    found: how many faces there were before ``max_faces`` cut the list
    attributes: None when they were not asked for
    """

    width: int
    height: int
    faces: Faces
    crops: ByteArray
    found: int
    attributes: Attributes | None = None

    def __post_init__(self) -> None:
        _require("crops", self.crops, np.uint8, (None, CROP_SIZE, CROP_SIZE, 3))


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The objects of one image, as columns, best score first; row i is the same object.

    width, height: of the upright image, pixels
    labels: COCO's names
    scores: (n,) float32 in 0..1
    boxes: (n, 4) float32, x1 y1 x2 y2 in pixels, clipped to the image
    masks: COCO's compressed run-length counts at (height, width); nothing of a mask lies outside
        its box, rounded outwards to whole pixels
    model: the segmenter that answered
    """

    width: int
    height: int
    labels: tuple[str, ...]
    scores: FloatArray
    boxes: FloatArray
    masks: tuple[bytes, ...]
    model: str

    def __post_init__(self) -> None:
        n = len(self.labels)
        _require("scores", self.scores, np.float32, (n,))
        _require("boxes", self.boxes, np.float32, (n, 4))
        if len(self.masks) != n:
            raise ValueError(f"masks: expected {n}, got {len(self.masks)}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Caption:
    """One sentence about an image. ``model`` is the captioner that answered."""

    text: str
    model: str


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """How a caption is generated; ``inventory`` heeds none of them.

    max_length, min_length: tokens of the caption, the prompt's and the end's included, as BLIP
        counts them
    prompt: begins the caption and is taken off the answer
    """

    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    prompt: str = "a picture of "


DEFAULT_CAPTION = CaptionOptions()


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """The best ``top_k`` objects whose score is above ``score_threshold`` (strictly)."""

    top_k: int = 15
    score_threshold: float = 0.15


DEFAULT_SEGMENT = SegmentOptions()


@dataclass(frozen=True, slots=True)
class Contract:
    """What must be equal for two embeddings to be comparable (law 2).

    ``id`` is derived from the other fields and the preprocessing, so equal ids mean equal meaning.
    """

    id: str
    pack: str
    model_sha256: str
    alignment: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Match:
    """A subject that answers a probe, with its best sample. ``similarity`` is the raw cosine."""

    subject_id: str
    sample_id: str
    similarity: float
    name: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """``matches[i]`` answers probe i, best first; all were searched at one ``version``.

    ``threshold`` is the collection's own, None where it has none. ``incarnation`` and ``stamp``
    are those of the version (:class:`Head`), empty where they cannot be told. The subjects of
    ``missing_shards`` of all ``shards`` were not searched; nothing is missing unless the query
    allowed it.
    """

    version: int
    threshold: float | None
    matches: tuple[tuple[Match, ...], ...]
    missing_shards: tuple[int, ...] = ()
    shards: int = 1
    stamp: str = ""
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of subjects whose embeddings share one contract.

    ``incarnation`` differs between two collections that ever had the same id, so an index can
    tell a re-created collection from the one it knows. ``threshold`` None means the pack's.
    ``version`` counts the committed changes (law 3); ``log_floor`` is the newest version whose
    change rows are gone: an index at or above it can catch up from the log.
    """

    id: str
    name: str | None
    description: str | None
    metadata: Mapping[str, Any]
    threshold: float | None
    keep_crops: bool
    search_mode: SearchMode
    contract_id: str
    dimension: int
    incarnation: str
    version: int
    log_floor: int
    subject_count: int
    sample_count: int
    revision: int
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """An identity in a collection."""

    id: str
    collection_id: str
    name: str | None
    external_id: str | None
    metadata: Mapping[str, Any]
    sample_count: int
    revision: int
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """One enrolled embedding, without its vector. ``bbox`` is x1 y1 x2 y2 in the source image."""

    id: str
    subject_id: str
    bbox: tuple[float, float, float, float] | None
    detection_score: float | None
    metadata: Mapping[str, Any]
    created_at: dt.datetime


@dataclass(frozen=True, slots=True, eq=False)
class NewSample:
    """A sample to enrol.

    embedding: (d,) float32, L2-normalised
    crop: (112, 112, 3) uint8 RGB, kept only where the collection asks for it
    """

    embedding: FloatArray
    id: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    detection_score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    crop: ByteArray | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a collection's history stands; what an index compares itself with.

    more: the log went on after ``version`` when it was read up to there
    stamp: drawn at random by the write that made this version. Two histories may both reach a
        version (a backup restored, a database copied); they never share its stamp.
    threshold, sample_count, search_mode: the collection's own, as of the reading
    """

    incarnation: str
    version: int
    log_floor: int
    contract_id: str
    dimension: int
    threshold: float | None = None
    more: bool = False
    stamp: str = ""
    sample_count: int = 0
    search_mode: SearchMode = "auto"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count`` of every collection: the samples of its share of the subjects."""

    index: int = 0
    count: int = 1


WHOLE = Shard()
"""All of it."""


@dataclass(frozen=True, slots=True)
class SubjectRecord:
    """A subject as an index needs it."""

    id: str
    name: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class GalleryRecords:
    """A whole collection, or one shard of it, at ``head.version``, for building an index.

    subject_details: row i belongs to subject_ids[i]: JSON, a list of its name and its metadata
    row_subjects: (n,) int32, index of each sample's subject
    embeddings: (n, dimension) float32; row i belongs to sample_ids[i]
    """

    head: Head
    subject_ids: Texts
    subject_details: Texts
    sample_ids: Texts
    row_subjects: npt.NDArray[np.int32]
    embeddings: FloatArray

    @classmethod
    def of(
        cls,
        head: Head,
        subjects: Iterable[SubjectRecord],
        samples: Iterable[tuple[str, str, FloatArray]],
    ) -> GalleryRecords:
        """Of ``subjects`` and of samples as (sample id, subject id, embedding)."""
        records, rows = list(subjects), list(samples)
        slots = {record.id: slot for slot, record in enumerate(records)}
        embeddings = np.array([embedding for *_, embedding in rows], np.float32)
        return cls(
            head,
            Texts.of(record.id for record in records),
            Texts.of(json.dumps([record.name, record.metadata]) for record in records),
            Texts.of(sample_id for sample_id, *_ in rows),
            np.array([slots[subject_id] for _, subject_id, _ in rows], np.int32),
            embeddings.reshape(-1, head.dimension),
        )

    def subject(self, index: int | np.integer) -> SubjectRecord:
        """The subject of that index."""
        name, metadata = json.loads(self.subject_details[index])
        return SubjectRecord(self.subject_ids[index], name, metadata)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One row of the change log, with the state it led to joined in.

    subject_upserted: ``subject`` is set
    subject_removed: ``subject_id`` is set; its samples go with it
    sample_added: ``sample_id``, ``subject_id``, ``embedding`` ((dimension,) float32) are set
    sample_removed: ``sample_id`` and ``subject_id`` are set
    A change whose object is gone again by the time it is read is left out: the row that
    removed it follows in the same log.
    """

    version: int
    kind: Literal["subject_upserted", "subject_removed", "sample_added", "sample_removed"]
    subject_id: str
    sample_id: str | None = None
    subject: SubjectRecord | None = None
    embedding: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Work that outlives its request.

    progress: 0..1
    problem: why it failed, as in a problem document
    attempts: how often it was taken; ``worker`` is who has it, under a name for that time only
    """

    id: str
    kind: str
    state: Literal["queued", "running", "done", "failed"]
    params: Mapping[str, Any]
    progress: float
    message: str
    result: Mapping[str, Any] | None
    problem: Mapping[str, Any] | None
    attempts: int
    worker: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whom a recognizer knows.

    probability: the network's, 0..1, of all its labels together 1
    similarity: raw cosine to the nearest training embedding of that label
    """

    label: str
    probability: float
    similarity: float


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a recognizer says of one probe.

    `match`: the probe is near a training embedding of the most probable label, and nobody is nearer
    by more than the margin. `ambiguous`: it is near somebody, all the same. `unknown`: it is near
    nobody.

    similarity: raw cosine to the nearest training embedding; for a `match`, of that label
    candidates: the most probable, best first; then the nearest, where it is none of them
    """

    decision: Decision
    similarity: float
    candidates: tuple[Candidate, ...]
