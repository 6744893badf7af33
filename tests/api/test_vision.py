"""Captions and masks over HTTP: answers, bounds, and what fails alone."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from facegraph.config import IngressTuning
from facegraph.errors import ModelUnavailable
from facegraph.service import INVENTORY, Service
from facegraph.types import CaptionOptions, SegmentOptions
from tests.api.test_v1 import problem
from tests.fake_graph import FakeGraph, image

GONE = ModelUnavailable("no captioner here; run: facegraph models pull blip-base")


@pytest.fixture
def graph(service: Service) -> FakeGraph:
    assert isinstance(service.graph, FakeGraph)
    return service.graph


async def test_a_caption_names_its_model(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    body = (await client.post("/v1/captions", **image(1))).json()
    assert (body["caption"], body["model"]) == ("a fake caption", "fake-captioner")
    options: dict[str, Any] = {
        "num_beams": 1,
        "max_length": 30,
        "min_length": 8,
        "prompt": "two people ",
    }
    await client.post("/v1/captions", params=options, **image(1))
    assert graph.asked == [CaptionOptions(), CaptionOptions(1, 30, 8, "two people ")]


async def test_without_a_model_the_caption_is_an_inventory(
    client: httpx.AsyncClient, graph: FakeGraph
) -> None:
    graph.said = None
    body = (await client.post("/v1/captions", **image(1, 2, 3))).json()
    assert body["model"] == "inventory"
    assert body["caption"].startswith("Three people")
    assert graph.asked == [CaptionOptions(), INVENTORY]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("captions", {"num_beams": 0}),
        ("captions", {"num_beams": 9}),
        ("captions", {"max_length": 4}),
        ("captions", {"max_length": 65}),
        ("captions", {"min_length": 21}),  # more than max_length
        ("captions", {"prompt": "a\nb"}),
        ("captions", {"prompt": "x" * 129}),
        ("captions", {"beams": 3}),
        ("segmentations", {"top_k": 0}),
        ("segmentations", {"top_k": 1_000_000}),
        ("segmentations", {"score_threshold": 2}),
        ("segmentations", {"score_threshold": "nan"}),
        ("segmentations", {"masks": "bitmap"}),
        ("segmentations", {"model": "../../etc/passwd"}),
        ("analyze", {"features": "faces,smell"}),
        ("analyze", {"features": ""}),
        ("analyze", {"collection": "../x"}),
        ("redact", {"method": "erase"}),
        ("redact", {"labels": "person,unicorn", "target": "masks"}),
        ("redact", {"cells": 0}),
        ("redact", {"keep": "a/b"}),
        ("redact", {"keep": ""}),
        ("redact", {"labels": "cup"}),  # without target=masks
        ("redact", {"keep": "x", "target": "masks", "labels": "cup"}),
    ],
)
async def test_bad_options(client: httpx.AsyncClient, path: str, params: dict[str, Any]) -> None:
    response = await client.post(f"/v1/{path}", params=params, **image(1))
    assert problem(response) == (400, "invalid_request")
    bad = next(iter(params))
    assert bad in response.json()["detail"]


# pycocotools has not followed NumPy 2 here.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
async def test_objects_with_rle_masks(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    body = (await client.post("/v1/segmentations?top_k=3&score_threshold=0.6", **image(1))).json()
    assert graph.asked == [SegmentOptions(3, 0.6)]
    assert (body["model"], body["image"]) == ("fake-segmenter", {"width": 200, "height": 100})
    (person,) = body["objects"]
    assert (person["label"], person["score"]) == ("person", pytest.approx(0.9))
    assert person["bbox"] == {"x": 0, "y": 0, "width": 18, "height": 100}
    mask = person["mask"]
    assert (mask["encoding"], mask["size"]) == ("coco_rle_compressed", [100, 200])
    pixels = coco.decode({"size": mask["size"], "counts": mask["counts"].encode()})
    assert np.argwhere(pixels).max(0).tolist() == [99, 17]
    assert int(pixels.sum()) == 1800


async def test_objects_with_png_masks_or_none(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/segmentations?masks=png", **image())).json()
    (cup,) = body["objects"]
    assert cup["mask"]["encoding"] == "png"
    data = base64.b64decode(cup["mask"]["data_uri"].removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert pixels.shape == (100, 200)
    assert (pixels[80:90, 180:190] == 255).all()
    assert int((pixels > 0).sum()) == 100
    body = (await client.post("/v1/segmentations?masks=none", **image())).json()
    assert body["objects"][0]["mask"] is None


async def test_nothing_found_is_an_empty_list(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/segmentations?score_threshold=0.95", **image(1))).json()
    assert body["objects"] == []


async def test_a_missing_model_says_what_to_do(client: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.failing = GONE
    for path in ("captions", "segmentations"):
        response = await client.post(f"/v1/{path}", **image(1))
        assert problem(response) == (503, "model_unavailable")
        assert response.json()["detail"] == GONE.detail
        assert int(response.headers["retry-after"]) > 0
    assert (await client.post("/v1/detect", **image(1))).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_slow_captions_leave_room_for_faces(
    client: httpx.AsyncClient,
    service: Service,
    graph: FakeGraph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.tuning = IngressTuning(max_vision_requests=2)
    go_on = asyncio.Event()

    async def stuck(*_: Any) -> None:
        await go_on.wait()

    monkeypatch.setattr(graph, "caption", stuck)
    waiting = [asyncio.create_task(client.post("/v1/captions", **image(1))) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert problem(await client.post("/v1/captions", **image(1))) == (503, "overloaded")
    assert problem(await client.post("/v1/segmentations", **image(1))) == (503, "overloaded")
    assert (await client.post("/v1/detect", **image(1))).status_code == 200
    waiting.pop().cancel()  # a client that goes away makes room
    await asyncio.sleep(0.1)
    assert (await client.post("/v1/segmentations", **image(1))).status_code == 200
    go_on.set()
    assert (await waiting[0]).status_code == 200  # an inventory


async def test_too_many_pngs_are_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.api.v1.vision.MOST_PNG_PIXELS", 3 * 200 * 100 - 1)
    response = await client.post("/v1/segmentations?masks=png", **image(1, 2))
    assert problem(response) == (400, "invalid_request")
    assert "ask for masks=rle" in response.json()["detail"]
    analysis = await client.post("/v1/analyze?masks=png&features=segmentation,faces", **image(1, 2))
    assert analysis.json()["segmentation"]["problem"]["code"] == "invalid_request"
    assert len(analysis.json()["faces"]["faces"]) == 2
    assert (await client.post("/v1/segmentations?masks=png", **image(1))).status_code == 200


async def test_models_tells_every_pack_and_its_licence(client: httpx.AsyncClient) -> None:
    packs = {pack["name"]: pack for pack in (await client.get("/v1/models")).json()["packs"]}
    assert packs["yolov5s-seg"]["licence"] == {"name": "GPL-3.0", "permissive": False}
    assert (packs["blip-base"]["for"], packs["opencv"]["installed"]) == ("captioner", True)
    assert len(packs["yolov5s-seg"]["files"][0]["sha256"]) == 64
