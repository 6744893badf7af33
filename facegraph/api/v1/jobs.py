"""Jobs: work that outlives its request; its state, progress and result."""

from __future__ import annotations

import asyncio
import io
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field

from facegraph.api.archives import ArchiveEndpoint, pieces
from facegraph.api.endpoint import Call, NoParams, Params, Reply, endpoint
from facegraph.api.fields import Id
from facegraph.api.schemas import Answer, EnrollResult
from facegraph.api.v1.collections import Paging
from facegraph.api.v1.subjects import MinQuality
from facegraph.bulk.job import ENROLMENT, EnrolmentOptions, check_source
from facegraph.bulk.patterns import PATTERN
from facegraph.errors import (
    CollectionNotFound,
    ContractMismatch,
    Forbidden,
    ImageTooLarge,
    InvalidRequest,
    JobNotFound,
)
from facegraph.importing.collections import active_collection
from facegraph.service import FacePolicy
from facegraph.types import Job


class JobAnswer(Answer):
    """``result`` is there when the state is `done`, ``problem`` when it is `failed`."""

    id: str
    kind: str
    state: Literal["queued", "running", "done", "failed"]
    progress: float
    message: str
    attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    result: NotRequired[EnrollResult | dict[str, Any]]
    problem: NotRequired[dict[str, Any]]


class JobList(Answer):
    jobs: list[JobAnswer]
    next_cursor: str | None


@endpoint("GET", "/v1/jobs", answer=JobList, params=Paging)
async def list_all(call: Call[Paging]) -> JobList:
    """Jobs in the order in which they were made, without their results."""
    page = await call.service.store.jobs.list(limit=call.params.limit, cursor=call.params.cursor)
    return {"jobs": [_fields(job) for job in page.items], "next_cursor": page.next_cursor}


@endpoint("GET", "/v1/jobs/{id}", answer=JobAnswer, params=NoParams, errors=(JobNotFound,))
async def read(call: Call[NoParams]) -> JobAnswer:
    """A job's state, progress from 0 to 1, and what came of it.

    Finished jobs are kept for a time only (`retention_s`, a day).
    """
    job = await call.service.store.jobs.get(call.path["id"])
    answer = _fields(job)
    if job.result is not None:
        answer["result"] = dict(job.result)
    if job.problem is not None:
        answer["problem"] = dict(job.problem)
    return answer


@endpoint(
    "DELETE", "/v1/jobs/{id}", answer=None, params=NoParams, status=204, errors=(JobNotFound,)
)
async def delete(call: Call[NoParams]) -> None:
    """Forget a job with its input and its result; one that is under way is stopped."""
    await call.service.store.jobs.delete(call.path["id"])


def accepted(job: Job) -> Reply:
    """The answer to a request that became a job: 202 and where to look."""
    return Reply(_fields(job), {"location": f"/v1/jobs/{job.id}"})


def _fields(job: Job) -> JobAnswer:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "progress": round(job.progress, 4),
        "message": job.message,
        "attempts": job.attempts,
        "created_at": job.created_at.isoformat(),
        "started_at": None if job.started_at is None else job.started_at.isoformat(),
        "finished_at": None if job.finished_at is None else job.finished_at.isoformat(),
    }


class EnrollParams(Params):
    collection: Id = "default"
    path: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1024,
            description="Instead of a file: a folder, .csv, .parquet or .zip below the operator's "
            "`bulk_root`.",
        ),
    ] = None
    pattern: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description="Whose picture a path is: `*` any text without a slash, `**` any text, "
            "`{subject}` as long as it may be, without a slash.",
        ),
    ] = PATTERN
    face: FacePolicy = "only"
    min_quality: MinQuality | None = None


async def _enroll(call: Call[EnrollParams]) -> Reply:
    """Enroll the pictures of a zip, Parquet or CSV, or of a folder of the server; 202 and a job.

    A zip holds pictures, by default in a folder for each subject, or one `.csv` beside them. CSV
    and Parquet have the columns `subject_id` and `path` (in the zip or below `bulk_root`), `url`
    (where fetching is on) or, in Parquet, `image`; and if wanted `name`, `external_id`, `metadata`.

    A subject that is there keeps its name and metadata and is given the samples it lacks. A picture
    that is a sample of its subject already is skipped, so asking again is safe. The job's result is
    an `EnrollResult`.
    """
    service, params = call.service, call.params
    if (call.upload is None) == (params.path is None):
        raise InvalidRequest("send one file `archive`, or name a `path` below bulk_root")
    await service.store.get_collection(params.collection)  # no collection, no job
    await active_collection(service.store, params.collection, service.contract)
    options = EnrolmentOptions(
        collection_id=params.collection,
        path=params.path,
        pattern=params.pattern,
        face=params.face,
        min_quality=params.min_quality,
        max_bytes=service.tuning.max_image_bytes,
    )
    file = io.BytesIO() if call.upload is None else call.upload.file
    await asyncio.to_thread(check_source, options, service.settings.bulk_root, file)
    job = await service.store.jobs.create(
        ENROLMENT, asdict(options), parts=partial(pieces, file), max_open=service.tuning.max_jobs
    )
    return accepted(job)


enroll = ArchiveEndpoint(
    "POST",
    "/v1/jobs/enroll",
    _enroll,
    EnrollParams,
    JobAnswer,
    status=202,
    errors=(ImageTooLarge, CollectionNotFound, ContractMismatch, Forbidden),
)


ENDPOINTS = (enroll, list_all, read, delete)
