"""The old feature node: which vector belongs to which id is never in doubt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from facegraph.config import IngressTuning, settings_from
from facegraph.errors import ModelUnavailable
from facegraph.service import Service
from facegraph.types import Detection
from tests.compat.conftest import served
from tests.compat.test_smartav_replicas import replica
from tests.fake_graph import FakeGraph, embedding_of, photo, picture

PATH = "/extract_feature"


async def extract(
    client: httpx.AsyncClient, ids: list[Any], *images: bytes, path: str = PATH
) -> httpx.Response:
    """As the old client: the ids in one field, the files one after the other."""
    files = [("image", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(images)]
    data = {"face_data": json.dumps([{"id": given} for given in ids])}
    return await client.post(path, data=data, files=files)


def vector(person: int) -> list[float]:
    numbers: list[float] = embedding_of(person, 128).tolist()
    return numbers


@pytest.mark.parametrize("prefix", ["", "/compat/smartav", "/compat/frv2"])
async def test_each_id_gets_its_own_pictures_vector(app: Starlette, prefix: str) -> None:
    images = [picture(3), picture(), b"no picture", picture(5, 6), photo(4), b""]
    async with served(app) as client:
        response = await extract(client, ["c", 2, "x", "a b", "", "e"], *images, path=prefix + PATH)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == [
        {"id": "c", "vector": vector(3)},
        {"id": 2, "vector": []},  # no face
        {"id": "x", "vector": []},  # no picture
        {"id": "a b", "vector": vector(5)},  # the largest face
        {"id": "", "vector": vector(4)},
        {"id": "e", "vector": []},
    ]
    assert len(response.json()[0]["vector"]) == 128  # as the pack has it
    assert np.linalg.norm(response.json()[0]["vector"]) == pytest.approx(1, abs=1e-6)


async def test_frv2_at_the_root_has_it_too(make_database: Callable[[], str]) -> None:
    given = {"database_url": make_database(), "root_dialects": ("frv2",)}
    async with replica(settings_from(given, {})) as client:
        assert (await extract(client, ["a"], picture(1))).json() == [
            {"id": "a", "vector": vector(1)}
        ]


async def test_the_same_id_twice_is_answered_twice(client: httpx.AsyncClient) -> None:
    rows = (await extract(client, ["a", "a"], picture(1), picture(2))).json()
    assert rows == [{"id": "a", "vector": vector(1)}, {"id": "a", "vector": vector(2)}]


async def test_nothing_is_answered_with_nothing(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, data={"face_data": "[]"})
    assert (response.status_code, response.json()) == (200, [])


FILE = ("image", ("a.jpg", picture(1), "image/jpeg"))
ONE_ID = '[{"id": "a"}]'
ONE_FIELD = 'expected one form field "face_data"'
NO_JSON = '"face_data" is not JSON'
A_LIST = '"face_data" must be a JSON list of {"id": …}'


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"files": [FILE]}, ONE_FIELD),
        ({"data": {"face_data": [ONE_ID, ONE_ID]}, "files": [FILE]}, ONE_FIELD),
        ({"files": [FILE, ("face_data", ("f.json", ONE_ID.encode()))]}, ONE_FIELD),  # a file
        ({"json": [{"id": "a"}]}, ONE_FIELD),  # no form
        ({}, ONE_FIELD),
        ({"data": {"face_data": "a"}, "files": [FILE]}, NO_JSON),
        ({"data": {"face_data": ""}, "files": [FILE]}, NO_JSON),
        ({"data": {"face_data": '{"id": "a"}'}, "files": [FILE]}, A_LIST),
        ({"data": {"face_data": '["a"]'}, "files": [FILE]}, A_LIST),
        ({"data": {"face_data": '[{"name": "a"}]'}, "files": [FILE]}, A_LIST),
        ({"data": {"face_data": '[{"id": null}]'}, "files": [FILE]}, "an id is a string"),
        ({"data": {"face_data": '[{"id": NaN}]'}, "files": [FILE]}, "an id is a string"),
        ({"data": {"face_data": ONE_ID}, "files": [FILE] * 2}, "names 1 images, got 2"),
        ({"data": {"face_data": ONE_ID}}, "names 1 images, got 0"),
        ({"data": {"face_data": "[]"}, "files": [FILE]}, "names 0 images, got 1"),
        ({"data": {"face_data": ONE_ID, "image": "x"}}, 'every "image" must be a file'),
        ({"data": {"face_data": ONE_ID}, "files": [FILE] * 21}, "more than 20 images"),
        ({"data": {"face_data": ONE_ID}, "files": [FILE] * 30}, "the form cannot be read"),
    ],
)
async def test_what_leaves_a_doubt_is_refused_whole(
    client: httpx.AsyncClient, sent: dict[str, Any], said: str
) -> None:
    response = await client.post(PATH, **sent)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert said in response.json()["error"]


async def test_an_image_too_large_fails_alone_and_a_body_fails_whole(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = IngressTuning(max_image_bytes=1024, max_request_bytes=8192)
    response = await extract(client, ["a", "b"], picture(1) + b" " * 1024, picture(2))
    assert response.json() == [{"id": "a", "vector": []}, {"id": "b", "vector": vector(2)}]
    response = await extract(client, ["a"], b" " * 8192)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "a request may have 8192 bytes"},
    )


class Counting(FakeGraph):
    """A fake whose detections wait for each other; ``most`` is how many were under way."""

    def __init__(self, given: FakeGraph) -> None:
        self.__dict__.update(given.__dict__)
        self.under_way = self.most = 0

    async def detect(self, image: bytes, **options: Any) -> Detection:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(10):
            await asyncio.sleep(0)
        self.under_way -= 1
        return await super().detect(image, **options)


@pytest.fixture
def counting(service: Service) -> Counting:
    assert isinstance(service.graph, FakeGraph)
    service.graph = graph = Counting(service.graph)
    return graph


async def test_images_are_embedded_side_by_side_within_bounds(
    client: httpx.AsyncClient, counting: Counting
) -> None:
    people = list(range(1, 21))
    rows = (await extract(client, people, *(picture(person) for person in people))).json()
    assert rows == [{"id": person, "vector": vector(person)} for person in people]
    assert counting.most == 8


async def test_a_model_that_is_away_is_no_picture_without_a_face(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Detection:
        raise ModelUnavailable("no model")

    monkeypatch.setattr(service.graph, "detect", away)
    response = await extract(client, ["a", "b"], picture(1), picture())
    assert (response.status_code, response.json()) == (500, {"error": "no model"})


async def test_the_width_is_the_packs(client: httpx.AsyncClient, service: Service) -> None:
    service.pack = replace(service.pack, contract=replace(service.contract, dimension=512))
    assert isinstance(service.graph, FakeGraph)
    service.graph._dimension = 512
    (row,) = (await extract(client, ["a"], picture(1))).json()
    assert row["vector"] == embedding_of(1, 512).tolist()
