"""Jobs: work that outlives its request; its state, progress and result."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from facegraph.api.endpoint import Call, NoParams, Reply, endpoint
from facegraph.api.schemas import Answer
from facegraph.api.v1.collections import Paging
from facegraph.errors import JobNotFound
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
    result: NotRequired[dict[str, Any]]
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


ENDPOINTS = (list_all, read, delete)
