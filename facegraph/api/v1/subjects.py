"""Subjects and their samples: enrol, list, read, change, erase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import Field

from facegraph.api.endpoint import Call, NoParams, Params, Reply, endpoint
from facegraph.api.fields import (
    NO_METADATA,
    ContractId,
    Cursor,
    Embeddings,
    Id,
    Metadata,
    PageLimit,
    Text,
    before,
    etag,
    idempotency,
    if_match,
)
from facegraph.api.schemas import (
    EnrolledSamples,
    EnrolledSubject,
    RejectedImage,
    SampleList,
    SubjectAnswer,
    SubjectList,
    sample_fields,
    subject_fields,
)
from facegraph.api.v1.faces import IMAGE_ERRORS
from facegraph.errors import (
    CollectionNotFound,
    Conflict,
    ContractMismatch,
    FaceNotFound,
    InvalidRequest,
    LowQuality,
    PreconditionFailed,
    SampleNotFound,
    SeveralFaces,
    SubjectExists,
    SubjectNotFound,
)
from facegraph.service import FacePolicy, Rejected
from facegraph.store import Enrolled, Idempotency
from facegraph.types import NewSample

ENROL_ERRORS = (*IMAGE_ERRORS, FaceNotFound, SeveralFaces, LowQuality, ContractMismatch, Conflict)
SUBJECTS = "/v1/collections/{c}/subjects"

MinQuality = Annotated[
    float,
    Field(ge=0, le=1, description="Least quality of a face, see `attributes`; default: any."),
]


class NewSubject(Params):
    id: Id | None = None
    name: Text | None = None
    external_id: Text | None = None
    metadata: Metadata = NO_METADATA
    face: FacePolicy = "only"
    min_quality: MinQuality | None = None


class SubjectChanges(Params):
    name: Text | None = None
    external_id: Text | None = None
    metadata: Metadata = NO_METADATA


class SubjectPaging(Params):
    limit: PageLimit = 50
    cursor: Cursor | None = None
    q: Text | None = None


class NewSamples(Params):
    embeddings: Embeddings | None = None
    contract: ContractId | None = None
    face: FacePolicy = "only"
    min_quality: MinQuality | None = None


class SamplePaging(Params):
    limit: PageLimit = 50
    cursor: Cursor | None = None


@endpoint(
    "POST",
    SUBJECTS,
    answer=EnrolledSubject,
    params=NewSubject,
    images="several",
    status=201,
    errors=(CollectionNotFound, SubjectExists, *ENROL_ERRORS),
)
async def create(call: Call[NewSubject]) -> Reply:
    """Create a subject and, with pictures, enrol it; all or nothing if every picture fails.

    A picture with several faces is rejected unless `face=largest`, one whose face has a quality
    below `min_quality` with `low_quality` and the reasons. Sent again with the same
    `Idempotency-Key` within a day, a request answers as it did first and changes nothing.
    """
    token = idempotency(call)
    enrolled = await before(call, token) or await _create(call, token)
    body: EnrolledSubject = {
        "subject": subject_fields(enrolled.subject),
        "samples": [sample_fields(sample) for sample in enrolled.samples],
        "rejected": rejected_images(enrolled),
        "version": enrolled.version,
    }
    location = f"/v1/collections/{call.path['c']}/subjects/{enrolled.subject.id}"
    return Reply(body, etag(enrolled.subject.revision) | {"location": location})


async def _create(call: Call[NewSubject], token: Idempotency | None) -> Enrolled:
    params = call.params
    samples, rejected = await call.service.samples(call.images, params.face, params.min_quality)
    enrolled = await call.service.store.create_subject(
        call.path["c"],
        params.id,
        name=params.name,
        external_id=params.external_id,
        metadata=params.metadata,
        samples=samples,
        contract=call.service.contract,
        idempotency=noted(token, rejected),
    )
    return counted(call, enrolled, token, rejected)


@endpoint("GET", SUBJECTS, answer=SubjectList, params=SubjectPaging, errors=(CollectionNotFound,))
async def list_all(call: Call[SubjectPaging]) -> SubjectList:
    """Subjects in the order of their ids; `q` finds text in id, name or external id."""
    page = await call.service.store.list_subjects(
        call.path["c"], limit=call.params.limit, cursor=call.params.cursor, q=call.params.q
    )
    return {
        "subjects": [subject_fields(item) for item in page.items],
        "next_cursor": page.next_cursor,
    }


@endpoint(
    "GET",
    SUBJECTS + "/{s}",
    answer=SubjectAnswer,
    params=NoParams,
    errors=(CollectionNotFound, SubjectNotFound),
)
async def read(call: Call[NoParams]) -> Reply:
    """One subject."""
    subject = await call.service.store.get_subject(call.path["c"], call.path["s"])
    return Reply(subject_fields(subject), etag(subject.revision))


@endpoint(
    "PATCH",
    SUBJECTS + "/{s}",
    answer=SubjectAnswer,
    params=SubjectChanges,
    errors=(CollectionNotFound, SubjectNotFound, PreconditionFailed),
)
async def change(call: Call[SubjectChanges]) -> Reply:
    """Change the members sent; the others stay. `null` clears. Honours `If-Match`."""
    subject = await call.service.store.update_subject(
        call.path["c"],
        call.path["s"],
        call.params.model_dump(exclude_unset=True),
        if_revision=if_match(call.headers.get("if-match")),
    )
    return Reply(subject_fields(subject), etag(subject.revision))


@endpoint(
    "DELETE",
    SUBJECTS + "/{s}",
    answer=None,
    params=NoParams,
    status=204,
    errors=(CollectionNotFound, SubjectNotFound),
)
async def delete(call: Call[NoParams]) -> None:
    """Erase a subject with its samples, here and in every index."""
    await call.service.store.delete_subject(call.path["c"], call.path["s"])


@endpoint(
    "POST",
    SUBJECTS + "/{s}/samples",
    answer=EnrolledSamples,
    params=NewSamples,
    images="several",
    status=201,
    errors=(CollectionNotFound, SubjectNotFound, *ENROL_ERRORS),
)
async def add_samples(call: Call[NewSamples]) -> EnrolledSamples:
    """Enrol pictures, or embeddings of the active contract; part of the pictures may succeed.

    Honours `Idempotency-Key`.
    """
    token = idempotency(call)
    enrolled = await before(call, token) or await _add(call, token)
    return {
        "samples": [sample_fields(sample) for sample in enrolled.samples],
        "rejected": rejected_images(enrolled),
        "version": enrolled.version,
    }


async def _add(call: Call[NewSamples], token: Idempotency | None) -> Enrolled:
    samples, rejected = await _new_samples(call)
    enrolled = await call.service.store.add_samples(
        call.path["c"],
        call.path["s"],
        samples,
        contract=call.service.contract,
        idempotency=noted(token, rejected),
    )
    return counted(call, enrolled, token, rejected)


async def _new_samples(call: Call[NewSamples]) -> tuple[list[NewSample], Sequence[Rejected]]:
    params = call.params
    if (params.embeddings is None) == (not call.images):
        raise InvalidRequest("send images, or embeddings with their contract")
    if params.embeddings is None:
        return await call.service.samples(call.images, params.face, params.min_quality)
    if params.contract is None:
        raise InvalidRequest("embeddings need the contract they were made under")
    rows = call.service.probes(params.embeddings, params.contract)
    return [NewSample(embedding=row) for row in rows], ()


@endpoint(
    "GET",
    SUBJECTS + "/{s}/samples",
    answer=SampleList,
    params=SamplePaging,
    errors=(CollectionNotFound, SubjectNotFound),
)
async def list_samples(call: Call[SamplePaging]) -> SampleList:
    """A subject's samples in the order of their ids."""
    page = await call.service.store.list_samples(
        call.path["c"], call.path["s"], limit=call.params.limit, cursor=call.params.cursor
    )
    return {
        "samples": [sample_fields(item) for item in page.items],
        "next_cursor": page.next_cursor,
    }


@endpoint(
    "DELETE",
    SUBJECTS + "/{s}/samples/{f}",
    answer=None,
    params=NoParams,
    status=204,
    errors=(CollectionNotFound, SubjectNotFound, SampleNotFound),
)
async def delete_sample(call: Call[NoParams]) -> None:
    """Remove one sample."""
    await call.service.store.delete_sample(call.path["c"], call.path["s"], call.path["f"])


def noted(token: Idempotency | None, rejected: Sequence[Rejected]) -> Idempotency | None:
    """The key with the reasons, so that they are told again with the first answer."""
    return None if token is None else replace(token, note=_reasons(rejected))


def counted(
    call: Call[Any], enrolled: Enrolled, token: Idempotency | None, rejected: Sequence[Rejected]
) -> Enrolled:
    """The enrolment with its reasons, in the metrics."""
    call.state.metrics.samples.inc(len(enrolled.samples))
    return enrolled if token else replace(enrolled, note=_reasons(rejected))


def _reasons(rejected: Sequence[Rejected]) -> tuple[Mapping[str, Any], ...]:
    return tuple(item.told() for item in rejected)


def rejected_images(enrolled: Enrolled) -> list[RejectedImage]:
    """As they were noted: ``index``, ``code``, ``detail`` and, of low quality, ``reasons``."""
    return [cast(RejectedImage, dict(note)) for note in enrolled.note]


ENDPOINTS = (create, list_all, read, change, delete, add_samples, list_samples, delete_sample)
