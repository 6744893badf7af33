"""Who is concealed, who stays to be seen, and that nothing slips through."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from facegraph import concealment
from facegraph.types import ByteArray, Segmentation
from tests.api.test_v1 import enrol, problem
from tests.api.test_vision import graph
from tests.fake_graph import FakeGraph, photo

__all__ = ["graph"]


def pixels_of(data: bytes) -> ByteArray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


async def redact(client: httpx.AsyncClient, *people: int, **params: Any) -> httpx.Response:
    response = await client.post(
        "/v1/redact",
        params=params,
        content=photo(*people),
        headers={"content-type": "image/png"},
    )
    assert response.status_code == 200, response.text
    return response


def counts(response: httpx.Response) -> tuple[str, str]:
    return response.headers["x-facegraph-concealed"], response.headers["x-facegraph-kept"]


def changed(response: httpx.Response, *people: int) -> ByteArray:
    """Per pixel, whether the answer differs from what was sent."""
    before, after = pixels_of(photo(*people)), pixels_of(response.content)
    return np.asarray((before != after).any(axis=2))


async def test_all_faces(client: httpx.AsyncClient) -> None:
    response = await redact(client, 1, 2, method="fill", padding=0)
    assert counts(response) == ("2", "0")
    assert response.headers["content-type"] == "image/png"
    assert "x-request-id" in response.headers
    there = changed(response, 1, 2)
    assert there[:12, :12].all()
    assert there[:11, 20:31].all()
    assert not there[:, 50:].any()
    assert not there[40:].any()


@pytest.mark.parametrize("method", ["blur", "pixelate"])
async def test_every_method_hides(client: httpx.AsyncClient, method: str) -> None:
    response = await redact(client, 1, method=method, format="webp")
    assert response.headers["content-type"] == "image/webp"
    lossless = await redact(client, 1, method=method)
    assert changed(lossless, 1)[2:10, 2:10].mean() > 0.95


async def test_a_kept_subject_stays(client: httpx.AsyncClient) -> None:
    await enrol(client, "two", 2)
    response = await redact(client, 1, 2, keep="two", method="fill", padding=0)
    assert counts(response) == ("1", "1")
    there = changed(response, 1, 2)
    assert there[:12, :12].all()
    assert not there[:, 15:].any()


async def test_an_ambiguous_face_is_concealed(client: httpx.AsyncClient) -> None:
    await enrol(client, "two", 2)
    await enrol(client, "twin", 2)
    assert counts(await redact(client, 2, keep="two")) == ("1", "0")
    assert counts(await redact(client, 2, keep="two,twin")) == ("1", "0")


async def test_below_the_threshold_is_concealed(client: httpx.AsyncClient) -> None:
    await enrol(client, "two", 2)
    assert counts(await redact(client, 3, keep="two")) == ("1", "0")


async def test_masks_of_people(client: httpx.AsyncClient) -> None:
    await enrol(client, "two", 2)
    response = await redact(client, 1, 2, target="masks", keep="two", method="fill")
    assert counts(response) == ("1", "1")
    there = changed(response, 1, 2)
    assert there[:, :18].all()
    assert not there[:, 25:].any()


async def test_a_stranger_without_a_mask_is_hidden_too(
    client: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(client, "two", 2)
    segment = graph.segment

    async def only_the_kept(*asked: Any) -> Segmentation:
        seen = await segment(*asked)
        rows = [1]  # the second person's mask
        return Segmentation(
            seen.width,
            seen.height,
            tuple(seen.labels[row] for row in rows),
            seen.scores[rows],
            seen.boxes[rows],
            tuple(seen.masks[row] for row in rows),
            seen.model,
        )

    monkeypatch.setattr(graph, "segment", only_the_kept)
    response = await redact(client, 1, 2, target="masks", keep="two", method="fill", padding=0)
    assert counts(response) == ("1", "1")
    there = changed(response, 1, 2)
    assert there[:12, :12].all()
    assert not there[:, 15:].any()


async def test_redaction_looks_harder_for_faces(
    client: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    detect = graph.detect

    async def noted(*args: Any, **options: Any) -> Any:
        asked.append(options.get("min_score"))
        return await detect(*args, **options)

    monkeypatch.setattr(graph, "detect", noted)
    await redact(client, 1)
    assert asked == [0.3]


async def test_masks_of_things(client: httpx.AsyncClient) -> None:
    response = await redact(client, 1, target="masks", labels="cup", method="fill")
    assert counts(response) == ("1", "0")
    there = changed(response, 1)
    assert there[80:90, 180:190].all()
    assert not there[:, :170].any()


async def test_who_is_to_be_kept_must_exist(client: httpx.AsyncClient) -> None:
    sent: dict[str, Any] = {"content": photo(1), "headers": {"content-type": "image/png"}}
    response = await client.post("/v1/redact?keep=nobody", **sent)
    assert problem(response) == (404, "subject_not_found")
    response = await client.post("/v1/redact?keep=x&collection=nowhere", **sent)
    assert problem(response) == (404, "collection_not_found")


async def test_a_picture_with_too_many_faces_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concealment, "MOST_FACES", 2)
    sent: dict[str, Any] = {"content": photo(1, 2, 3), "headers": {"content-type": "image/png"}}
    assert problem(await client.post("/v1/redact", **sent)) == (422, "unprocessable")
    monkeypatch.setattr(concealment, "MOST_OBJECTS", 3)
    response = await client.post("/v1/redact?target=masks", **sent)
    assert problem(response) == (422, "unprocessable")


async def test_what_cannot_be_searched_is_not_answered(
    client: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(client, "two", 2)

    async def broken(*_: Any) -> None:
        raise RuntimeError("the matcher is gone")

    monkeypatch.setattr(graph, "match", broken)
    sent: dict[str, Any] = {"content": photo(2), "headers": {"content-type": "image/png"}}
    response = await client.post("/v1/redact?keep=two", **sent)
    assert problem(response) == (500, "internal")


async def test_no_face_is_the_picture_without_metadata(client: httpx.AsyncClient) -> None:
    response = await redact(client)
    assert counts(response) == ("0", "0")
    assert not changed(response).any()
    assert b"faces:" not in response.content
