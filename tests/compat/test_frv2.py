"""face_recognition_v2's clients go on working: their own paths, sentences, codes and policies."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from starlette.applications import Starlette

from facegraph.config import Settings, settings_from
from tests.compat.conftest import served
from tests.compat.test_smartav import recognise, sample, update, uri
from tests.compat.test_smartav_client import CLEARED, HTML, INVALID, JSON, Call, play
from tests.compat.test_smartav_replicas import replica
from tests.fake_graph import picture

BANNER = "Face recognition v2 is running."
SMARTAV = "/compat/smartav/face-recognition"


@pytest.fixture
def settings(make_database: Callable[[], str]) -> Settings:
    """As the default, but frv2 at the root instead of smartav."""
    dialects = ("frv2", "gnosis", "face")
    return settings_from({"database_url": make_database(), "root_dialects": dialects}, {})


ANN = {"bbox": "0, 0, 11, 11", "id": "ann", "metadata": "m", "name": "Ann"}
ZOE = {"bbox": "0, 0, 11, 11", "id": "ann", "metadata": "new", "name": "Zoe"}
NO_SAMPLES = {"error": "There is no sample face data."}

DAY = [
    Call("GET", "/", None, 200, HTML, BANNER),
    Call("GET", "/face-recognition", None, 200, HTML, "Face recognition is running."),
    Call("GET", "/update-samples", None, 200, HTML, "Update samples is running."),
    Call("GET", "/clear-samples", None, 200, JSON, CLEARED),
    Call("POST", "/face-recognition", {"image": uri(1)}, 500, JSON, NO_SAMPLES),
    Call("POST", "/update-samples", [sample("ann", 1), sample("none"), sample("bob", 2)],
         200, JSON, {"success": ["ann", "bob"], "fail": ["none"]}),
    Call("POST", "/face-recognition", {"image": uri(1)}, 200, JSON, [ANN]),
    # A face nobody matches is left out, and nobody is enrolled for it.
    Call("POST", "/face-recognition", {"image": uri(9, 2, 8, 1)}, 200, JSON,
         [ANN | {"id": "bob", "name": "Bob", "bbox": "20, 0, 13, 13"},
          ANN | {"bbox": "60, 0, 11, 11"}]),
    Call("POST", "/face-recognition", {"image": uri(9)}, 200, JSON, []),
    Call("POST", "/face-recognition", {"image": uri(9)}, 200, JSON, []),
    Call("POST", "/face-recognition", {"image": uri(1), "min_distance": "1.0"}, 200, JSON, []),
    Call("POST", "/face-recognition", {"image": uri(1), "min_distance": 0.3}, 200, JSON, [ANN]),
    # The same id again: another person's face, name and metadata, and nothing of the old.
    Call("POST", "/update-samples", [sample("ann", 3, name="Zoe", metadata="new")],
         200, JSON, {"success": ["ann"], "fail": []}),
    Call("POST", "/face-recognition", {"image": uri(3)}, 200, JSON, [ZOE]),
    Call("POST", "/face-recognition", {"image": uri(1)}, 200, JSON, []),
    # A sample without a face fails and leaves who was there.
    Call("POST", "/update-samples", [sample("ann")], 200, JSON, {"success": [], "fail": ["ann"]}),
    Call("POST", "/face-recognition", {"image": uri(3)}, 200, JSON, [ZOE]),
    # Twice in one request: the later row stays.
    Call("POST", "/update-samples", [sample("ann", 4), sample("ann", 1)],
         200, JSON, {"success": ["ann", "ann"], "fail": []}),
    Call("POST", "/face-recognition", {"image": uri(1)}, 200, JSON, [ANN]),
    Call("POST", "/face-recognition", {"image": uri(4)}, 200, JSON, []),
    Call("POST", "/update-samples", {"id": "ann"}, 500, JSON, INVALID),
    Call("POST", "/update-samples", None, 500, JSON, INVALID),
    Call("POST", "/update-samples", [{"id": "ann", "name": "", "image": "", "metadata": ""}],
         500, JSON, INVALID),
    Call("POST", "/face-recognition", {"image": uri()}, 500, JSON,
         {"error": "Failed to detect face from the input image"}),
    Call("POST", "/face-recognition", {"min_distance": 0.3}, 400, JSON, INVALID),
    Call("POST", "/face-recognition", {"image": "/etc/passwd"}, 400, JSON, INVALID),
    Call("GET", "/config-database", {"host": "h", "db_name": "d", "username": "u"}, 400, HTML,
         '"password" is missing.'),
    Call("POST", "/config-database", None, 400, HTML, '"host" is missing.'),
    Call("POST", "/clear-samples", None, 200, JSON, CLEARED),
    Call("POST", "/face-recognition", {"image": uri(1)}, 500, JSON, NO_SAMPLES),
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "/compat/frv2"])
async def test_an_old_clients_day(app: Starlette, prefix: str) -> None:
    async with served(app) as client:
        await play(client, DAY, prefix)


@pytest.mark.parametrize("prefix", ["", "/compat/frv2"])
async def test_config_database_moves_by_get_and_post(
    client: httpx.AsyncClient, settings: Settings, make_database: Callable[[], str], prefix: str
) -> None:
    def call(method: str, url: str) -> Call:
        given = psycopg.conninfo.conninfo_to_dict(url)
        body = {"host": given["host"], "db_name": given["dbname"], "username": given["user"]}
        body["password"] = "unused"
        answer = "Database configuration is done."
        return Call(method, "/config-database", body, 200, HTML, answer)

    assert settings.database_url is not None
    probe = Call("POST", "/face-recognition", {"image": uri(1)}, 200, JSON, [ANN])
    enrol = Call("POST", "/update-samples", [sample("ann", 1)], 200, JSON,
                 {"success": ["ann"], "fail": []})  # fmt: skip
    away = probe._replace(status=500, answer=NO_SAMPLES)
    calls = [enrol, probe, call("GET", make_database()), away]
    await play(client, [*calls, call("POST", settings.database_url), probe], prefix)


@pytest.mark.parametrize("path", ["/clear-samples", "/config-database", "/"])
async def test_a_head_request_answers_and_changes_nothing(app: Starlette, path: str) -> None:
    async with served(app) as client:
        await client.post("/update-samples", json=[sample("ann", 1)])
        response = await client.head(path)
        assert (response.status_code, response.headers["content-type"]) == (200, HTML)
        assert (await client.post("/face-recognition", json={"image": uri(1)})).json() == [ANN]


async def test_smartavs_paths_are_not_at_the_root(client: httpx.AsyncClient) -> None:
    for path in ("/face-recognition/update-samples", "/image-captioning"):
        assert (await client.post(path, json=[])).status_code == 404
        assert (await client.post(f"/compat/smartav{path}", json=[])).status_code in (200, 400)


async def test_a_broken_gallery_or_store_is_no_empty_one(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    """Somebody enrolled under another model is a failure with its reason, not "no sample"."""
    await client.post("/update-samples", json=[sample("ann", 1)])
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(
            "UPDATE facegraph.collections"
            " SET contract_id = 'other', incarnation = gen_random_uuid()"
        )
    response = await client.post("/face-recognition", json={"image": uri(1)})
    assert response.status_code == 500
    assert "embeddings of other" in response.json()["error"]


async def test_two_policies_over_one_store(client: httpx.AsyncClient) -> None:
    """smartav appends where frv2 replaces; smartav's strangers are frv2's subjects."""

    async def smartav(*people: int) -> list[str]:
        response = await client.post(SMARTAV, json={"image": uri(*people)})
        return [row["id"] for row in response.json()]

    async def frv2(*people: int) -> list[str]:
        response = await client.post("/face-recognition", json={"image": uri(*people)})
        return [row["id"] for row in response.json()]

    await client.post(f"{SMARTAV}/update-samples", json=[sample("ann", 1)])
    await client.post(f"{SMARTAV}/update-samples", json=[sample("ann", 2)])
    assert await frv2(1, 2, 5) == ["ann", "ann"]
    assert await smartav(5) == ["unknown_person_1"]
    assert await frv2(1, 2, 5) == ["ann", "ann", "unknown_person_1"]
    await client.post("/update-samples", json=[sample("ann", 3), sample("unknown_person_1", 5)])
    assert await frv2(1, 2, 3, 5) == ["ann", "unknown_person_1"]
    assert await smartav(3, 6) == ["ann", "unknown_person_2"]


async def test_who_is_replaced_is_never_away_on_any_replica(settings: Settings) -> None:
    """One replica replaces Ann by herself, the other and itself look for her all the while."""
    async with replica(settings) as one, replica(settings) as two:
        await update_frv2(one, "ann", 1, "0")
        replacing = asyncio.create_task(replace_often(one, rounds=20))
        looks = 0
        while not replacing.done() or looks < 5:
            for client in (two, one):
                response = await client.post("/face-recognition", json={"image": uri(1)})
                assert [row["id"] for row in response.json()] == ["ann"]
            looks += 1
        await replacing
        for client in (two, one):
            response = await client.post("/face-recognition", json={"image": uri(1)})
            assert response.json() == [ANN | {"metadata": "20"}]
        found = (await two.get("/v1/collections/default")).json()
        assert (found["subject_count"], found["sample_count"]) == (1, 1)


async def replace_often(client: httpx.AsyncClient, rounds: int) -> None:
    for number in range(1, rounds + 1):
        await update_frv2(client, "ann", 1, str(number))


async def update_frv2(client: httpx.AsyncClient, subject: str, person: int, text: str) -> None:
    response = await client.post("/update-samples", json=[sample(subject, person, metadata=text)])
    assert response.json() == {"success": [subject], "fail": []}


async def test_many_replacements_at_once_leave_one_of_them(settings: Settings) -> None:
    async with replica(settings) as one, replica(settings) as two:
        await asyncio.gather(
            *(update_frv2((one, two)[n % 2], "ann", n, str(n)) for n in range(1, 11))
        )
        response = await one.post("/face-recognition", json={"image": uri(*range(1, 11))})
        (left,) = response.json()
        assert left["id"] == "ann"
        person = int(left["metadata"])  # whose face it is whose metadata it is
        response = await two.post("/face-recognition", json={"image": uri(person)})
        assert [row["metadata"] for row in response.json()] == [str(person)]


async def test_another_sites_page_cannot_clear(client: httpx.AsyncClient) -> None:
    await client.post("/update-samples", json=[sample("ann", 1)])
    headers = {"sec-fetch-site": "cross-site"}
    assert (await client.get("/clear-samples", headers=headers)).status_code == 403
    assert (await client.post("/config-database", headers=headers)).status_code == 403
    assert (await client.post("/face-recognition", json={"image": uri(1)})).json() == [ANN]


async def test_the_root_has_the_banner_only_where_frv2_is(
    make_database: Callable[[], str],
) -> None:
    elsewhere = settings_from({"database_url": make_database()}, {})
    async with replica(elsewhere) as client:
        home = await client.get("/")
        assert (home.status_code, home.headers["location"]) == (307, "docs")
        banner = await client.get("/compat/frv2/")
        assert (banner.status_code, banner.text) == (200, BANNER)
        slash = await client.get("/compat/frv2")
        assert (slash.status_code, slash.headers["location"][-13:]) == (307, "/compat/frv2/")
        assert await update(client, sample("ann", 1)) == {"success": ["ann"], "fail": []}
        assert [row["id"] for row in await recognise(client, 1)] == ["ann"]


@pytest.mark.parametrize("kind", ["jpg;base64, ", "jpeg;base64,", "png;base64,"])
async def test_data_urls_with_and_without_a_space(client: httpx.AsyncClient, kind: str) -> None:
    await client.post("/update-samples", json=[sample("ann", 1)])
    body: Any = {"image": f"data:image/{kind}{base64.b64encode(picture(1)).decode()}"}
    assert (await client.post("/face-recognition", json=body)).json() == [ANN]
