"""The shapes of v1 answers. They type the handlers and are the schemas in OpenAPI."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from facegraph.faces.liveness import LIVE
from facegraph.types import (
    QUALITY_PARTS,
    Attributes,
    Collection,
    Contract,
    Decision,
    Detection,
    Faces,
    Match,
    Sample,
    SearchMode,
    Segmentation,
    Subject,
)
from facegraph.vision.masks import png


class Box(TypedDict):
    x: float
    y: float
    width: float
    height: float


class Gender(TypedDict):
    """``probability`` is that of the label."""

    label: Literal["female", "male"]
    probability: float


class Pose(TypedDict):
    """Degrees: yaw, positive where the face is turned to the image's right; pitch, up; roll,
    clockwise."""

    yaw: float
    pitch: float
    roll: float


POSE = ("yaw", "pitch", "roll")

QualityReason = Literal[
    "blurred", "too_dark", "too_bright", "low_contrast", "too_small", "turned_away"
]


class Quality(TypedDict):
    """``score`` is the least of the parts, 0..1; a part below 0.5 has a reason."""

    score: float
    sharpness: float
    brightness: float
    size: float
    pose: float
    reasons: list[QualityReason]


class Liveness(TypedDict):
    """``score`` is the probability that it is no picture of a picture; ``live`` from 0.5 on."""

    live: bool
    score: float


class FaceAttributes(TypedDict):
    """What the face pack tells; a member is left out where it has no model for it."""

    age: NotRequired[int]
    gender: NotRequired[Gender]
    pose: NotRequired[Pose]
    quality: NotRequired[Quality]
    liveness: NotRequired[Liveness]


class Face(TypedDict):
    bbox: Box
    bbox_normalized: Box
    landmarks: list[list[float]]
    detection_score: float
    attributes: NotRequired[FaceAttributes]


class ImageSize(TypedDict):
    width: int
    height: int


class Answer(TypedDict):
    request_id: NotRequired[str]


class DetectAnswer(Answer):
    faces: list[Face]
    image: ImageSize
    model: str


Numbers = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "number"},
            "description": "`contract.dimension` numbers; in MessagePack float32 as bin.",
        }
    ),
]
"""A row of float32 as an array, which JSON, MessagePack and gRPC each write in their way."""


class EmbeddedFace(Face):
    embedding: Numbers


class ContractAnswer(TypedDict):
    id: str
    dimension: int
    pack: str


class EmbeddingsAnswer(Answer):
    faces: list[EmbeddedFace]
    image: ImageSize
    contract: ContractAnswer
    model: str


class VerifyAnswer(Answer):
    decision: Literal["match", "unknown"]
    similarity: float
    threshold: float
    source: Face
    target: Face
    model: str


class CollectionAnswer(Answer):
    id: str
    name: str | None
    description: str | None
    metadata: dict[str, Any]
    threshold: float | None
    keep_crops: bool
    search_mode: SearchMode
    contract: str
    subject_count: int
    sample_count: int
    version: int
    created_at: str
    updated_at: str


class RecallAnswer(TypedDict):
    """Of the subjects that the exact search finds, the share that the approximate one finds.

    ``at_1`` counts the best alone, ``at_limit`` the best ``limit``. It is measured by ``probes``
    searches for likenesses of the collection's own samples.
    """

    at_1: float
    at_limit: float
    limit: int
    probes: int


class IndexAnswer(TypedDict):
    """How one matcher searches the collection now.

    ``shard`` is 0 where the subjects are not divided, ``version`` the collection's that it has.
    ``storage`` is how the samples are kept for the first pass over them. ``recall`` is null
    where the search is exact, which finds everybody, or not measured yet.
    """

    shard: int
    version: int
    samples: int
    bytes: int
    search: Literal["exact", "approximate"]
    storage: Literal["int8", "bf16", "float32"]
    recall: RecallAnswer | None


class IndexedCollection(CollectionAnswer):
    """``indexes`` has one entry for each matcher with the collection in memory, by shard."""

    indexes: list[IndexAnswer]


class CollectionList(Answer):
    collections: list[CollectionAnswer]
    next_cursor: str | None


class SubjectFields(TypedDict):
    id: str
    collection_id: str
    name: str | None
    external_id: str | None
    metadata: dict[str, Any]
    sample_count: int
    created_at: str
    updated_at: str


class SubjectAnswer(SubjectFields, Answer):
    pass


class SubjectList(Answer):
    subjects: list[SubjectFields]
    next_cursor: str | None


class SampleFields(TypedDict):
    id: str
    subject_id: str
    bbox: Box | None
    detection_score: float | None
    created_at: str


class SampleList(Answer):
    samples: list[SampleFields]
    next_cursor: str | None


class RejectedImage(TypedDict):
    index: int
    code: str
    detail: str
    reasons: NotRequired[list[str]]


class EnrolledSubject(Answer):
    subject: SubjectFields
    samples: list[SampleFields]
    rejected: list[RejectedImage]
    version: int


class EnrolledSamples(Answer):
    samples: list[SampleFields]
    rejected: list[RejectedImage]
    version: int


class MatchAnswer(TypedDict):
    subject_id: str
    name: str | None
    metadata: dict[str, Any]
    sample_id: str
    similarity: float


class SearchedFace(TypedDict):
    bbox: NotRequired[Box]
    bbox_normalized: NotRequired[Box]
    landmarks: NotRequired[list[list[float]]]
    detection_score: NotRequired[float]
    attributes: NotRequired[FaceAttributes]
    decision: Decision
    matches: list[MatchAnswer]
    threshold: float


class Partial(TypedDict):
    """Which of the ``shards``, counted from 0, were not searched."""

    missing_shards: list[int]
    shards: int


class PartialMember(TypedDict):
    """Left out where everybody was searched."""

    partial: NotRequired[Partial]


class SearchAnswer(Answer, PartialMember):
    faces: list[SearchedFace]
    image: NotRequired[ImageSize]
    version: int
    model: str


class CaptionAnswer(Answer):
    caption: str
    model: str


class RleMask(TypedDict):
    """``size`` is height, width; ``counts`` is what pycocotools reads."""

    encoding: Literal["coco_rle_compressed"]
    size: list[int]
    counts: str


class PngMask(TypedDict):
    """A grey PNG of the whole image: 255 is the object, 0 everything else."""

    encoding: Literal["png"]
    data_uri: str


class ObjectAnswer(TypedDict):
    label: str
    score: float
    bbox: Box
    mask: RleMask | PngMask | None


class SegmentationAnswer(Answer):
    objects: list[ObjectAnswer]
    image: ImageSize
    model: str


MaskForm = Literal["rle", "png", "none"]


class Part(TypedDict):
    """A part of an answer that failed."""

    problem: dict[str, Any]


class PersonIndex(TypedDict):
    person: NotRequired[int | None]


class AnalyzedFace(Face, PersonIndex):
    pass


class AnalyzedFaces(TypedDict):
    faces: list[AnalyzedFace]
    image: ImageSize
    model: str


class AnalyzedSearchedFace(SearchedFace, PersonIndex):
    pass


class AnalyzedSearch(PartialMember):
    faces: list[AnalyzedSearchedFace]
    image: ImageSize
    version: int
    model: str


class AnalyzeAnswer(Answer):
    """The parts asked for, each as its own endpoint answers it.

    ``person`` is the index in ``segmentation.objects`` of the mask a face lies in.
    """

    faces: NotRequired[AnalyzedFaces | Part]
    search: NotRequired[AnalyzedSearch | Part]
    caption: NotRequired[CaptionAnswer | Part]
    segmentation: NotRequired[SegmentationAnswer | Part]


class AnyAnswer(Answer):
    """An object whose members are told by the endpoint's own documentation."""


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}


def face_list(detection: Detection) -> list[Face]:
    """The faces of a detection, in its order, with their attributes where they were asked for."""
    faces = _faces(detection)
    if detection.attributes is None:
        return faces
    told = attribute_list(detection.attributes, len(faces))
    return [{**face, "attributes": each} for face, each in zip(faces, told, strict=True)]


def attribute_list(told: Attributes, n: int) -> list[FaceAttributes]:
    """Of each of ``n`` faces; members that no model told are left out."""
    columns: dict[str, list[Any]] = {}
    if told.ages is not None:
        columns["age"] = [round(age) for age in told.ages.tolist()]
    if told.male_probabilities is not None:
        columns["gender"] = [_gender(male) for male in told.male_probabilities.tolist()]
    if told.poses is not None:
        columns["pose"] = [dict(zip(POSE, pose, strict=True)) for pose in told.poses.tolist()]
    if told.qualities is not None:
        columns["quality"] = _qualities(told)
    if told.live_probabilities is not None:
        columns["liveness"] = [
            {"live": live >= LIVE, "score": live} for live in told.live_probabilities.tolist()
        ]
    rows = [{name: column[row] for name, column in columns.items()} for row in range(n)]
    return cast(list[FaceAttributes], rows)


def _gender(male: float) -> Gender:
    if male > 0.5:
        return {"label": "male", "probability": male}
    return {"label": "female", "probability": 1 - male}


def _qualities(told: Attributes) -> list[dict[str, Any]]:
    assert told.qualities is not None
    assert told.quality_parts is not None
    scores, parts = told.qualities.tolist(), told.quality_parts.tolist()
    reasons = told.quality_reasons or ((),) * len(scores)
    return [
        {"score": score, **dict(zip(QUALITY_PARTS, part, strict=True)), "reasons": list(why)}
        for score, part, why in zip(scores, parts, reasons, strict=True)
    ]


def _faces(detection: Detection) -> list[Face]:
    faces: Faces = detection.faces
    w, h = detection.width, detection.height
    rows = zip(
        faces.boxes.tolist(),
        faces.landmarks.tolist(),
        faces.detection_scores.tolist(),
        strict=True,
    )
    return [
        {
            "bbox": box(x1, y1, x2, y2),
            "bbox_normalized": box(x1 / w, y1 / h, x2 / w, y2 / h),
            "landmarks": landmarks,
            "detection_score": score,
        }
        for (x1, y1, x2, y2), landmarks, score in rows
    ]


def image_size(seen: Detection | Segmentation) -> ImageSize:
    return {"width": seen.width, "height": seen.height}


def detect_answer(detection: Detection, model: str) -> DetectAnswer:
    return {"faces": face_list(detection), "image": image_size(detection), "model": model}


def segmentation_answer(seen: Segmentation, form: MaskForm) -> SegmentationAnswer:
    """The objects, best first; of a large picture, PNG masks take a while to make."""
    rows = zip(seen.labels, seen.scores.tolist(), seen.boxes.tolist(), seen.masks, strict=True)
    return {
        "objects": [
            {"label": label, "score": score, "bbox": box(*xyxy), "mask": _mask(mask, seen, form)}
            for label, score, xyxy, mask in rows
        ],
        "image": image_size(seen),
        "model": seen.model,
    }


def _mask(counts: bytes, seen: Segmentation, form: MaskForm) -> RleMask | PngMask | None:
    if form == "rle":
        return {
            "encoding": "coco_rle_compressed",
            "size": [seen.height, seen.width],
            "counts": counts.decode("ascii"),
        }
    if form == "png":
        encoded = base64.b64encode(png(counts, seen.width, seen.height)).decode("ascii")
        return {"encoding": "png", "data_uri": f"data:image/png;base64,{encoded}"}
    return None


def contract_answer(contract: Contract) -> ContractAnswer:
    return {"id": contract.id, "dimension": contract.dimension, "pack": contract.pack}


def collection_answer(collection: Collection) -> CollectionAnswer:
    return {
        "id": collection.id,
        "name": collection.name,
        "description": collection.description,
        "metadata": dict(collection.metadata),
        "threshold": collection.threshold,
        "keep_crops": collection.keep_crops,
        "search_mode": collection.search_mode,
        "contract": collection.contract_id,
        "subject_count": collection.subject_count,
        "sample_count": collection.sample_count,
        "version": collection.version,
        "created_at": collection.created_at.isoformat(),
        "updated_at": collection.updated_at.isoformat(),
    }


def indexed_collection(
    collection: Collection, galleries: Sequence[Mapping[str, Any]]
) -> IndexedCollection:
    """``galleries``: as :meth:`facegraph.graph.Graph.galleries` tells them."""
    return {**collection_answer(collection), "indexes": [_index(each) for each in galleries]}


def _index(gallery: Mapping[str, Any]) -> IndexAnswer:
    approximate = gallery["approximate"] if gallery["search"] == "approximate" else None
    return {
        "shard": gallery["shard"],
        "version": gallery["version"],
        "samples": gallery["samples"],
        "bytes": gallery["bytes"],
        "search": gallery["search"],
        "storage": gallery["storage"],
        "recall": None if approximate is None else _recall(approximate["recall"]),
    }


def _recall(recall: Mapping[str, Any] | None) -> RecallAnswer | None:
    if recall is None:
        return None
    return {
        "at_1": recall["at_1"],
        "at_limit": recall["at_limit"],
        "limit": recall["limit"],
        "probes": recall["probes"],
    }


def subject_fields(subject: Subject) -> SubjectFields:
    return {
        "id": subject.id,
        "collection_id": subject.collection_id,
        "name": subject.name,
        "external_id": subject.external_id,
        "metadata": dict(subject.metadata),
        "sample_count": subject.sample_count,
        "created_at": subject.created_at.isoformat(),
        "updated_at": subject.updated_at.isoformat(),
    }


def sample_fields(sample: Sample) -> SampleFields:
    return {
        "id": sample.id,
        "subject_id": sample.subject_id,
        "bbox": None if sample.bbox is None else box(*sample.bbox),
        "detection_score": sample.detection_score,
        "created_at": sample.created_at.isoformat(),
    }


def match_answer(match: Match) -> MatchAnswer:
    return {
        "subject_id": match.subject_id,
        "name": match.name,
        "metadata": dict(match.metadata),
        "sample_id": match.sample_id,
        "similarity": match.similarity,
    }


class EnrollSubjects(TypedDict):
    new: int
    already_there: int


class RejectedItem(TypedDict):
    """``item``: a path, or a place in the table."""

    item: str
    subject_id: str | None
    code: str
    detail: str


class EnrollResult(TypedDict):
    """What an enrolling job did: every item read was enrolled, there already, or rejected.

    ``rejected_items`` has the first thousand.
    """

    collection_id: str
    read: int
    enrolled: int
    already_there: int
    subjects: EnrollSubjects
    rejected: int
    rejected_by_code: dict[str, int]
    rejected_items: list[RejectedItem]
    seconds: float
