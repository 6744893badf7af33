"""Recognizers: small networks that know some people, built when asked for."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from facegraph.api.builds import Archive, BuildParams, Pictures, Samples, Source, accept
from facegraph.api.endpoint import Call, NoParams, Picture, Reply, endpoint
from facegraph.api.fields import Id, Listed, Text
from facegraph.api.parsing import load_json
from facegraph.api.streaming import Streamed
from facegraph.api.training import TrainingEndpoint
from facegraph.api.training_forms import TrainingUpload
from facegraph.api.v1.collections import Paging
from facegraph.api.v1.recognizer_answers import (
    BuildAnswer,
    RecognizerAnswer,
    RecognizerList,
    brief,
    build_answer,
    recognizer_answer,
)
from facegraph.api.v1.subjects import MinQuality
from facegraph.bulk.patterns import PATTERN
from facegraph.errors import (
    CollectionNotFound,
    ContractMismatch,
    FacegraphError,
    ImageTooLarge,
    InvalidRequest,
    InvalidTrainingSet,
    RecognizerNotFound,
    RecognizerNotReady,
    TooManyRecognizers,
)
from facegraph.service import FacePolicy
from facegraph.store import Recognizer

log = logging.getLogger(__name__)

MAX_DOWNLOADS = 8
"""Models that are sent at a time; a slow client keeps its own place only."""

ONNX = "application/octet-stream"


def _listed(value: Any) -> Any:
    """A form brings a list as JSON text, or as text with commas."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = load_json(value.encode())
    if isinstance(value, list) and not all(isinstance(label, str) for label in value):
        raise ValueError("must be texts")  # once, not for each: there may be very many
    return value


Labels = Annotated[
    tuple[str, ...],
    Listed,
    BeforeValidator(_listed),
    Field(
        description="Who is on each image, in their order; default: the folder that its file's "
        "name says, or what the name has before `_<n>`.",
    ),
]


class NewRecognizer(BuildParams):
    labels: Labels | None = None
    pattern: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description="Of an archive: whose picture a path is, as `/v1/jobs/enroll` takes it.",
        ),
    ] = PATTERN
    face: FacePolicy = "only"
    min_quality: MinQuality | None = None
    collection: Annotated[
        Id | None, Field(description="Instead of pictures: its subjects, by their samples.")
    ] = None


class Listing(Paging):
    label: Annotated[
        Text | None, Field(min_length=1, description="Only those that know this label.")
    ] = None


async def _create(call: Call[NewRecognizer]) -> Reply:
    """Build a recognizer of pictures with labels, or of a collection's samples; 202 and a job.

    The pictures are files `images` with `labels`, or one `archive` (zip, Parquet, CSV) as
    `/v1/jobs/enroll` takes it. Each must show one face (`face=largest` takes the largest of
    several); one that does not is told among the `rejected`. At least two people are needed, with
    `min_pictures` each.

    `optimize=true` searches for the network's shape: the most accurate by cross-validation, of
    those the one with the fewest layers, then parameters. `GET /v1/recognizers/{id}` tells how far
    it is, `/events` follows it, and `callback_url` is told when it is over; the answer then has the
    `callback_secret` that signs the POST, which is told this once.
    """
    accepted = await accept(call.service, call.params, _source(call.params, call.training))
    answer = build_answer(accepted.recognizer, accepted.callback_secret)
    return Reply(answer, {"location": f"/v1/recognizers/{accepted.recognizer.id}"})


create = TrainingEndpoint(
    "POST",
    "/v1/recognizers",
    _create,
    NewRecognizer,
    BuildAnswer,
    status=202,
    errors=(
        ImageTooLarge,
        InvalidTrainingSet,
        CollectionNotFound,
        ContractMismatch,
        TooManyRecognizers,
    ),
)


def _source(params: NewRecognizer, sent: TrainingUpload | None) -> Source:
    """The one source that the request names. InvalidRequest, also for what says nothing of it."""
    assert sent is not None
    there = {
        "images": bool(sent.pictures),
        "archive": sent.archive is not None,
        "collection": params.collection is not None,
    }
    if sum(there.values()) != 1:
        got = ", ".join(name for name, is_there in there.items() if is_there) or "none"
        raise InvalidRequest(f"send images, one archive, or name a collection: got {got}")
    if params.collection is not None:
        _require_idle(params, "a collection", "labels", "pattern", "face", "min_quality")
        return Samples(params.collection)
    if sent.archive is not None:
        _require_idle(params, "an archive", "labels")
        return Archive(sent.archive, params.pattern, params.face, params.min_quality)
    _require_idle(params, "images", "pattern")
    return Pictures(sent.pictures, params.labels, params.face, params.min_quality)


def _require_idle(params: NewRecognizer, source: str, *names: str) -> None:
    if idle := [name for name in names if name in params.model_fields_set]:
        raise InvalidRequest(f"{', '.join(idle)}: not for {source}")


@endpoint("GET", "/v1/recognizers", answer=RecognizerList, params=Listing)
async def list_all(call: Call[Listing]) -> RecognizerList:
    """Recognizers in the order in which they were made, without what came of their builds."""
    params = call.params
    page = await call.service.store.recognizers.list(
        limit=params.limit, cursor=params.cursor, label=params.label
    )
    return {
        "recognizers": [brief(recognizer) for recognizer in page.items],
        "next_cursor": page.next_cursor,
    }


@endpoint(
    "GET",
    "/v1/recognizers/{id}",
    answer=RecognizerAnswer,
    params=NoParams,
    errors=(RecognizerNotFound,),
)
async def read(call: Call[NoParams]) -> RecognizerAnswer:
    """A recognizer's state, the course of its search, and what came of it.

    One that failed is kept as long as its job (`retention_s`, a day).
    """
    return recognizer_answer(await call.service.store.recognizers.get(call.path["id"]))


@endpoint(
    "GET",
    "/v1/recognizers/{id}/model",
    answer=Streamed,
    media_types=(ONNX,),
    params=NoParams,
    errors=(RecognizerNotFound, RecognizerNotReady),
)
async def model(call: Call[NoParams]) -> Streamed:
    """The ONNX file, with its labels, contract, shape and metrics in the metadata.

    `embeddings` (n, d) L2-normalised → `probabilities` and `similarities` (n, labels). It holds the
    embeddings that it was trained with: biometric data.
    """
    recognizer = await ready(call)
    pieces = call.service.store.recognizers.model_pieces(recognizer.id)
    headers = {
        "content-length": str(recognizer.model_bytes),
        "content-disposition": f'attachment; filename="{recognizer.id}.onnx"',
        "etag": f'"{recognizer.model_sha256}"',
    }
    lasts_s = call.service.tuning.video_timeout_s
    streamed = Streamed(_sent(pieces), ONNX, headers, lasts_s=lasts_s, aside=True)
    streamed.held.enter_context(call.state.downloads.admit(MAX_DOWNLOADS))
    return streamed


async def _sent(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for piece in pieces:
        yield piece


@endpoint(
    "GET",
    "/v1/recognizers/{id}/report",
    answer=Picture,
    params=NoParams,
    errors=(RecognizerNotFound, RecognizerNotReady),
)
async def report(call: Call[NoParams]) -> Picture:
    """A PNG: who was taken for whom in cross-validation, and the search's course."""
    recognizer = await ready(call)
    return Picture(await call.service.store.recognizers.report(recognizer.id), "image/png")


@endpoint(
    "DELETE",
    "/v1/recognizers/{id}",
    answer=None,
    params=NoParams,
    status=204,
    errors=(RecognizerNotFound,),
)
async def delete(call: Call[NoParams]) -> None:
    """Forget a recognizer with all that belongs to it; a build that is under way is stopped."""
    recognizer_id = call.path["id"]
    await call.service.store.recognizers.delete(recognizer_id)
    try:
        await call.service.graph.forget_recognizer(recognizer_id)
    except FacegraphError as error:  # it is deleted; who has it in memory is never asked for it
        log.warning("recognizer %s may stay in some memory for a while: %s", recognizer_id, error)


async def ready(call: Call[Any]) -> Recognizer:
    """The recognizer of the path; RecognizerNotFound, RecognizerNotReady."""
    recognizer = await call.service.store.recognizers.get(call.path["id"])
    if recognizer.state != "ready":
        raise RecognizerNotReady(f"recognizer {recognizer.id!r} is {recognizer.state}")
    return recognizer


ENDPOINTS = (create, list_all, read, model, report, delete)
