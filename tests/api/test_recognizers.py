"""Recognizers over HTTP: what is asked for, what is refused at once, what is told and predicted."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import pytest
from starlette.applications import Starlette

from facegraph.api.v1.recognizers import MAX_DOWNLOADS
from facegraph.errors import ModelUnavailable
from facegraph.importing.collections import named_contract
from facegraph.recognizers.pictures import PictureSource
from facegraph.service import Service
from facegraph.types import Candidate, FloatArray, Job, Recognized
from tests.api.recognizer_making import (
    MODEL,
    OUTCOME,
    PATH,
    PUBLIC,
    REPORT,
    ask,
    asked,
    files,
    finish,
    ready,
    take,
)
from tests.fake_graph import embedding_of, image, images, picture

pytestmark = pytest.mark.api


async def pictures_of(service: Service, job: Job) -> list[tuple[str, str, bytes]]:
    """What the job is given: label, place and bytes of each picture."""
    data = b"".join([piece async for piece in service.store.jobs.input(job)])
    return [
        (item.person.id, item.where, item.content)  # type: ignore[union-attr,misc]
        for item in PictureSource(io.BytesIO(data)).items()
    ]


async def nothing_was_made(service: Service) -> bool:
    jobs, made = await service.store.jobs.list(), await service.store.recognizers.list()
    return not jobs.items and not made.items


# Asking


async def test_pictures_named_for_who_is_on_them(
    client: httpx.AsyncClient, service: Service
) -> None:
    answer = await ask(client, "ada_1.jpg", "ada_2.jpg", "x/bob/1.jpg", "bob_20.png")
    assert answer.status_code == 202
    told = answer.json()
    assert answer.headers["location"] == f"/v1/recognizers/{told['id']}"
    assert (told["kind"], told["state"], told["progress"]) == ("recognizer", "queued", 0)
    assert (told["attempts"], told["started_at"], told["finished_at"]) == (0, None, None)
    assert "callback_secret" not in told
    job = await take(service)
    assert job.id == told["id"]
    assert await pictures_of(service, job) == [
        ("ada", "ada_1.jpg", picture(1)),
        ("ada", "ada_2.jpg", picture(2)),
        ("bob", "x/bob/1.jpg", picture(3)),
        ("bob", "bob_20.png", picture(4)),
    ]


@pytest.mark.parametrize(
    "labels",
    [
        ["ada, a", "ada, a", "bob", "bob"],  # a field each
        json.dumps(["ada, a", "ada, a", "bob", "bob"]),
    ],
)
async def test_labels_say_who_is_on_which(
    client: httpx.AsyncClient, service: Service, labels: Any
) -> None:
    answer = await ask(client, "1.jpg", "x/2.jpg", "3.jpg", "4.jpg", labels=labels)
    assert answer.status_code == 202, answer.text
    told = await pictures_of(service, await take(service))
    assert [label for label, _, _ in told] == ["ada, a", "ada, a", "bob", "bob"]
    assert [where for _, where, _ in told] == ["1.jpg", "x/2.jpg", "3.jpg", "4.jpg"]


async def test_labels_with_commas_between(client: httpx.AsyncClient, service: Service) -> None:
    answer = await ask(client, "1", "2", "3", "4", labels="ada, ada,bob , bob")
    assert answer.status_code == 202, answer.text
    told = await pictures_of(service, await take(service))
    assert [label for label, _, _ in told] == ["ada", "ada", "bob", "bob"]


@pytest.mark.parametrize("packed", [False, True])
async def test_json_and_messagepack(
    client: httpx.AsyncClient, service: Service, packed: bool
) -> None:
    body: dict[str, Any] = {"labels": ["ada", "bob"] * 2, "optimize": False, "name": "Two"}
    if packed:
        body["images"] = [picture(n) for n in range(4)]
        headers = {"content-type": "application/msgpack"}
        answer = await client.post(PATH, content=msgpack.packb(body), headers=headers)
    else:
        body["images"] = [data_uri(picture(n)) for n in range(4)]
        answer = await client.post(PATH, json=body)
    assert answer.status_code == 202, answer.text
    assert await pictures_of(service, await take(service)) == [
        (label, f"images[{n}]", picture(n)) for n, label in enumerate(["ada", "bob"] * 2)
    ]
    assert (await service.store.recognizers.get(answer.json()["id"])).name == "Two"


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


PEOPLE = zipped(**{f"{who}/{n}.jpg": picture(n) for who in ("ada", "bob") for n in (1, 2)})


@pytest.mark.parametrize("raw", [False, True])
async def test_an_archive(client: httpx.AsyncClient, service: Service, raw: bool) -> None:
    if raw:
        answer = await client.post(
            PATH,
            content=PEOPLE,
            params={"pattern": "{subject}/*"},
            headers={"content-type": "application/zip"},
        )
    else:
        sent = {"archive": ("people.zip", PEOPLE)}
        answer = await client.post(PATH, files=sent, data={"pattern": "{subject}/*"})
    assert answer.status_code == 202, answer.text
    job = await take(service)
    assert b"".join([piece async for piece in service.store.jobs.input(job)]) == PEOPLE
    assert (job.params["labelled"], job.params["pattern"]) == (False, "{subject}/*")
    told = (await client.get(f"{PATH}/{job.id}")).json()
    assert told["options"]["pattern"] == "{subject}/*"


async def enroll(client: httpx.AsyncClient, subject: str, *people: int) -> None:
    shown = images(*((person,) for person in people))
    answer = await client.post("/v1/collections/default/subjects", data={"id": subject}, **shown)
    assert answer.status_code == 201, answer.text


async def test_a_collection(client: httpx.AsyncClient, service: Service) -> None:
    await enroll(client, "ada", 1, 1)
    await enroll(client, "bob", 2, 2)
    await client.patch("/v1/collections/default", json={"threshold": 0.7})
    answer = await client.post(PATH, json={"collection": "default"})
    assert answer.status_code == 202, answer.text
    job = await take(service)
    assert (job.params["collection_id"], job.params["labelled"]) == ("default", False)
    assert job.params["threshold"] == 0.7  # the collection's
    assert job.params["max_pictures"] == service.tuning.max_training_samples
    assert [piece async for piece in service.store.jobs.input(job)] == []
    told = (await client.get(f"{PATH}/{job.id}")).json()
    assert told["collection"] == "default"
    assert "face" not in told["options"]
    await finish(service, job)
    told = (await client.get(f"{PATH}/{job.id}")).json()
    assert told["collection_version"] == 2


async def test_what_is_asked_for_is_what_the_job_is_told(
    client: httpx.AsyncClient, service: Service
) -> None:
    fields = {
        "optimize": "1",
        "generations": "3",
        "population": "5",
        "seed": "7",
        "time_budget_s": "20.5",
        "threshold": "0.5",
        "face": "largest",
        "min_quality": "0.3",
        "min_pictures": "2",
    }
    recognizer_id = await asked(client, **fields)
    job = await take(service)
    expected = {
        "optimize": True,
        "generations": 3,
        "population": 5,
        "seed": 7,
        "time_budget_s": 20.5,
        "threshold": 0.5,
        "face": "largest",
        "min_quality": 0.3,
        "min_pictures": 2,
    }
    assert {name: job.params[name] for name in expected} == expected
    assert job.params["contract_id"] == service.contract.id
    assert (job.params["max_pictures"], job.params["max_classes"]) == (2000, 1000)
    told = (await client.get(f"{PATH}/{recognizer_id}")).json()
    assert told["options"] == expected


async def test_without_a_search_its_options_are_not_told(
    client: httpx.AsyncClient, service: Service
) -> None:
    told = (await client.get(f"{PATH}/{await asked(client, optimize='0')}")).json()
    assert told["options"] == {
        "optimize": False,
        "seed": 0,
        "threshold": service.pack.threshold,
        "min_pictures": 2,
        "face": "only",
        "min_quality": None,
    }


async def test_a_short_longest_search_is_the_default_budget(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_search_s": 20.0})
    await asked(client)
    assert (await take(service)).params["time_budget_s"] == 20.0
    too_long = await ask(client, time_budget_s="21")
    assert (too_long.status_code, too_long.json()["code"]) == (400, "invalid_request")


SECRET = "whsec_" + "QUJD" * 8


async def test_a_callback_has_a_secret(client: httpx.AsyncClient, service: Service) -> None:
    made = (await ask(client, callback_url=f"{PUBLIC}?token=theirs")).json()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{32,}", made["callback_secret"])
    own = (await ask(client, callback_url=PUBLIC, callback_secret=SECRET)).json()
    assert own["callback_secret"] == SECRET
    told = await client.get(f"{PATH}/{made['id']}")
    assert told.json()["notification"] == {
        "origin": "http://93.184.216.34",
        "state": "waiting",
        "attempts": 0,
        "problem": None,
    }
    listed = await client.get(PATH)
    for secret in ("whsec_", "token", "/done"):
        assert secret not in told.text + listed.text


TWO_OF_EACH = {"labels": ["ada", "ada", "bob", "bob"]}


NO_TRAINING_SETS: list[tuple[int, dict[str, Any], int, str]] = [
    (4, {"labels": ["ada"] * 4}, 422, "invalid_training_set"),  # one class
    (1, {"labels": "ada"}, 422, "invalid_training_set"),  # one picture
    (2, {"labels": "ada,bob"}, 422, "invalid_training_set"),  # too few of each
    (3, {"labels": "ada,ada,bob"}, 422, "invalid_training_set"),
    (4, {"labels": "ada,ada,bob"}, 422, "invalid_training_set"),  # a label too few
    (4, {"labels": ""}, 422, "invalid_training_set"),
    (4, {"labels": ["ada", "ada", "bob", ""]}, 422, "invalid_training_set"),
    (4, {"labels": ["ada", "ada", "bob", " bob"]}, 422, "invalid_training_set"),
    (4, {"labels": ["ada", "ada", "bob", "b\nob"]}, 422, "invalid_training_set"),
    (4, {"labels": ["ada", "ada", "bob", "x" * 129]}, 422, "invalid_training_set"),
    (4, {"labels": ["ada", "ada", "Unknown", "Unknown"]}, 422, "invalid_training_set"),
    (4, {}, 422, "invalid_training_set"),  # names that tell nobody
    (4, {"labels": '["ada", 1, 2, 3]'}, 400, "invalid_request"),
    (4, {"labels": '["ada'}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"callback_url": "http://169.254.169.254/"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"callback_url": "http://[::1]/"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"callback_url": "ftp://93.184.216.34/"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"callback_secret": SECRET}, 400, "invalid_request"),
    (
        4,
        TWO_OF_EACH | {"callback_url": PUBLIC, "callback_secret": "x"},
        400,
        "invalid_request",
    ),
    (4, TWO_OF_EACH | {"optimize": "0", "generations": "3"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"optimize": "0", "population": "5"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"optimize": "0", "time_budget_s": "5"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"optimize": "2"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"generations": "0"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"generations": "101"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"population": "3"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"population": "201"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"seed": "-1"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"time_budget_s": "0"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"time_budget_s": "1e9"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"time_budget_s": "inf"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"threshold": "nan"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"pattern": "{subject}/*"}, 400, "invalid_request"),
    (4, TWO_OF_EACH | {"collection": "default"}, 400, "invalid_request"),  # two sources
    (4, TWO_OF_EACH | {"generation": "3"}, 400, "invalid_request"),  # misspelt
    (0, {}, 400, "invalid_request"),  # nothing
]


async def test_what_is_no_training_set(client: httpx.AsyncClient, service: Service) -> None:
    for names, fields, status, code in NO_TRAINING_SETS:
        sent = files(*(f"{n}.jpg" for n in range(names)))
        body = {"files": sent, "data": fields} if names else {"json": fields}
        answer = await client.post(PATH, **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), fields
        assert await nothing_was_made(service), fields


async def test_the_counts_are_told(client: httpx.AsyncClient) -> None:
    few = (await ask(client, "ada_1.jpg", "ada_2.jpg", "bob_1.jpg")).json()
    assert few["errors"] == [{"label": "ada", "pictures": 2}, {"label": "bob", "pictures": 1}]
    short = (await ask(client, "ada_1.jpg", "bob_1.jpg", labels="ada")).json()
    assert short["errors"] == [{"labels": 1, "pictures": 2}]
    nameless = (await ask(client, "ada_1.jpg", "x.jpg", "bob_1.jpg")).json()
    assert [error["index"] for error in nameless["errors"]] == [1]


CSV = b"subject_id,url\nada,http://x/1.jpg\n"


NO_SOURCES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"json": {"collection": "nobody"}}, 404, "collection_not_found"),
    ({"json": {"collection": "foreign"}}, 409, "contract_mismatch"),
    ({"json": {"collection": "default"}}, 422, "invalid_training_set"),  # one subject
    ({"json": {"collection": "../x"}}, 400, "invalid_request"),
    ({"json": {"collection": "default", "labels": ["a"]}}, 400, "invalid_request"),
    ({"json": {"collection": "default", "face": "largest"}}, 400, "invalid_request"),
    ({"json": {"collection": "default", "min_quality": 0.1}}, 400, "invalid_request"),
    ({"json": {"image": "data:image/png;base64,QQ=="}}, 400, "invalid_request"),
    ({"json": {"images": ["/etc/passwd"]}}, 400, "invalid_request"),
    ({"json": {"images": [{"url": "http://x/1.jpg"}]}}, 400, "invalid_request"),  # off
    ({"files": {"archive": ("a.zip", b"PK and nothing")}}, 400, "invalid_request"),
    ({"files": {"archive": ("a.csv", b"path,subject_id\n/x,a\n")}}, 400, "invalid_request"),
    ({"files": {"archive": CSV}, "data": {"labels": "a"}}, 400, "invalid_request"),
    ({"files": {"archive": CSV}, "data": {"collection": "c"}}, 400, "invalid_request"),
    ({"files": {"archive": CSV}, "data": {"pattern": "x"}}, 400, "invalid_request"),
    ({"files": [("archive", CSV), ("archive", CSV)]}, 400, "invalid_request"),
    ({"files": [("archive", CSV), *files("ada_1.jpg")]}, 400, "invalid_request"),
    ({"files": [("pictures", ("a", b""))]}, 400, "invalid_request"),
    ({"files": files("ada_1.jpg"), "data": {"images": "x"}}, 400, "invalid_request"),
    ({"content": b"x", "headers": {"content-type": "video/mp4"}}, 415, None),
    ({"content": b"x", "headers": {"content-type": "image/png"}}, 400, "invalid_request"),
    ({"content": b"x" * 5000, "headers": {"content-type": "text/csv"}}, 413, None),
    ({"files": [("images", ("ada_1.jpg", b"x" * 5000))]}, 413, "image_too_large"),
    ({"files": [("images", ("ada_1.jpg", b"x" * 1500))]}, 413, "image_too_large"),
    ({"files": files(*["ada_1.jpg"] * 7)}, 400, "invalid_request"),
    ({"json": {"images": ["data:image/png;base64,QQ=="] * 7}}, 400, "invalid_request"),
]


async def test_what_is_no_source(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(
        update={"max_bulk_bytes": 3000, "max_image_bytes": 1024, "max_training_pictures": 6}
    )
    await enroll(client, "ada", 1, 1)
    await service.store.create_collection("foreign", contract=named_contract("theirs", 4))
    for request, status, code in NO_SOURCES:
        answer = await client.post(PATH, **request)
        assert answer.status_code == status, (request, answer.text)
        assert code is None or answer.json()["code"] == code, (request, answer.text)
        assert await nothing_was_made(service), request


@pytest.mark.parametrize(
    "limit", [{"max_training_classes": 2}, {"max_training_samples": 5}, {"max_recognizers": 1}]
)
async def test_a_collection_has_limits(
    client: httpx.AsyncClient, service: Service, limit: dict[str, int]
) -> None:
    for person in (1, 2, 3):
        await enroll(client, f"p{person}", person, person)
    service.tuning = service.tuning.model_copy(update=limit)
    if "max_recognizers" in limit:
        assert (await client.post(PATH, json={"collection": "default"})).status_code == 202
    answer = await client.post(PATH, json={"collection": "default"})
    expected = (
        (409, "too_many_recognizers")
        if "max_recognizers" in limit
        else (422, "invalid_training_set")
    )
    assert (answer.status_code, answer.json()["code"]) == expected


async def test_people_are_bounded(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(update={"max_training_classes": 2})
    answer = await ask(client, *(f"{who}_{n}.jpg" for who in "abc" for n in (1, 2)))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_training_set")


async def test_jobs_are_bounded(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(update={"max_jobs": 1})
    await asked(client)
    full = await ask(client)
    assert (full.status_code, full.json()["code"]) == (503, "overloaded")


async def test_private_callbacks_where_the_operator_allows_them(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.settings = service.settings.model_copy(update={"private_callbacks": True})
    assert (await ask(client, callback_url="http://127.0.0.1:9/")).status_code == 202


async def test_very_many_pictures_are_one_open_file(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is larger than what is kept in memory, and comes out as it went in."""
    rolled: list[Any] = []
    rollover = tempfile.SpooledTemporaryFile.rollover

    def counted(self: tempfile.SpooledTemporaryFile[bytes]) -> None:
        rolled.append(self)
        rollover(self)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", counted)
    data = [bytes([n]) * 300_000 for n in range(40)]
    sent = [("images", (f"{'ab'[n % 2]}_{n}.jpg", data[n])) for n in range(40)]
    answer = await client.post(PATH, files=sent)
    assert answer.status_code == 202, answer.text
    told = await pictures_of(service, await take(service))
    assert [content for _, _, content in told] == data
    assert len(rolled) == 2  # what came, and the job's input


async def test_fields_of_a_form_are_bounded_together(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_training_pictures": 2})
    fields = {f"field{n}": "x" * 200_000 for n in range(8)}
    answer = await client.post(PATH, files=files("ada_1.jpg"), data=fields)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "too long" in answer.json()["detail"]


async def test_what_is_fetched_is_bounded_together(
    client: httpx.AsyncClient, service: Service, app: Starlette
) -> None:
    async def fetch(url: str, most: int) -> bytes:
        return bytes(800)

    app.state.facegraph.fetch = fetch
    service.tuning = service.tuning.model_copy(update={"max_request_bytes": 2000})
    sent = {"images": [{"url": f"http://x/{n}"} for n in range(3)], "labels": ["a"] * 3}
    answer = await client.post(PATH, json=sent)
    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")


# What is told


async def test_from_queued_to_ready(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await asked(client, name="Us")
    queued = (await client.get(f"{PATH}/{recognizer_id}")).json()
    nothing_yet = ("search", "shape", "metrics", "left_out", "rejected", "model", "problem")
    assert [queued[name] for name in nothing_yet] == [None] * 7
    assert (queued["id"], queued["name"], queued["state"]) == (recognizer_id, "Us", "queued")
    assert (queued["contract_id"], queued["collection"]) == (service.contract.id, None)
    assert (queued["labels"], queued["label_count"], queued["notification"]) == ([], 0, None)
    assert queued["collection_version"] is None
    job = await take(service)
    await service.store.jobs.renew(job, 0.25, "generation 1", 60)
    await service.store.recognizers.publish(job, {"generations": [{"best": 0.5}]})
    building = (await client.get(f"{PATH}/{recognizer_id}")).json()
    assert (building["state"], building["progress"]) == ("building", 0.25)
    assert (building["message"], building["finished_at"]) == ("generation 1", None)
    assert building["search"] == {"generations": [{"best": 0.5}]}
    await finish(service, job)
    told = (await client.get(f"{PATH}/{recognizer_id}")).json()
    assert (told["state"], told["progress"]) == ("ready", 1)
    assert (told["labels"], told["label_count"]) == (["ada", "bob"], 2)
    assert told["model"] == {"bytes": len(MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()}
    passed = tuple(OUTCOME)
    assert {name: told[name] for name in passed} == {name: OUTCOME[name] for name in passed}
    assert told["created_at"] <= told["finished_at"]


async def test_one_that_failed_says_why(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await asked(client)
    problem = {"code": "invalid_training_set", "status": 422, "errors": []}
    await service.store.jobs.fail(await take(service), problem)
    told = (await client.get(f"{PATH}/{recognizer_id}")).json()
    assert (told["state"], told["problem"], told["model"]) == ("failed", problem, None)


async def test_lists(client: httpx.AsyncClient, service: Service) -> None:
    first = await ready(client, service, "ada", "bob")
    second = await ready(client, service, "bob", "cy", "di")
    third = await asked(client)
    page = (await client.get(PATH, params={"limit": 2})).json()
    rest = (await client.get(PATH, params={"cursor": page["next_cursor"]})).json()
    told = [*page["recognizers"], *rest["recognizers"]]
    assert [one["id"] for one in told] == [first, second, third]
    assert [one["state"] for one in told] == ["ready", "ready", "queued"]
    assert [one["label_count"] for one in told] == [2, 3, 0]
    assert not {"labels", "metrics"} & set(told[0])
    knowing = (await client.get(PATH, params={"label": "bob"})).json()
    assert [one["id"] for one in knowing["recognizers"]] == [first, second]
    assert (await client.get(PATH, params={"label": "nobody"})).json()["recognizers"] == []
    assert (await client.get(PATH, params={"cursor": "x"})).status_code == 400


async def test_the_model_is_downloaded(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await ready(client, service)
    answer = await client.get(f"{PATH}/{recognizer_id}/model")
    assert (answer.status_code, answer.content) == (200, MODEL)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(MODEL))
    assert answer.headers["content-disposition"] == f'attachment; filename="{recognizer_id}.onnx"'
    assert answer.headers["etag"] == f'"{hashlib.sha256(MODEL).hexdigest()}"'


async def test_the_report_is_a_picture(client: httpx.AsyncClient, service: Service) -> None:
    answer = await client.get(f"{PATH}/{await ready(client, service)}/report")
    assert (answer.content, answer.headers["content-type"]) == (REPORT, "image/png")


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(
    ("method", "what"), [("GET", "model"), ("GET", "report"), ("POST", "predict")]
)
async def test_what_is_not_ready(
    client: httpx.AsyncClient, service: Service, method: str, what: str, failed: bool
) -> None:
    recognizer_id = await asked(client)
    if failed:
        await service.store.jobs.fail(await take(service), {"code": "x"})
    sent = image(1) if method == "POST" else {}
    answer = await client.request(method, f"{PATH}/{recognizer_id}/{what}", **sent)
    assert (answer.status_code, answer.json()["code"]) == (409, "recognizer_not_ready")
    assert ("failed" if failed else "queued") in answer.json()["detail"]


ALL = [
    ("GET", ""),
    ("GET", "/model"),
    ("GET", "/report"),
    ("GET", "/events"),
    ("POST", "/predict"),
    ("DELETE", ""),
]


PATHS = [
    ("nobody", 404),
    ("..%2F..%2Fetc%2Fpasswd", 404),
    ("%2e%2e", 400),
    ("a%00b", 400),
    ("a%5Cb", 400),
    ("x" * 129, 400),
]


async def test_an_id_is_no_path(client: httpx.AsyncClient) -> None:
    for recognizer_id, status in PATHS:
        for method, what in ALL:
            sent = image(1) if method == "POST" else {}
            url = f"http://test{PATH}/{recognizer_id}{what}"
            answer = await client.request(method, url, **sent)
            assert answer.status_code == status, url
            assert "root:" not in answer.text
            if recognizer_id == "nobody":
                assert answer.json()["code"] == "recognizer_not_found"


async def test_deleted_is_deleted(
    client: httpx.AsyncClient, service: Service, app: Starlette
) -> None:
    recognizer_id = await ready(client, service)
    assert (await client.delete(f"{PATH}/{recognizer_id}")).status_code == 204
    assert service.graph.forgotten == [recognizer_id]  # type: ignore[attr-defined]
    for method, what in ALL:
        sent = image(1) if method == "POST" else {}
        gone = await client.request(method, f"{PATH}/{recognizer_id}{what}", **sent)
        assert (gone.status_code, gone.json()["code"]) == (404, "recognizer_not_found")
    assert service.graph.recognized == []  # type: ignore[attr-defined]


async def test_deleted_while_it_is_built(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await asked(client)
    job = await take(service)
    assert (await client.delete(f"{PATH}/{recognizer_id}")).status_code == 204
    assert not await service.store.jobs.renew(job, 0.5, "", 60)  # who builds it stops
    assert (await client.get(f"/v1/jobs/{recognizer_id}")).status_code == 404


async def test_deleted_where_no_replica_answers(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: str) -> None:
        raise ModelUnavailable("away")

    recognizer_id = await ready(client, service)
    monkeypatch.setattr(service.graph, "forget_recognizer", away)
    assert (await client.delete(f"{PATH}/{recognizer_id}")).status_code == 204
    assert (await client.get(f"{PATH}/{recognizer_id}")).status_code == 404


# Who it is


async def predict(
    client: httpx.AsyncClient, recognizer_id: str, *people: int, **params: Any
) -> dict[str, Any]:
    answer = await client.post(f"{PATH}/{recognizer_id}/predict", params=params, **image(*people))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_every_face_is_recognized_largest_first(
    client: httpx.AsyncClient, service: Service
) -> None:
    recognizer_id = await ready(client, service)
    told = await predict(client, recognizer_id, 3, 42, 5)
    known = [(face["decision"], face["label"]) for face in told["faces"]]
    assert known == [("match", "person-3"), ("unknown", "unknown"), ("match", "person-5")]
    first = told["faces"][0]
    assert first["bbox"]["width"] > told["faces"][1]["bbox"]["width"]
    assert (first["probability"], first["similarity"]) == (0.9, pytest.approx(1, abs=1e-6))
    assert first["candidates"] == [
        {"label": "person-3", "probability": 0.9, "similarity": first["similarity"]}
    ]
    assert (told["threshold"], told["recognizer"]) == (service.pack.threshold, recognizer_id)
    assert (told["image"], told["model"]) == ({"width": 200, "height": 100}, service.pack.name)


async def test_decisions_are_counted(client: httpx.AsyncClient, service: Service) -> None:
    await predict(client, await ready(client, service), 3, 42)
    metrics = (await client.get("/metrics")).text
    assert 'facegraph_decisions_total{decision="match"} 1.0' in metrics
    assert 'facegraph_decisions_total{decision="unknown"} 1.0' in metrics
    assert 'facegraph_stage_duration_seconds_count{stage="recognize"} 1.0' in metrics


async def test_a_picture_without_a_face(client: httpx.AsyncClient, service: Service) -> None:
    told = await predict(client, await ready(client, service))
    assert told["faces"] == []
    assert service.graph.recognized == []  # type: ignore[attr-defined]


async def test_max_faces(client: httpx.AsyncClient, service: Service) -> None:
    told = await predict(client, await ready(client, service), 3, 5, max_faces=1)
    assert [face["label"] for face in told["faces"]] == ["person-3"]


@pytest.mark.parametrize(("asked_for", "label"), [(0.7, "person-4"), (0.9, "unknown")])
async def test_the_threshold_asked_for_decides(
    client: httpx.AsyncClient, service: Service, asked_for: float, label: str
) -> None:
    """The probe is at a cosine of about 0.8."""
    recognizer_id = await ready(client, service)
    d = service.contract.dimension
    row = 0.8 * embedding_of(4, d) + 0.6 * embedding_of(40, d)
    body = {"embedding": row.tolist(), "contract": service.contract.id, "threshold": asked_for}
    told = (await client.post(f"{PATH}/{recognizer_id}/predict", json=body)).json()
    assert (told["threshold"], told["faces"][0]["label"]) == (asked_for, label)


async def test_an_embedding(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await ready(client, service)
    row: list[float] = (3 * embedding_of(4, service.contract.dimension)).tolist()
    body = {"embedding": row, "contract": service.contract.id}
    told = (await client.post(f"{PATH}/{recognizer_id}/predict", json=body)).json()
    assert [(face["decision"], face["label"]) for face in told["faces"]] == [("match", "person-4")]
    assert "bbox" not in told["faces"][0]
    assert "image" not in told


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"json": {"embedding": [1.0]}}, 400, "invalid_request"),
        ({"json": {"embedding": [1.0], "contract": "theirs"}}, 409, "contract_mismatch"),
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 422, "invalid_image"),
        ({**image(1), "params": {"thresold": 1}}, 400, "invalid_request"),
        ({**image(1), "params": {"threshold": 2}}, 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_recognized(
    client: httpx.AsyncClient, service: Service, request_: Any, status: int, code: str
) -> None:
    recognizer_id = await ready(client, service)
    answer = await client.post(f"{PATH}/{recognizer_id}/predict", **request_)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_another_packs_recognizer(client: httpx.AsyncClient, service: Service) -> None:
    recognizer_id = await ready(client, service)
    other = named_contract("another", service.contract.dimension)
    service.pack = replace(service.pack, contract=other)
    answer = await client.post(f"{PATH}/{recognizer_id}/predict", **image(1))
    assert (answer.status_code, answer.json()["code"]) == (409, "contract_mismatch")
    assert (await client.get(f"{PATH}/{recognizer_id}")).status_code == 200


NEAR = Candidate("ada", 0.7, 0.8)
NEXT = Candidate("bob", 0.2, 0.6)
FAR = Candidate("bob", 0.2, 0.1)
BOTH = Recognized("match", 0.8, (NEAR, NEXT))
NOBODY = ("unknown", "unknown")


@pytest.mark.parametrize(
    ("gone", "found", "expected"),
    [
        ((), BOTH, ("match", "ada", 0.7, 0.8, ["ada", "bob"])),
        (("bob",), BOTH, ("match", "ada", 0.7, 0.8, ["ada"])),
        (("ada",), BOTH, (*NOBODY, 0.2, 0.6, ["bob"])),  # nobody, and not the next one
        (("ada", "bob"), BOTH, (*NOBODY, 0, 0, [])),
        # Who is near to one who is gone is near to nobody.
        (("ada",), Recognized("ambiguous", 0.8, (FAR, NEAR)), (*NOBODY, 0.2, 0.1, ["bob"])),
    ],
)
async def test_who_was_erased_is_told_no_more(
    client: httpx.AsyncClient,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    gone: tuple[str, ...],
    found: Recognized,
    expected: Any,
) -> None:
    async def recognize(_id: str, probes: FloatArray, *_: float) -> Sequence[Recognized]:
        return [found] * len(probes)

    await enroll(client, "ada", 1, 1)
    await enroll(client, "bob", 2, 2)
    made = await client.post(PATH, json={"collection": "default"})
    await finish(service, await take(service))
    monkeypatch.setattr(service.graph, "recognize", recognize)
    for subject in gone:
        await client.delete(f"/v1/collections/default/subjects/{subject}")
    (face,) = (await predict(client, made.json()["id"], 1))["faces"]
    names = [candidate["label"] for candidate in face["candidates"]]
    told = (face["decision"], face["label"], face["probability"], face["similarity"], names)
    assert told == expected


async def test_who_has_the_id_by_now_is_somebody_else(
    client: httpx.AsyncClient, service: Service
) -> None:
    for person in (3, 4):
        await enroll(client, f"person-{person}", person, person)
    made = (await client.post(PATH, json={"collection": "default"})).json()
    await finish(service, await take(service), "person-3", "person-4")
    await client.delete("/v1/collections/default/subjects/person-3")
    await enroll(client, "person-3", 7)
    told = [face["label"] for face in (await predict(client, made["id"], 3, 4))["faces"]]
    assert told == ["unknown", "person-4"]


async def test_a_deleted_collection_has_nobody(client: httpx.AsyncClient, service: Service) -> None:
    await client.post("/v1/collections", json={"id": "c"})
    for person in (3, 4):
        shown = images((person,), (person,))
        data = {"id": f"person-{person}"}
        await client.post("/v1/collections/c/subjects", data=data, **shown)
    made = (await client.post(PATH, json={"collection": "c"})).json()
    await finish(service, await take(service), "person-3", "person-4")
    (face,) = (await predict(client, made["id"], 3))["faces"]
    assert (face["decision"], face["label"]) == ("match", "person-3")
    await client.delete("/v1/collections/c", params={"force": True})
    (face,) = (await predict(client, made["id"], 3))["faces"]
    assert (face["decision"], face["label"], face["candidates"]) == ("unknown", "unknown", [])


async def test_downloads_are_bounded_by_themselves(
    client: httpx.AsyncClient, service: Service, app: Starlette
) -> None:
    recognizer_id = await ready(client, service)
    with ExitStack() as others:
        for _ in range(MAX_DOWNLOADS):
            others.enter_context(app.state.facegraph.downloads.admit(MAX_DOWNLOADS))
        full = await client.get(f"{PATH}/{recognizer_id}/model")
        assert (full.status_code, full.json()["code"]) == (503, "overloaded")
    assert (await client.get(f"{PATH}/{recognizer_id}/model")).status_code == 200
    with app.state.facegraph.downloads.admit(1):  # the one before has given its place back
        pass
