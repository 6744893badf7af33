"""modelbuilder's table: its paths, its answers, at the root and under /compat."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest

from facegraph.errors import StoreUnavailable
from facegraph.recognizers.pictures import PictureSource
from facegraph.service import Service
from tests.api.recognizer_making import NAMES, PUBLIC, files, finish, take
from tests.fake_graph import picture

PREFIXES = ["", "/compat/modelbuilder"]


async def build(client: httpx.AsyncClient, *names: str, **fields: Any) -> httpx.Response:
    return await client.post("/build_recognizer", files=files(*(names or NAMES)), data=fields)


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_it_is_alive(client: httpx.AsyncClient, prefix: str) -> None:
    answer = await client.get(f"{prefix}/is_alive")
    assert (answer.status_code, answer.json()) == (200, {"alive": 1})


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_build(client: httpx.AsyncClient, service: Service, prefix: str) -> None:
    """Accepted at once, available when it is ready; then it is v1's."""
    path = f"{prefix}/is_available"
    assert (await client.get(path)).json() == {"available": 0}
    answer = await client.post(f"{prefix}/build_recognizer", files=files(*NAMES))
    assert answer.status_code == 200
    told = answer.json()
    assert told == {"status": 0, "id": told["id"]}
    assert (await client.get(path)).json() == {"available": 0}
    assert (await client.get(path, params={"id": told["id"]})).json() == {"available": 0}
    job = await take(service)
    data = b"".join([piece async for piece in service.store.jobs.input(job)])
    items = list(PictureSource(io.BytesIO(data)).items())
    assert [item.person.id for item in items] == ["ada", "ada", "bob", "bob"]  # type: ignore[union-attr]
    assert items[0].content == picture(1)  # type: ignore[union-attr]
    await finish(service, job)
    assert (await client.get(path)).json() == {"available": 1}
    assert (await client.get(path, params={"id": told["id"]})).json() == {"available": 1}
    assert (await client.get(f"/v1/recognizers/{told['id']}/model")).status_code == 200


async def test_without_an_id_it_is_the_newest(client: httpx.AsyncClient, service: Service) -> None:
    first = (await build(client)).json()["id"]
    await finish(service, await take(service))
    second = (await build(client)).json()["id"]
    available = {
        recognizer_id: (await client.get("/is_available", params=params)).json()["available"]
        for recognizer_id, params in [
            (first, {"id": first}),
            (second, {"id": second}),
            ("newest", {}),
            ("empty", {"id": ""}),
        ]
    }
    assert available == {first: 1, second: 0, "newest": 0, "empty": 0}
    await service.store.jobs.fail(await take(service), {"code": "x"})
    assert (await client.get("/is_available")).json() == {"available": 0}  # it failed


@pytest.mark.parametrize("unknown", ["nobody", "../../etc/passwd", "a\0b", "x" * 500, "é"])
async def test_an_id_that_is_none(client: httpx.AsyncClient, unknown: str) -> None:
    answer = await client.get("/is_available", params={"id": unknown})
    assert (answer.status_code, answer.json()) == (200, {"available": 0})


@pytest.mark.parametrize(
    ("fields", "optimize"), [({}, True), ({"optimize": "0"}, False), ({"optimize": "1"}, True)]
)
async def test_the_search_can_be_turned_off(
    client: httpx.AsyncClient, service: Service, fields: dict[str, str], optimize: bool
) -> None:
    answer = await build(client, **fields, model_name="mine", optimise="")  # others are ignored
    assert answer.json()["status"] == 0
    assert (await take(service)).params["optimize"] is optimize


async def test_a_callback(client: httpx.AsyncClient, service: Service) -> None:
    told = (await build(client, callback_url=PUBLIC)).json()
    assert told["callback_secret"].startswith("whsec_")
    made = await service.store.recognizers.get(told["id"])
    assert made.notification is not None
    assert made.notification.url == PUBLIC


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "multipart"),
    ({"json": {"images": []}}, "multipart"),
    ({"data": {"optimize": "1"}}, "multipart"),
    ({"files": {"image": ("ada_1.jpg", b"x")}}, "images"),
    ({"files": {"archive": ("a.zip", b"PK")}}, "images"),
    ({"files": files("ada_1.jpg")}, "at least two people"),  # one picture
    ({"files": files("ada_1.jpg", "ada_2.jpg")}, "at least two people"),  # one class
    ({"files": files("a.jpg", "b.jpg", "c.jpg")}, "no label"),
    ({"files": files(*NAMES), "data": {"optimize": "maybe"}}, "optimize"),
    ({"files": files(*NAMES), "data": {"callback_url": "http://169.254.169.254/"}}, "not public"),
    (
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        "cannot be read",
    ),
]


async def test_broken_input(client: httpx.AsyncClient, service: Service) -> None:
    for request, said in BROKEN:
        answer = await client.post("/build_recognizer", **request)
        told = answer.json()
        assert (answer.status_code, told["status"], told["id"]) == (200, 1, ""), request
        assert said in told["message"], request
    assert (await service.store.jobs.list()).items == ()


async def test_full_and_away_keep_their_status(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the database is away")

    service.tuning = service.tuning.model_copy(update={"max_jobs": 1})
    assert (await build(client)).json()["status"] == 0
    full = await build(client)
    assert (full.status_code, full.json()["status"], full.json()["id"]) == (503, 1, "")
    assert "retry-after" in full.headers
    monkeypatch.setattr(service.store.recognizers, "create", away)
    gone = await build(client)
    expected = {"status": 1, "id": "", "message": "the database is away"}
    assert (gone.status_code, gone.json()) == (503, expected)
