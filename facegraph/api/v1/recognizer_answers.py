"""The shapes of answers about recognizers."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict
from yarl import URL

from facegraph.api.schemas import Answer, Face, ImageSize
from facegraph.api.v1.jobs import JobAnswer
from facegraph.recognizers.options import RECOGNIZER
from facegraph.recognizers.shapes import Activation
from facegraph.store import Recognizer
from facegraph.types import Decision


class BuildAnswer(JobAnswer):
    """``callback_secret`` is there where a callback was asked for, and told this once."""

    callback_secret: NotRequired[str]


class ModelFile(TypedDict):
    bytes: int
    sha256: str


class NotificationAnswer(TypedDict):
    """``origin``: of the callback's address, whose rest may be a secret. ``problem``: what went
    wrong last."""

    origin: str
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int
    problem: str | None


class BriefRecognizer(Answer):
    """``options``: what holds for the build. ``label_count`` is 0, ``model`` null until it is
    `ready`."""

    id: str
    name: str | None
    state: Literal["queued", "building", "ready", "failed"]
    progress: float
    message: str
    created_at: str
    finished_at: str | None
    contract_id: str
    collection: str | None
    options: dict[str, Any]
    label_count: int
    model: ModelFile | None
    notification: NotificationAnswer | None


class ShapeAnswer(TypedDict):
    """``hidden``: the width of each hidden layer; ``layers``: with the last one."""

    hidden: list[int]
    activation: Activation
    dropout: float
    learning_rate: float
    layers: int
    parameters: NotRequired[int]


class BestShape(TypedDict):
    accuracy: float
    layers: int
    parameters: int
    shape: ShapeAnswer


class Generation(TypedDict):
    """``evaluated``: shapes seen for the first time; ``best``: so far."""

    generation: int
    evaluated: int
    best: BestShape
    mean_accuracy: float
    seconds: float


class SearchCourse(TypedDict):
    """``stopped``: why it ended; null while it goes on."""

    generations: list[Generation]
    stopped: Literal["generations", "no_improvement", "optimal", "time"] | None


class Accuracies(TypedDict):
    """Shares of ``pictures`` that were labelled right."""

    pictures: int
    chosen: float
    default: float
    nearest_neighbour: float


class CrossValidated(Accuracies):
    folds: int


class Parameters(TypedDict):
    chosen: int
    default: int


class Confusion(TypedDict):
    label: str
    predicted: str
    count: int


class RecognizerMetrics(TypedDict):
    """The shape was chosen by ``cross_validated``; by what was ``held_out`` nothing was."""

    cross_validated: CrossValidated
    held_out: Accuracies | None
    parameters: Parameters
    confusions: list[Confusion]


class Counted(TypedDict):
    """``items`` may be cut, ``count`` is not."""

    count: int
    items: list[dict[str, Any]]


class RejectedPictures(Counted):
    by_code: dict[str, int]


class RecognizerAnswer(BriefRecognizer):
    """``labels``: none until it is `ready`. ``search``: its course so far; null where there is
    none. ``problem``: why it `failed`.

    What came of the build is null until it is `ready`: ``shape``, ``metrics``, ``pictures`` (that
    it was trained with), ``augmentation``, ``left_out`` (labels with too few pictures),
    ``repeated`` and ``conflicts`` (the same picture of one label, of several), ``rejected``
    (pictures without a sample), ``collection_version`` (that it was built from).
    """

    labels: list[str]
    search: SearchCourse | None
    shape: ShapeAnswer | None
    metrics: RecognizerMetrics | None
    pictures: int | None
    augmentation: str | None
    left_out: Counted | None
    repeated: Counted | None
    conflicts: Counted | None
    rejected: RejectedPictures | None
    collection_version: int | None
    problem: dict[str, Any] | None


class RecognizerList(Answer):
    recognizers: list[BriefRecognizer]
    next_cursor: str | None


class CandidateAnswer(TypedDict):
    """``similarity``: raw cosine to the nearest picture of that label."""

    label: str
    probability: float
    similarity: float


class Recognition(TypedDict):
    """``label`` is `unknown` but for a `match`; ``similarity`` the raw cosine to the nearest
    picture, whoever is on it; ``probability`` that of the first candidate, 0 where none is told."""

    decision: Decision
    label: str
    probability: float
    similarity: float
    candidates: list[CandidateAnswer]


class RecognizedFace(Face, Recognition):
    pass


class PredictAnswer(Answer):
    """For an embedding there is one face, without a place."""

    faces: list[RecognizedFace | Recognition]
    image: NotRequired[ImageSize]
    threshold: float
    recognizer: str
    model: str


def build_answer(recognizer: Recognizer, callback_secret: str | None) -> BuildAnswer:
    """Of one that was just asked for; its job has its id."""
    answer: BuildAnswer = {
        "id": recognizer.id,
        "kind": RECOGNIZER,
        "state": "queued",
        "progress": recognizer.progress,
        "message": recognizer.message,
        "attempts": 0,
        "created_at": recognizer.created_at.isoformat(),
        "started_at": None,
        "finished_at": None,
    }
    if callback_secret is not None:
        answer["callback_secret"] = callback_secret
    return answer


def brief(recognizer: Recognizer) -> BriefRecognizer:
    finished_at = recognizer.finished_at
    return {
        "id": recognizer.id,
        "name": recognizer.name,
        "state": recognizer.state,
        "progress": round(recognizer.progress, 4),
        "message": recognizer.message,
        "created_at": recognizer.created_at.isoformat(),
        "finished_at": None if finished_at is None else finished_at.isoformat(),
        "contract_id": recognizer.contract_id,
        "collection": recognizer.collection_id,
        "options": dict(recognizer.options),
        "label_count": recognizer.label_count,
        "model": _model(recognizer),
        "notification": _notification(recognizer),
    }


def recognizer_answer(recognizer: Recognizer) -> RecognizerAnswer:
    course, outcome = recognizer.course, recognizer.outcome or {}
    return {
        **brief(recognizer),
        "labels": list(recognizer.labels),
        "search": None if course is None else cast(SearchCourse, dict(course)),
        "shape": outcome.get("shape"),
        "metrics": outcome.get("metrics"),
        "pictures": outcome.get("pictures"),
        "augmentation": outcome.get("augmentation"),
        "left_out": outcome.get("left_out"),
        "repeated": outcome.get("repeated"),
        "conflicts": outcome.get("conflicts"),
        "rejected": outcome.get("rejected"),
        "collection_version": None if recognizer.origin is None else recognizer.origin.version,
        "problem": None if recognizer.problem is None else dict(recognizer.problem),
    }


def _model(recognizer: Recognizer) -> ModelFile | None:
    if recognizer.model_bytes is None or recognizer.model_sha256 is None:
        return None
    return {"bytes": recognizer.model_bytes, "sha256": recognizer.model_sha256}


def _notification(recognizer: Recognizer) -> NotificationAnswer | None:
    told = recognizer.notification
    if told is None:
        return None
    return {
        "origin": str(URL(told.url).origin()),
        "state": told.state,
        "attempts": told.attempts,
        "problem": told.problem,
    }
