"""Jobs over HTTP: state, progress, outcome, lists, deletion."""

from __future__ import annotations

import httpx
import pytest

from facegraph.service import Service
from facegraph.types import Job

pytestmark = pytest.mark.api


async def make(service: Service, **params: int) -> Job:
    return await service.store.jobs.create("test", params, max_open=100)


async def test_a_job_from_queued_to_done(client: httpx.AsyncClient, service: Service) -> None:
    job = await make(service)
    queued = (await client.get(f"/v1/jobs/{job.id}")).json()
    assert (queued["state"], queued["progress"], queued["message"]) == ("queued", 0, "")
    assert (queued["kind"], queued["attempts"], queued["started_at"]) == ("test", 0, None)
    assert "result" not in queued
    assert "problem" not in queued

    held = await service.store.jobs.take(["test"], "w", 60)
    assert held is not None
    await service.store.jobs.renew(held, 0.25, "a quarter", 60)
    running = (await client.get(f"/v1/jobs/{job.id}")).json()
    assert (running["state"], running["progress"]) == ("running", 0.25)
    assert (running["message"], running["finished_at"]) == ("a quarter", None)

    await service.store.jobs.finish(held, {"people": []})
    done = (await client.get(f"/v1/jobs/{job.id}")).json()
    assert (done["state"], done["progress"], done["result"]) == ("done", 1, {"people": []})
    assert queued["created_at"] <= done["started_at"] <= done["finished_at"]


async def test_a_failed_job_tells_its_problem(client: httpx.AsyncClient, service: Service) -> None:
    job = await make(service)
    held = await service.store.jobs.take(["test"], "w", 60)
    assert held is not None
    await service.store.jobs.fail(held, {"code": "invalid_video", "status": 422})
    failed = await client.get(f"/v1/jobs/{job.id}")
    assert failed.status_code == 200  # the question was answered
    assert failed.json()["problem"] == {"code": "invalid_video", "status": 422}
    assert "result" not in failed.json()


async def test_lists_leave_the_results_out(client: httpx.AsyncClient, service: Service) -> None:
    ids = [(await make(service)).id for _ in range(3)]
    held = await service.store.jobs.take(["test"], "w", 60)
    assert held is not None
    await service.store.jobs.finish(held, {"people": []})
    first = (await client.get("/v1/jobs", params={"limit": 2})).json()
    second = (await client.get("/v1/jobs", params={"cursor": first["next_cursor"]})).json()
    assert [job["id"] for job in (*first["jobs"], *second["jobs"])] == ids
    assert [job["state"] for job in first["jobs"]] == ["done", "queued"]
    assert "result" not in first["jobs"][0]


async def test_a_deleted_job_is_not_found(client: httpx.AsyncClient, service: Service) -> None:
    job = await make(service)
    assert (await client.delete(f"/v1/jobs/{job.id}")).status_code == 204
    for method in ("GET", "DELETE"):
        gone = await client.request(method, f"/v1/jobs/{job.id}")
        assert (gone.status_code, gone.json()["code"]) == (404, "job_not_found")
