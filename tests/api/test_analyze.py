"""Everything about a picture in one call: side by side, each part failing on its own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from facegraph.errors import ModelUnavailable
from facegraph.service import Service
from facegraph.types import CaptionOptions, SegmentOptions
from tests.api.test_v1 import enrol, problem
from tests.api.test_vision import graph
from tests.fake_graph import FakeGraph, image

__all__ = ["graph"]


async def analyze(client: httpx.AsyncClient, *people: int, **params: Any) -> Any:
    response = await client.post("/v1/analyze", params=params, **image(*people))
    assert response.status_code == 200, response.text
    return response.json()


def told(part: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(face[name] for name in names) for face in part["faces"]]


async def test_all_parts(client: httpx.AsyncClient) -> None:
    await enrol(client, "seven", 7)
    body = await analyze(client, 4, 7)
    assert set(body) == {"faces", "search", "caption", "segmentation", "request_id"}
    assert told(body["faces"], "person") == [(0,), (1,)]
    assert told(body["search"], "decision", "person") == [("unknown", 0), ("match", 1)]
    assert body["search"]["faces"][1]["matches"][0]["subject_id"] == "seven"
    assert body["caption"] == {"caption": "a fake caption", "model": "fake-captioner"}
    labels = [seen["label"] for seen in body["segmentation"]["objects"]]
    assert labels == ["person", "person", "cup"]


async def test_each_part_is_what_its_own_endpoint_answers(client: httpx.AsyncClient) -> None:
    body = await analyze(client, 1, 2, features="faces,caption", max_faces=1)
    for feature, path in {"faces": "detect?max_faces=1", "caption": "captions"}.items():
        alone = (await client.post(f"/v1/{path}", **image(1, 2))).json()
        del alone["request_id"]
        assert body[feature] == alone
    assert set(body) == {"faces", "caption", "request_id"}


async def test_a_face_whose_mask_was_not_answered_has_none(client: httpx.AsyncClient) -> None:
    body = await analyze(client, 1, 2, top_k=1)
    assert told(body["faces"], "person") == [(0,), (None,)]


async def test_json_brings_the_features_as_a_list(client: httpx.AsyncClient) -> None:
    uri = "data:image/png;base64,ZmFjZXM6MQ=="  # faces:1
    sent = {"image": uri, "features": ["segmentation"], "masks": "none"}
    body = (await client.post("/v1/analyze", json=sent)).json()
    assert [seen["mask"] for seen in body["segmentation"]["objects"]] == [None, None]
    assert set(body) == {"segmentation", "request_id"}


async def test_an_inventory_and_masks_cost_one_segmentation(
    client: httpx.AsyncClient, graph: FakeGraph
) -> None:
    graph.said = None
    body = await analyze(client, 1, 2, features="caption,segmentation", top_k=1)
    assert graph.asked.count(SegmentOptions(50, 0.15)) == 1
    assert len(graph.asked) == 2
    assert CaptionOptions() in graph.asked
    assert body["caption"]["model"] == "inventory"
    assert body["caption"]["caption"].startswith("Two people")
    assert len(body["segmentation"]["objects"]) == 1


async def test_a_part_that_fails_leaves_the_others(
    client: httpx.AsyncClient, graph: FakeGraph
) -> None:
    graph.failing = ModelUnavailable("no model")
    body = await analyze(client, 1, collection="nowhere")
    assert told(body["faces"], "detection_score") == [(pytest.approx(0.9),)]
    assert "person" not in body["faces"]["faces"][0]
    found = {part: body[part]["problem"]["code"] for part in ("search", "caption", "segmentation")}
    assert found == {
        "search": "collection_not_found",
        "caption": "model_unavailable",
        "segmentation": "model_unavailable",
    }
    assert body["caption"]["problem"]["status"] == 503


async def test_where_every_part_fails_the_request_fails(
    client: httpx.AsyncClient, service: Service
) -> None:
    garbage: dict[str, Any] = {"content": b"garbage", "headers": {"content-type": "image/png"}}
    response = await client.post("/v1/analyze", **garbage)
    assert problem(response) == (422, "invalid_image")
    response = await client.post("/v1/analyze?features=search&collection=nowhere", **image(1))
    assert problem(response) == (404, "collection_not_found")


async def test_no_face_no_person(client: httpx.AsyncClient) -> None:
    body = await analyze(client)
    assert (body["faces"]["faces"], body["search"]["faces"]) == ([], [])
    assert [seen["label"] for seen in body["segmentation"]["objects"]] == ["cup"]
