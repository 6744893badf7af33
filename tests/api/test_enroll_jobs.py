"""`POST /v1/jobs/enroll`: what becomes a job, what is refused, and what a worker makes of it."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from facegraph.api.app import create_app
from facegraph.bulk.job import ENROLMENT, handlers
from facegraph.bulk.parquet import ParquetSource
from facegraph.config import JobsTuning
from facegraph.importing.collections import named_contract
from facegraph.jobs import Work, Worker
from facegraph.service import Service
from facegraph.types import Job
from tests.fake_graph import FakeGraph, picture

pytestmark = pytest.mark.api

ENROLL = "/v1/jobs/enroll"
TUNING = JobsTuning(poll_interval_s=0.01, lease_s=1)


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


PEOPLE = zipped(
    **{
        "ada/1.jpg": picture(1),
        "ada/2.jpg": b"second faces:1.",
        "bob/1.jpg": picture(2),
        "bob/two.jpg": picture(2, 3),
        "lonely.jpg": picture(4),
    }
)


def sent(archive: bytes, **fields: Any) -> dict[str, Any]:
    return {"files": {"archive": ("people.zip", archive, "application/zip")}, "data": fields}


def worker(service: Service) -> Worker:
    return Worker(service.store, handlers(service, no_fetch, lambda: 4), TUNING)


async def no_fetch(url: str, limit: int) -> bytes:
    raise AssertionError("nothing is fetched")


async def finished(service: Service, job_id: str) -> Job:
    async with asyncio.timeout(30):
        while True:
            job = await service.store.jobs.get(job_id)
            if job.state in {"done", "failed"}:
                return job
            await asyncio.sleep(0.01)


async def worked(service: Service, answer: httpx.Response) -> Job:
    """The job of an answer, once a worker has finished it."""
    assert answer.status_code == 202, answer.text
    working = worker(service)
    working.start()
    try:
        return await finished(service, answer.json()["id"])
    finally:
        await working.close()


RESULT = {
    "collection_id": "default",
    "read": 5,
    "enrolled": 3,
    "already_there": 0,
    "subjects": {"new": 2, "already_there": 0},
    "rejected": 2,
    "rejected_by_code": {"several_faces": 1, "no_subject": 1},
}


@pytest.mark.parametrize("raw", [False, True])
async def test_a_zip_is_enrolled_by_a_job(
    client: httpx.AsyncClient, service: Service, raw: bool
) -> None:
    request = (
        {"content": PEOPLE, "headers": {"content-type": "application/zip"}} if raw else sent(PEOPLE)
    )
    answer = await client.post(ENROLL, **request)
    body = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert (body["kind"], body["state"]) == ("enrolment", "queued")
    job = await worked(service, answer)
    assert job.result is not None
    told = dict(job.result)
    assert told.pop("seconds") >= 0
    assert sorted(told.pop("rejected_items"), key=lambda one: str(one["item"])) == [
        {
            "item": "bob/two.jpg",
            "subject_id": "bob",
            "code": "several_faces",
            "detail": "2 faces in the image; send one, or ask for face=largest",
        },
        {
            "item": "lonely.jpg",
            "subject_id": None,
            "code": "no_subject",
            "detail": "does not fit {subject}/**",
        },
    ]
    assert told == RESULT
    found = await client.post(
        "/v1/collections/default/search",
        content=picture(2),
        headers={"content-type": "image/png"},
    )
    assert [m["subject_id"] for m in found.json()["faces"][0]["matches"]] == ["bob"]

    again = await worked(service, await client.post(ENROLL, **request))
    assert again.result is not None
    assert (again.result["enrolled"], again.result["already_there"]) == (0, 3)
    shown = (await client.get(f"/v1/jobs/{again.id}")).json()
    assert (shown["state"], shown["progress"], shown["result"]["read"]) == ("done", 1, 5)


async def test_options_count(client: httpx.AsyncClient, service: Service) -> None:
    await client.post("/v1/collections", json={"id": "c"})
    data = zipped(**{"x/ada_1.jpg": picture(5, 6), "x/bob_1.jpg": picture(13)})
    asked = {"collection": "c", "pattern": "*/{subject}_*", "face": "largest", "min_quality": "0.5"}
    job = await worked(service, await client.post(ENROLL, **sent(data, **asked)))
    assert job.result is not None
    assert (job.result["enrolled"], job.result["collection_id"]) == (1, "c")
    assert job.result["rejected_by_code"] == {"low_quality": 1}


async def test_parquet_with_the_pictures_in_it(client: httpx.AsyncClient, service: Service) -> None:
    file = io.BytesIO()
    columns = {"subject_id": ["ada", "b d"], "name": ["Ada", None], "image": [picture(1)] * 2}
    parquet.write_table(pa.table(columns), file)
    kind = {"content-type": "application/vnd.apache.parquet"}
    job = await worked(service, await client.post(ENROLL, content=file.getvalue(), headers=kind))
    assert job.result is not None
    assert (job.result["enrolled"], job.result["rejected_by_code"]) == (1, {"invalid_id": 1})
    assert (await service.store.get_subject("default", "ada")).name == "Ada"


@pytest.fixture
async def rooted(service: Service, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service with a ``bulk_root``, which has a link out of it."""
    root = tmp_path / "root"
    (root / "people" / "ada").mkdir(parents=True)
    (root / "people" / "ada" / "1.jpg").write_bytes(picture(1))
    (root / "t.csv").write_text("path,subject_id\npeople/ada/1.jpg,ada\n../out/1.jpg,eve\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.jpg").write_bytes(picture(2))
    (root / "people" / "ada" / "2.jpg").symlink_to(tmp_path / "out" / "1.jpg")
    (root / "link").symlink_to(tmp_path / "out")
    service.settings = service.settings.model_copy(update={"bulk_root": root})
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("path", ["people", "t.csv"])
async def test_a_folder_of_the_server(
    rooted: httpx.AsyncClient, service: Service, path: str
) -> None:
    job = await worked(service, await rooted.post(ENROLL, json={"path": path}))
    assert job.result is not None
    assert (job.result["enrolled"], job.result["rejected_by_code"]) == (1, {"outside_folder": 1})


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("../out", 403, "forbidden"),
        ("../nothing", 403, "forbidden"),  # what lies elsewhere is not told
        ("link", 403, "forbidden"),
        ("people/../../out", 403, "forbidden"),
        ("/etc", 403, "forbidden"),
        ("a\0b", 403, "forbidden"),
        ("nothing", 400, "invalid_request"),
        ("people/ada/1.jpg", 400, "invalid_request"),
    ],
)
async def test_nothing_outside_the_root_is_read(
    rooted: httpx.AsyncClient, service: Service, path: str, status: int, code: str
) -> None:
    answer = await rooted.post(ENROLL, json={"path": path})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await service.store.jobs.list()).items == ()


async def test_a_root_that_was_taken_away(rooted: httpx.AsyncClient, service: Service) -> None:
    answer = await rooted.post(ENROLL, json={"path": "people"})
    service.settings = service.settings.model_copy(update={"bulk_root": None})
    job = await worked(service, answer)
    assert job.problem is not None
    assert job.problem["code"] == "forbidden"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"json": {"path": "people"}}, 403, "forbidden"),  # by default there is no root
        ({"json": {}}, 400, "invalid_request"),
        ({"json": {"path": "x", "colection": "c"}}, 400, "invalid_request"),
        (sent(PEOPLE, path="people"), 400, "invalid_request"),
        (sent(PEOPLE, pattern="x"), 400, "invalid_request"),
        (sent(PEOPLE, face="both"), 400, "invalid_request"),
        (sent(PEOPLE, collection="nobody"), 404, "collection_not_found"),
        (sent(PEOPLE, collection="foreign"), 409, "contract_mismatch"),
        (sent(b"PK and nothing"), 400, "invalid_request"),
        (sent(b"path,subject_id\n/etc/passwd,ada\n"), 400, "invalid_request"),
        ({"files": {"image": ("p.png", b"x", "image/png")}}, 400, "invalid_request"),
        ({"content": b"x", "headers": {"content-type": "video/mp4"}}, 415, None),
        (sent(b"x" * 3000), 413, "image_too_large"),
        ({"content": b"x" * 3000, "headers": {"content-type": "text/csv"}}, 413, None),
    ],
)
async def test_what_is_no_job(
    client: httpx.AsyncClient, service: Service, request_: Any, status: int, code: str | None
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_bulk_bytes": 2000})
    await service.store.create_collection("foreign", contract=named_contract("theirs", 4))
    answer = await client.post(ENROLL, **request_)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code
    assert (await service.store.jobs.list()).items == ()


class HeldFaces(FakeGraph):
    """Holds up every picture after the first ``free``."""

    def __init__(self, service: Service, free: int) -> None:
        super().__init__(service.graph._matcher, service.contract.dimension)  # type: ignore[attr-defined]
        self._free = free
        self.held = asyncio.Event()

    async def detect(self, image: bytes, **asked: Any) -> Any:
        self._free -= 1
        if self._free < 0:
            self.held.set()
            await asyncio.Event().wait()
        return await super().detect(image, **asked)


async def test_a_length_that_is_too_much_is_refused_unread(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_bulk_bytes": 2000})

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body is read")
        yield b""

    headers = {"content-type": "text/csv", "content-length": "3000"}
    answer = await client.post(ENROLL, content=unread(), headers=headers)
    assert answer.status_code == 413


async def test_a_subject_that_cannot_be_stored_is_told_without_it(
    client: httpx.AsyncClient, service: Service
) -> None:
    data = b"subject_id,url\na\0b,http://x/1.jpg\n"
    answer = await client.post(ENROLL, content=data, headers={"content-type": "text/csv"})
    job = await worked(service, answer)
    assert job.result is not None
    assert [(it["subject_id"], it["code"]) for it in job.result["rejected_items"]] == [
        (None, "invalid_id")
    ]


async def test_a_result_that_cannot_be_stored_fails_the_job_at_once(service: Service) -> None:
    async def unstorable(work: Work) -> Mapping[str, Any]:
        return {"text": "a\0b"}

    job = await service.store.jobs.create("odd", {}, parts=nothing, max_open=10)
    working = Worker(service.store, {"odd": unstorable}, TUNING)
    working.start()
    try:
        failed = await finished(service, job.id)
    finally:
        await working.close()
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert failed.problem is not None
    assert "cannot be stored" in failed.problem["detail"]


async def nothing() -> AsyncIterator[bytes]:
    for _ in range(0):
        yield b""


async def test_parquet_is_not_read_before_the_job(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: ParquetSource) -> None:
        raise AssertionError("rows are read")

    monkeypatch.setattr(ParquetSource, "_rows", read)
    kind = {"content-type": "application/vnd.apache.parquet"}
    for columns, status in [(["subject_id", "image"], 202), (["subject_id", "path"], 400)]:
        file = io.BytesIO()
        parquet.write_table(pa.table({name: ["x"] for name in columns}), file)
        answer = await client.post(ENROLL, content=file.getvalue(), headers=kind)
        assert answer.status_code == status


async def test_errors_name_no_place_of_the_server(
    rooted: httpx.AsyncClient, service: Service, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "a.txt").write_text("x")
    (root / "t.csv").write_text("x,y\n")
    for name in ("p.parquet", "z.zip"):
        (root / name).write_bytes(b"x")
    os.mkfifo(root / "fifo.csv")
    for path in ("a.txt", "t.csv", "p.parquet", "z.zip", "fifo.csv"):
        answer = await rooted.post(ENROLL, json={"path": path})
        assert answer.status_code == 400
        assert str(tmp_path) not in answer.text
        assert "object at" not in answer.text


async def test_it_goes_on_after_its_worker_was_lost(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker is never heard of again; the lease runs out, and another one goes on."""
    monkeypatch.setattr("facegraph.bulk.enrolling.WRITE_WITHIN_S", -1.0)
    answer = await client.post(ENROLL, **sent(PEOPLE))
    job_id = answer.json()["id"]
    lost = HeldFaces(service, free=2)
    taken = await service.store.jobs.take([ENROLMENT], "lost", 0.2)
    assert taken is not None
    doing = asyncio.create_task(abandoned(replace_graph(service, lost), taken))
    await lost.held.wait()
    doing.cancel()
    job = await worked(service, answer)
    assert (job.id, job.state, job.attempts) == (job_id, "done", 2)
    assert job.result is not None
    assert job.result["enrolled"] + job.result["already_there"] == 3
    assert (await service.store.get_collection("default")).sample_count == 3


def replace_graph(service: Service, graph: FakeGraph) -> Service:
    return replace(service, graph=graph)


async def abandoned(service: Service, job: Job) -> None:
    work = Work(job, io.BytesIO(b"".join([part async for part in service.store.jobs.input(job)])))
    await handlers(service, no_fetch, lambda: 1)[ENROLMENT](work)


async def test_a_deleted_job_stops(client: httpx.AsyncClient, service: Service) -> None:
    held = HeldFaces(service, free=0)
    answer = await client.post(ENROLL, **sent(PEOPLE))
    working = worker(replace_graph(service, held))
    working.start()
    try:
        await held.held.wait()
        assert (await client.delete(answer.headers["location"])).status_code == 204
        async with asyncio.timeout(30):
            while True:
                if not working.describe()["running"]:
                    break
                await asyncio.sleep(0.01)
    finally:
        await working.close()
    assert (await client.get(answer.headers["location"])).status_code == 404
    assert (await service.store.get_collection("default")).sample_count == 0


async def test_the_document_tells_of_it(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    told = document["paths"][ENROLL]["post"]
    assert set(told["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/zip",
        "application/vnd.apache.parquet",
        "text/csv",
        "application/json",
        "application/msgpack",
    }
    assert {"202", "400", "403", "404", "409", "413", "415", "503"} <= told["responses"].keys()
    assert "rejected_items" in document["components"]["schemas"]["EnrollResult"]["properties"]
