"""smartav's captions and instance masks: paths, sentences and shapes as they were."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from facegraph.errors import ModelUnavailable, StoreUnavailable
from facegraph.service import Service
from facegraph.types import SegmentOptions
from tests.api.test_vision import graph
from tests.compat.test_smartav import uri
from tests.fake_graph import FakeGraph

__all__ = ["graph"]

CAPTION = "/image-captioning"
INIT = "/instance-segmentation/init-engine"
DETECT = "/instance-segmentation/detect-objects"


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("prefix", ["", "/compat/smartav"])
async def test_a_caption(client: httpx.AsyncClient, listed: bool, prefix: str) -> None:
    body: Any = {"image": uri(1)}
    response = await client.post(prefix + CAPTION, json=[body] if listed else body)
    assert response.status_code == 200
    assert response.json() == {
        "caption": "a fake caption",
        "question": "What is in the picture?",
        "options": ["people", "animals", "vehicles", "food", "furniture", "something else"],
    }


@pytest.mark.parametrize(
    "body", [None, [], {}, [{"image": uri(1)}] * 2, {"image": "/etc/passwd"}, {"image": 3}]
)
async def test_a_bad_caption_request(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post(CAPTION, json=body)
    assert (response.status_code, response.json()) == (400, {"error": "Invalid request."})


async def test_a_caption_without_a_model(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.failing = ModelUnavailable("no model")
    response = await client.post(CAPTION, json={"image": uri(1)})
    assert (response.status_code, response.json()) == (500, {"error": "no model"})


@pytest.mark.parametrize("path", [CAPTION, DETECT])
async def test_get_says_it_lives(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")


async def test_objects(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    body = {"image": uri(1), "top_k": "1", "score_threshold": 0.3}
    response = await client.post(DETECT, json=body)
    assert response.status_code == 200
    assert graph.asked == [SegmentOptions(1, 0.3)]
    answer = response.json()
    assert set(answer) == {"mjpg", "detected_objects"}
    (person,) = answer["detected_objects"]
    assert person == {
        "Class": "person",
        "Score": pytest.approx(0.9),
        "Rect": {"x": 0, "y": 0, "w": 18, "h": 100},
    }
    picture = Image.open(io.BytesIO(base64.b64decode(answer["mjpg"], validate=True)))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (200, 100))
    brightness = np.asarray(picture).max(axis=2)
    assert brightness[:, 2:16].min() > 100
    assert brightness[:, 40:].max() < 20


async def test_the_defaults(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    await client.post(DETECT, json={"image": uri(1)})
    await client.post(DETECT, json={"image": uri(1), "top_k": 1_000_000})
    assert graph.asked == [SegmentOptions(15, 0.15), SegmentOptions(100, 0.15)]


async def test_nothing_found_is_a_black_picture(client: httpx.AsyncClient) -> None:
    answer = (await client.post(DETECT, json={"image": uri(), "score_threshold": 0.95})).json()
    assert answer["detected_objects"] == []
    picture = Image.open(io.BytesIO(base64.b64decode(answer["mjpg"])))
    assert picture.getextrema() == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, 'Bad request. Your request is missing "image".'),
        ([], 'Bad request. Your request is missing "image".'),
        ({"image": uri(1), "top_k": 0}, '"top_k" must be a whole number from 1'),
        ({"image": uri(1), "top_k": 1.5}, '"top_k" must be a whole number from 1'),
        ({"image": uri(1), "top_k": "inf"}, '"top_k" must be a whole number from 1'),
        ({"image": uri(1), "top_k": "many"}, "must be numbers"),
        ({"image": uri(1), "score_threshold": 2}, "from 0 to 1"),
        ({"image": uri(1), "score_threshold": "nan"}, "from 0 to 1"),
        ({"image": "/etc/passwd"}, "data URI"),
    ],
)
async def test_bad_requests_for_objects(client: httpx.AsyncClient, body: Any, said: str) -> None:
    response = await client.post(DETECT, json=body)
    assert response.status_code == 400
    assert said in response.text


async def test_no_segmenter(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.failing = ModelUnavailable("no model")
    response = await client.post(DETECT, json={"image": uri(1)})
    assert response.status_code == 500
    assert response.text == (
        'Please init engine first by calling "/instance-segmentation/init-engine".'
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_switch_is_everybodys(
    client: httpx.AsyncClient, service: Service, graph: FakeGraph, method: str
) -> None:
    response = await client.request(method, INIT, json={"model": "fake-other"})
    assert (response.status_code, response.text) == (200, "Loading model... Done.")
    assert graph.loaded == ["fake-other"]
    body = (await client.post("/v1/segmentations", json={"image": uri(1)})).json()
    assert body["model"] == "fake-other"
    other = Service(graph, service.store, service.settings, service.tuning, service.pack)
    assert (await other.segment(b"faces:1", SegmentOptions())).model == "fake-other"


async def test_an_operators_edit_stands_above_a_switch(
    client: httpx.AsyncClient, service: Service
) -> None:
    await client.post(INIT, json={"model": "fake-other"})
    edited = service.settings.model_copy(update={"segmenter": "fake-third"})
    later = Service(service.graph, service.store, edited, service.tuning, service.pack)
    assert (await later.segment(b"faces:1", SegmentOptions())).model == "fake-segmenter"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, 'Bad request. Your request is missing "model".'),
        (None, 'Bad request. Your request is missing "model".'),
        ({"model": 3}, '"model" must be a name'),
        ({"model": "../../yolact.pth"}, "there is no segmenter"),
        ({"model": "unknown.pth"}, "there is no segmenter"),
    ],
)
async def test_a_switch_to_nothing(
    client: httpx.AsyncClient, graph: FakeGraph, body: Any, said: str
) -> None:
    response = await client.post(INIT, json=body)
    assert response.status_code == 400
    assert said in response.text
    answer = (await client.post("/v1/segmentations", json={"image": uri(1)})).json()
    assert answer["model"] == "fake-segmenter"


async def test_a_page_of_another_site_switches_nothing(
    client: httpx.AsyncClient, graph: FakeGraph
) -> None:
    headers = {"sec-fetch-site": "cross-site"}
    response = await client.post(INIT, json={"model": "fake-other"}, headers=headers)
    assert response.status_code == 403
    assert graph.loaded == []


async def test_masks_go_on_while_the_database_is_away(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.post(INIT, json={"model": "fake-other"})
    assert (await service.segment(b"faces:1", SegmentOptions())).model == "fake-other"

    async def away(*_: Any) -> str | None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(type(service.store), "choice", away)
    assert (await service.segment(b"faces:1", SegmentOptions())).model == "fake-other"
