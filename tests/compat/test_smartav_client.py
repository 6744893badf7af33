"""An old smartav client's day, request by request, through real HTTP, with every answer whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from starlette.applications import Starlette

from facegraph.config import Settings
from facegraph.errors import StoreUnavailable
from facegraph.service import Service
from tests.compat.conftest import served
from tests.compat.test_smartav import sample, uri

HTML = "text/html; charset=utf-8"
JSON = "application/json"


class Call(NamedTuple):
    """A request of the old client, and the answer it relies on, to the letter."""

    method: str
    path: str
    body: Any
    status: int
    type: str
    answer: Any


async def play(client: httpx.AsyncClient, calls: list[Call], prefix: str = "") -> None:
    """Sends each call and compares code, content type and body."""
    for call in calls:
        content = None if call.body is None else json.dumps(call.body)
        response = await client.request(call.method, prefix + call.path, content=content)
        got = response.json() if response.headers["content-type"] == JSON else response.text
        assert (call, response.status_code, response.headers["content-type"], got) == (
            call,
            call.status,
            call.type,
            call.answer,
        )


ROOT = "/face-recognition"
ANN = {"bbox": "0, 0, 11, 11", "id": "ann", "metadata": "m", "name": "Ann"}
STRANGER = {
    "bbox": "0, 0, 11, 11",
    "id": "unknown_person_1",
    "metadata": "",
    "name": "unknown_person_1",
}
INVALID = {"error": "Invalid request."}
CLEARED = {"success": "Samples have been removed successfully"}
QUESTIONS = ["people", "animals", "vehicles", "food", "furniture", "something else"]

DAY = [
    Call("GET", ROOT, None, 200, HTML, "Face recognition is running."),
    Call("GET", f"{ROOT}/update-samples", None, 200, HTML, "Update samples is running."),
    Call("GET", f"{ROOT}/update-metadata/x", None, 200, HTML, "Update metadata is running."),
    Call("GET", f"{ROOT}/clear-samples", None, 200, JSON, CLEARED),
    Call("POST", ROOT, {"image": uri()}, 500, JSON,
         {"error": "No face detected from the input image."}),
    Call("POST", ROOT, {"image": uri(5)}, 200, JSON, [STRANGER]),
    Call("POST", ROOT, {"image": uri(5), "min_distance": 0.3}, 200, JSON, [STRANGER]),
    Call("POST", ROOT, {"min_distance": 0.3}, 400, JSON, INVALID),
    Call("POST", f"{ROOT}/update-samples", [sample("ann", 1), sample("none"), sample("bob", 2)],
         200, JSON, {"success": ["ann", "bob"], "fail": ["none"]}),
    Call("POST", f"{ROOT}/update-samples", {"id": "ann"}, 400, JSON, INVALID),
    Call("POST", f"{ROOT}/update-samples", None, 400, JSON, INVALID),
    Call("POST", f"{ROOT}/update-samples", [], 200, JSON, {"success": [], "fail": []}),
    Call("POST", ROOT, {"image": uri(1)}, 200, JSON, [ANN]),
    Call("POST", ROOT, {"image": uri(2, 1)}, 200, JSON,
         [ANN | {"id": "bob", "name": "Bob", "bbox": "0, 0, 12, 12"},
          ANN | {"bbox": "20, 0, 11, 11"}]),
    Call("POST", f"{ROOT}/update-metadata/ann", {"name": "Anna", "metadata": "tall"}, 200, JSON,
         {"success": '"ann" has been configured successfully.'}),
    Call("POST", ROOT, {"image": uri(1)}, 200, JSON, [ANN | {"name": "Anna", "metadata": "tall"}]),
    Call("POST", f"{ROOT}/update-metadata/ann", {"metadata": "x"}, 400, JSON,
         {"error": '"name" is missing in the request.'}),
    Call("POST", f"{ROOT}/update-metadata/ann", {"name": "x"}, 400, JSON,
         {"error": '"metadata" is missing in the request.'}),
    Call("POST", f"{ROOT}/update-metadata/eve", {"name": "x", "metadata": ""}, 400, HTML,
         'Could not find "eve" in database.'),
    Call("POST", "/image-captioning", {"image": uri(1)}, 200, JSON,
         {"caption": "a fake caption", "question": "What is in the picture?",
          "options": QUESTIONS}),
    Call("POST", "/image-captioning", {}, 400, JSON, INVALID),
    Call("GET", "/image-captioning", None, 200, HTML, "Image captioning is running."),
    Call("GET", "/instance-segmentation/init-engine", {"model": "fake-other"}, 200, HTML,
         "Loading model... Done."),
    Call("POST", "/instance-segmentation/init-engine", {"model": "fake-other"}, 200, HTML,
         "Loading model... Done."),
    Call("GET", "/instance-segmentation/init-engine", None, 400, HTML,
         'Bad request. Your request is missing "model".'),
    Call("POST", "/instance-segmentation/detect-objects", {}, 400, HTML,
         'Bad request. Your request is missing "image".'),
    Call("GET", "/instance-segmentation/detect-objects", None, 200, HTML,
         "Instance segmentation is running."),
    Call("GET", f"{ROOT}/config-database", {"host": "h", "db_name": "d", "username": "u"},
         400, HTML, '"password" is missing.'),
    Call("POST", f"{ROOT}/config-database", {}, 400, HTML, '"host" is missing.'),
    Call("POST", f"{ROOT}/clear-samples", None, 200, JSON, CLEARED),
    # Numbers go on: who was once unknown_person_1 is not somebody else now.
    Call("POST", ROOT, {"image": uri(5)}, 200, JSON,
         [STRANGER | {"id": "unknown_person_2", "name": "unknown_person_2"}]),
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "/compat/smartav"])
async def test_an_old_clients_day(app: Starlette, prefix: str) -> None:
    async with served(app) as client:
        await play(client, DAY, prefix)


async def test_the_database_is_configured_by_a_get_with_a_body(
    app: Starlette, settings: Settings
) -> None:
    assert settings.database_url is not None
    given = psycopg.conninfo.conninfo_to_dict(settings.database_url)
    body = {
        "host": given["host"],
        "port": "",
        "db_name": given["dbname"],
        "username": given["user"],
        "password": "",
    }
    async with served(app) as client:
        path = f"{ROOT}/config-database"
        done = Call("GET", path, body, 200, HTML, "Database configuration is done.")
        await play(client, [done, done._replace(method="POST")])


@pytest.mark.parametrize("key", ["id", "name", "image", "metadata", "action"])
async def test_every_key_is_required_and_may_be_empty(client: httpx.AsyncClient, key: str) -> None:
    whole = sample("ann", 1)
    lacking = {name: value for name, value in whole.items() if name != key}
    answer = {"fail": [], "success": [whole["id"]]}
    if key == "image":
        answer = {"fail": ["ann"], "success": []}
    elif key == "id":
        answer = {"fail": [], "success": [""]}
    await play(
        client,
        [
            Call("POST", f"{ROOT}/update-samples", [whole, lacking], 400, JSON, INVALID),
            Call("POST", f"{ROOT}/update-samples", [whole | {key: ""}], 200, JSON, answer),
        ],
    )


@pytest.mark.parametrize(
    "metadata", ["", "text", 7, None, ["a"], {"nested": {"a": [1, None]}}, "ünïcode ☃"]
)
async def test_metadata_comes_back_as_it_was_and_action_is_kept(
    client: httpx.AsyncClient, metadata: Any
) -> None:
    row = sample("ann", 1) | {"metadata": metadata, "action": {"any": ["thing"]}}
    await play(
        client,
        [
            Call("POST", f"{ROOT}/update-samples", [row], 200, JSON,
                 {"success": ["ann"], "fail": []}),
            Call("POST", ROOT, {"image": uri(1)}, 200, JSON, [ANN | {"metadata": metadata}]),
        ],
    )  # fmt: skip
    kept = (await client.get("/v1/collections/default/subjects/ann")).json()["metadata"]
    assert kept == {"metadata": metadata, "action": {"any": ["thing"]}}
    await client.post(f"{ROOT}/update-metadata/ann", json={"name": "", "metadata": "new"})
    kept = (await client.get("/v1/collections/default/subjects/ann")).json()["metadata"]
    assert kept == {"metadata": "new", "action": {"any": ["thing"]}}


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/clear-samples",
        f"{ROOT}/config-database",
        "/instance-segmentation/init-engine",
        f"{ROOT}/update-samples",
        f"{ROOT}/update-metadata/x",
        ROOT,
    ],
)
async def test_a_head_request_answers_and_changes_nothing(app: Starlette, path: str) -> None:
    async with served(app) as client:
        await client.post(f"{ROOT}/update-samples", json=[sample("ann", 1)])
        response = await client.head(path)
        assert (response.status_code, response.headers["content-type"]) == (200, HTML)
        assert (await client.post(ROOT, json={"image": uri(1)})).json() == [ANN]


async def test_metadata_too_large_is_not_a_missing_person(client: httpx.AsyncClient) -> None:
    await client.post(f"{ROOT}/update-samples", json=[sample("ann", 1)])
    body = {"name": "x", "metadata": "m" * 20_000}
    response = await client.post(f"{ROOT}/update-metadata/ann", json=body)
    assert response.status_code == 400
    assert "at most 16384 are kept" in response.json()["error"]
    assert (await client.post(ROOT, json={"image": uri(1)})).json() == [ANN]


async def test_a_database_that_is_away(
    app: Starlette, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the database is away")

    for name in ("clear_collection", "get_subject", "append_samples"):
        monkeypatch.setattr(type(service.store), name, away)
    monkeypatch.setattr(service.graph, "match", away)
    error = {"error": "the database is away"}
    async with served(app) as client:
        await play(client, [
            Call("GET", f"{ROOT}/clear-samples", None, 500, JSON, {"fail": error["error"]}),
            Call("POST", f"{ROOT}/update-samples", [sample("ann", 1)], 200, JSON,
                 {"success": [], "fail": ["ann"]}),
            Call("POST", f"{ROOT}/update-metadata/ann", {"name": "x", "metadata": ""}, 500, HTML,
                 "DB connection error occurred"),
            Call("POST", ROOT, {"image": uri(1)}, 500, JSON, error),
        ])  # fmt: skip


async def test_the_same_answer_whatever_the_content_type_says(client: httpx.AsyncClient) -> None:
    body = json.dumps({"image": uri(5)})
    types = ["application/json", "text/plain", "application/x-www-form-urlencoded"]
    asked = [client.post(ROOT, content=body, headers={"content-type": name}) for name in types]
    answers = await asyncio.gather(*asked)
    assert [answer.json() for answer in answers] == [[STRANGER]] * 3
