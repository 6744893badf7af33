"""smartav's clients go on working: paths, sentences, status codes and policies as they were."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from starlette.applications import Starlette

from facegraph.config import Settings
from facegraph.ids import to_old_id, to_subject_id
from tests.fake_graph import picture

ROOT = "/face-recognition"


def uri(*people: int) -> str:
    """As the real clients write it: type jpg, a space after the comma."""
    return f"data:image/jpg;base64, {base64.b64encode(picture(*people)).decode()}"


def sample(subject: str, *people: int, **fields: str) -> dict[str, str]:
    row = {"id": subject, "name": subject.title(), "metadata": "m", "action": "embedlink"}
    return row | {"image": uri(*people)} | fields


async def update(client: httpx.AsyncClient, *samples: dict[str, str]) -> Any:
    response = await client.post(f"{ROOT}/update-samples", json=list(samples))
    assert response.status_code == 200
    return response.json()


async def recognise(client: httpx.AsyncClient, *people: int, **fields: Any) -> Any:
    response = await client.post(ROOT, json={"image": uri(*people), **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_enrol_and_recognise(client: httpx.AsyncClient) -> None:
    assert await update(client, sample("ann", 1), sample("bob", 2)) == {
        "success": ["ann", "bob"],
        "fail": [],
    }
    assert await recognise(client, 2, 1) == [
        {"bbox": "0, 0, 12, 12", "id": "bob", "metadata": "m", "name": "Bob"},
        {"bbox": "20, 0, 11, 11", "id": "ann", "metadata": "m", "name": "Ann"},
    ]


async def test_a_known_id_gets_another_sample(client: httpx.AsyncClient) -> None:
    await update(client, sample("ann", 1))
    await update(client, sample("ann", 2, name="Anna", metadata="new"))
    assert [row["id"] for row in await recognise(client, 1, 2)] == ["ann", "ann"]
    assert (await recognise(client, 1))[0]["metadata"] == "new"


async def test_samples_fail_one_by_one(client: httpx.AsyncClient) -> None:
    bad = [sample("none"), sample("junk", image="data:image/png;base64,aa=="), sample("path")]
    bad[2]["image"] = "/etc/passwd"
    answer = await update(
        client, bad[0], sample("two", 3, 4), bad[1], bad[2], sample("e", image="")
    )
    assert answer == {"success": ["two"], "fail": ["none", "junk", "path", "e"]}
    assert (await recognise(client, 3))[0]["id"] == "two"


@pytest.mark.parametrize(
    "body", [{}, [1], [{"id": "x"}], [{"id": "x", "name": "", "image": "", "metadata": ""}]]
)
async def test_a_bad_update_is_refused_whole(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post(f"{ROOT}/update-samples", json=body)
    assert (response.status_code, response.json()) == (400, {"error": "Invalid request."})


async def test_strangers_are_numbered_and_remembered(client: httpx.AsyncClient) -> None:
    first = await recognise(client, 5, 6)
    assert [row["id"] for row in first] == ["unknown_person_1", "unknown_person_2"]
    again = await recognise(client, 6, 5, 7)
    assert [row["id"] for row in again] == [f"unknown_person_{n}" for n in (2, 1, 3)]


async def test_ten_strangers_at_once_get_ten_numbers_and_a_crowd_of_one_gets_one(
    client: httpx.AsyncClient,
) -> None:
    rows = await asyncio.gather(*(recognise(client, person) for person in range(10, 20)))
    assert sorted(row[0]["id"] for row in rows) == sorted(
        f"unknown_person_{n}" for n in range(1, 11)
    )
    same = await asyncio.gather(*(recognise(client, 30) for _ in range(8)))
    assert {row[0]["id"] for row in same} == {"unknown_person_11"}


async def test_min_distance_is_a_similarity_to_exceed(client: httpx.AsyncClient) -> None:
    await update(client, sample("ann", 1))
    assert (await recognise(client, 2, min_distance=-1))[0]["id"] == "ann"
    assert (await recognise(client, 1, min_distance="1.0"))[0]["id"] == "unknown_person_1"


async def test_metadata_is_updated(client: httpx.AsyncClient) -> None:
    await update(client, sample("ann", 1))
    path = f"{ROOT}/update-metadata"
    done = await client.post(f"{path}/ann", json={"name": "New", "metadata": {"k": 1}})
    assert done.json() == {"success": '"ann" has been configured successfully.'}
    row = (await recognise(client, 1))[0]
    assert (row["name"], row["metadata"]) == ("New", {"k": 1})
    missing = await client.post(f"{path}/ann", json={"metadata": "x"})
    assert (missing.status_code, missing.json()) == (
        400,
        {"error": '"name" is missing in the request.'},
    )
    nobody = await client.post(f"{path}/nobody", json={"name": "", "metadata": ""})
    assert (nobody.status_code, nobody.text) == (400, 'Could not find "nobody" in database.')
    assert nobody.headers["content-type"].startswith("text/html")


async def test_clear_samples_by_get_and_post(client: httpx.AsyncClient) -> None:
    for method in ("GET", "POST"):
        await update(client, sample("ann", 1))
        response = await client.request(method, f"{ROOT}/clear-samples")
        assert response.json() == {"success": "Samples have been removed successfully"}
        assert (await client.get("/v1/collections/default")).json()["sample_count"] == 0
        assert (await recognise(client, 1))[0]["id"].startswith("unknown_person_")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "Invalid request."),
        ({"image": "x"}, 400, "Invalid request."),
        ({"image": uri(1), "min_distance": "far"}, 400, "Invalid request."),
        ({"image": uri(1), "min_distance": "nan"}, 400, "Invalid request."),
        ({"image": "data:image/png;base64,aGVsbG8="}, 400, "Invalid request."),
        ({"image": uri()}, 500, "No face detected from the input image."),
    ],
)
async def test_recognition_errors(
    client: httpx.AsyncClient, body: Any, status: int, error: str
) -> None:
    response = await client.post(ROOT, json=body)
    assert (response.status_code, response.json()) == (status, {"error": error})


@pytest.mark.parametrize("path", ["", "/update-samples", "/update-metadata/x"])
async def test_a_get_says_it_lives(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(ROOT + path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")


async def test_the_same_under_compat(client: httpx.AsyncClient) -> None:
    response = await client.post(f"/compat/smartav{ROOT}", json={"image": uri(1)})
    assert response.json()[0]["id"] == "unknown_person_1"


@pytest.mark.parametrize("missing", ["host", "db_name", "username", "password"])
async def test_config_database_names_what_is_missing(
    client: httpx.AsyncClient, missing: str
) -> None:
    body = dict.fromkeys({"host", "db_name", "username", "password"} - {missing}, "x")
    response = await client.request("GET", f"{ROOT}/config-database", json=body)
    assert (response.status_code, response.text) == (400, f'"{missing}" is missing.')


async def test_config_database_that_fails_changes_nothing(client: httpx.AsyncClient) -> None:
    await update(client, sample("ann", 1))
    body = {"host": "127.0.0.1", "port": 1, "db_name": "x", "username": "x", "password": "x"}
    response = await client.post(f"{ROOT}/config-database", json=body)
    assert response.status_code == 500
    assert response.text.startswith("Database configuration is failed.")
    assert (await recognise(client, 1))[0]["id"] == "ann"


async def test_config_database_moves_to_another_database_and_back(
    client: httpx.AsyncClient, settings: Settings, make_database: Callable[[], str]
) -> None:
    async def move(url: str) -> None:
        given = psycopg.conninfo.conninfo_to_dict(url)
        body = {"host": given["host"], "db_name": given["dbname"], "username": given["user"]}
        moved = await client.post(f"{ROOT}/config-database", json=body | {"password": "unused"})
        assert (moved.status_code, moved.text) == (200, "Database configuration is done.")

    assert settings.database_url is not None
    await update(client, sample("ann", 1))
    await move(make_database())
    assert (await recognise(client, 1))[0]["id"] == "unknown_person_1"
    await move(settings.database_url)
    assert (await recognise(client, 1))[0]["id"] == "ann"


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("203.0.113.9", {}),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1, 203.0.113.9"}),
        ("127.0.0.1", {"sec-fetch-site": "cross-site"}),
        ("127.0.0.1", {"host": "rebound.example"}),
    ],
)
async def test_config_database_is_for_this_machine_only(
    app: Starlette, peer: str, headers: dict[str, str]
) -> None:
    transport = httpx.ASGITransport(app, client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post(f"{ROOT}/config-database", json={}, headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("headers", "cleared", "reason"),
    [
        ({"sec-fetch-site": "cross-site"}, False, "a browser tells"),
        ({"sec-fetch-site": "same-site"}, False, "another port is another site's page"),
        ({"origin": "http://evil.example"}, False, "a browser over plain HTTP"),
        ({"origin": "null"}, False, "a page in a frame, or from a file"),
        ({"origin": "http://face.example:5000"}, True, "our own page"),
        ({"sec-fetch-site": "same-origin", "origin": "https://face.example"}, True, "by a proxy"),
        ({"sec-fetch-site": "none"}, True, "typed in by a user"),
        ({}, True, "no browser"),
    ],
)
async def test_another_sites_page_cannot_clear(
    client: httpx.AsyncClient, headers: dict[str, str], cleared: bool, reason: str
) -> None:
    await update(client, sample("ann", 1))
    headers = {"host": "face.example:5000"} | headers
    response = await client.get(f"{ROOT}/clear-samples", headers=headers)
    assert response.status_code == (200 if cleared else 403), reason
    assert ((await recognise(client, 1))[0]["id"] == "ann") is not cleared, reason


@pytest.mark.parametrize("old_id", [None, True, ["x"], {"a": 1}, 1.5, "\ud800", "x" * 200])
async def test_what_is_no_id_fails_and_merges_nobody(
    client: httpx.AsyncClient, old_id: Any
) -> None:
    row = {**sample("x", 1), "id": old_id}
    text = json.dumps([row, sample("ann", 2), {**sample("y", 3), "id": 7}])
    response = await client.post(f"{ROOT}/update-samples", content=text)
    assert response.json() == {"success": ["ann", 7], "fail": [old_id]}
    assert (await client.get("/v1/collections/default")).json()["subject_count"] == 2


async def test_what_a_path_says_is_not_markup(client: httpx.AsyncClient) -> None:
    body = {"name": "x", "metadata": "x"}
    response = await client.post(f"{ROOT}/update-metadata/<script>", json=body)
    assert response.text == 'Could not find "&lt;script&gt;" in database.'


async def test_a_v1_id_that_looks_like_an_old_one(client: httpx.AsyncClient) -> None:
    made = await client.post(
        "/v1/collections/default/subjects", params={"id": "b64.a"}, content=picture(1),
        headers={"content-type": "image/png"},
    )  # fmt: skip
    assert made.status_code == 201
    assert (await recognise(client, 1))[0]["id"] == "b64.a"


@pytest.mark.parametrize("text", ["abc", "a b"])
async def test_a_v1_id_never_takes_another_ones_name(client: httpx.AsyncClient, text: str) -> None:
    """``b64.`` and the form of a text that needs none, or written in another way."""
    encoded = base64.urlsafe_b64encode(text.encode()).decode()
    lookalike = f"b64.{encoded}" if text == "abc" else f"b64.{encoded[:2]}.{encoded[2:]}"
    assert to_old_id(lookalike) == lookalike
    await update(client, sample(text, 1))
    await client.post(
        "/v1/collections/default/subjects", params={"id": lookalike}, content=picture(2),
        headers={"content-type": "image/png"},
    )  # fmt: skip
    assert [row["id"] for row in await recognise(client, 1, 2)] == [text, lookalike]


@pytest.mark.parametrize(
    "old_id",
    ["ann", "a b/c", "", "ünïcode", "b64.x", "-x", "a" * 90 + " ", "t/", "a?b#c%2F"],
)
async def test_any_old_id_is_kept(client: httpx.AsyncClient, old_id: str) -> None:
    assert to_old_id(to_subject_id(old_id)) == old_id
    assert await update(client, sample(old_id, 1)) == {"success": [old_id], "fail": []}
    assert (await recognise(client, 1))[0]["id"] == old_id
    path = f"{ROOT}/update-metadata/{quote(old_id)}"
    response = await client.post(path, json={"name": "New", "metadata": "new"})
    assert response.json() == {"success": f'"{old_id}" has been configured successfully.'}
    row = (await recognise(client, 1))[0]
    assert (row["id"], row["name"], row["metadata"]) == (old_id, "New", "new")
