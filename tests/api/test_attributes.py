"""Attributes over HTTP, and the gate at enrolment that is made of them."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from facegraph.errors import FaceNotFound
from facegraph.service import Service
from tests.fake_graph import image, images

SUBJECTS = "/v1/collections/default/subjects"
SEARCH = "/v1/collections/default/search"

BLURRED = 13
"""From this person on, the fake graph's pictures are of quality 0.3."""


def told(age: int, label: str) -> dict[str, Any]:
    quality = {"score": 0.8, "sharpness": 0.8, "brightness": 0.8, "size": 0.8, "pose": 0.8}
    return {
        "age": age,
        "gender": {"label": label, "probability": 1.0},
        "pose": {"yaw": 0.0, "pitch": 0.0, "roll": 0.0},
        "quality": {name: pytest.approx(value) for name, value in quality.items()}
        | {"reasons": []},
    }


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/embeddings", SEARCH])
async def test_attributes_of_each_face(client: httpx.AsyncClient, path: str) -> None:
    """In the order of the faces; liveness, which no model tells here, is left out."""
    body = (await client.post(f"{path}?attributes=true", **image(4, 7))).json()
    assert [face["attributes"] for face in body["faces"]] == [told(24, "female"), told(27, "male")]


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/embeddings", SEARCH, "/v1/analyze"])
async def test_none_unless_asked_for(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, **image(4, 7))
    assert response.status_code == 200
    assert "attributes" not in response.text


async def test_analyze(client: httpx.AsyncClient) -> None:
    query = "/v1/analyze?features=faces,search&attributes=true"
    body = (await client.post(query, **image(4, 7))).json()
    for part in ("faces", "search"):
        assert [face["attributes"]["age"] for face in body[part]["faces"]] == [24, 27]


async def test_reasons(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/detect?attributes=true", **image(BLURRED, 1))).json()
    first, second = (face["attributes"]["quality"] for face in body["faces"])
    assert (first["score"], first["reasons"]) == (pytest.approx(0.3), ["blurred"])
    assert (second["score"], second["reasons"]) == (pytest.approx(0.8), [])


async def test_answers_obey_the_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, query in (
        ("/v1/detect", "attributes=true"),
        ("/v1/embeddings", "attributes=true"),
        ("/v1/collections/{c}/search", "attributes=true"),
        ("/v1/analyze", "features=faces,search&attributes=true"),
    ):
        address = f"{path.replace('{c}', 'default')}?{query}"
        body = (await client.post(address, **image(BLURRED, 2))).json()
        answers = document["paths"][path]["post"]["responses"]["200"]["content"]
        schema = {**answers["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(body, schema)
    attributes = document["components"]["schemas"]["FaceAttributes"]
    assert set(attributes["properties"]) == {"age", "gender", "pose", "quality", "liveness"}
    assert "required" not in attributes


class TestGate:
    async def test_off_by_default(self, client: httpx.AsyncClient, service: Service) -> None:
        """Nothing is measured unless it is asked for."""
        asked: list[bool] = []
        detect = service.graph.detect

        async def noting(data: bytes, **options: Any) -> Any:
            asked.append(options["attributes"])
            return await detect(data, **options)

        service.graph.detect = noting  # type: ignore[method-assign, assignment]
        for number, min_quality in enumerate(({}, {"min_quality": "0.5"})):
            data = {"id": f"s{number}", **min_quality}
            response = await client.post(SUBJECTS, data=data, **images((2,)))
            assert response.status_code == 201
        assert asked == [False, True]

    async def test_part_of_the_pictures_is_rejected(self, client: httpx.AsyncClient) -> None:
        data = {"id": "ann", "min_quality": "0.5"}
        response = await client.post(SUBJECTS, data=data, **images((1,), (BLURRED,), ()))
        assert response.status_code == 201
        body = response.json()
        assert len(body["samples"]) == 1
        assert body["rejected"] == [
            {
                "index": 1,
                "code": "low_quality",
                "detail": "the face's quality is 0.30, 0.5 is asked for: blurred",
                "reasons": ["blurred"],
            },
            {"index": 2, "code": "face_not_found", "detail": "no face in the image"},
        ]

    async def test_a_single_picture(self, client: httpx.AsyncClient) -> None:
        await client.post(SUBJECTS, json={"id": "ann"})
        url = f"{SUBJECTS}/ann/samples?min_quality=0.5"
        response = await client.post(url, **images((BLURRED,)))
        body = response.json()
        assert (response.status_code, body["code"]) == (422, "low_quality")
        assert body["errors"] == [{"reason": "blurred"}]
        assert (await client.post(url.replace("0.5", "0.3"), **images((1,)))).status_code == 201
        assert (await client.post(url.partition("?")[0], **images((BLURRED,)))).status_code == 201

    async def test_no_picture_is_good_enough(self, client: httpx.AsyncClient) -> None:
        data = {"id": "ann", "min_quality": "0.9"}
        response = await client.post(SUBJECTS, data=data, **images((1,), (BLURRED,)))
        assert (response.status_code, response.json()["code"]) == (422, "low_quality")
        reasons = [(e["code"], e["reasons"]) for e in response.json()["errors"]]
        assert reasons == [("low_quality", []), ("low_quality", ["blurred"])]
        assert (await client.get(f"{SUBJECTS}/ann")).status_code == 404

    async def test_told_again_with_the_same_key(self, client: httpx.AsyncClient) -> None:
        headers = {"idempotency-key": "k"}
        data = {"id": "ann", "min_quality": "0.5"}
        request: dict[str, Any] = {"data": data, **images((1,), (BLURRED,)), "headers": headers}
        first, again = [await client.post(SUBJECTS, **request) for _ in range(2)]
        assert again.json()["rejected"] == first.json()["rejected"]
        assert again.json()["rejected"][0]["reasons"] == ["blurred"]

    @pytest.mark.parametrize("value", ["-0.1", "1.5", "good"])
    async def test_bad_values(self, client: httpx.AsyncClient, value: str) -> None:
        data = {"id": "ann", "min_quality": value}
        response = await client.post(SUBJECTS, data=data, **images((1,)))
        assert (response.status_code, response.json()["code"]) == (400, "invalid_request")

    async def test_low_quality_is_no_face_not_found(self, client: httpx.AsyncClient) -> None:
        """A picture without a face has no quality to be low."""
        data = {"id": "ann", "min_quality": "0.5"}
        response = await client.post(SUBJECTS, data=data, **images(()))
        assert response.json()["code"] == FaceNotFound.code


async def test_models_name_each_licence(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()["face_pack"]
    files = {file["name"]: file["sha256"] for file in body["files"]}
    for model in body["attributes"]:
        assert model["licence"] == {"name": "CC0-1.0", "permissive": True}
        assert len(files[model["file"]]) == 64
    assert [model["kind"] for model in body["attributes"]] == ["dlib-age", "dlib-gender"]
