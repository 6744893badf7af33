"""The document describes the routes there are, and real answers obey it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from facegraph.api.app import ENDPOINTS
from facegraph.service import Service
from tests.api.recognizer_making import NAMES, PUBLIC, files, finish, take
from tests.fake_graph import image, images

UNDOCUMENTED = {"/openapi.json", "/metrics"}
"""Served for machines, not part of the contract."""


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    body: dict[str, Any] = response.json()
    return body


async def test_documented_routes_are_the_real_ones(
    client: httpx.AsyncClient, app: Starlette
) -> None:
    documented = {
        (path, method.upper())
        for path, operations in (await document(client))["paths"].items()
        for method in operations
    }
    real = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith(("/v1", "/livez", "/readyz"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert documented == real == {(e.path, e.method) for e in ENDPOINTS}


async def test_every_reference_resolves_and_every_operation_is_told(
    client: httpx.AsyncClient,
) -> None:
    body = await document(client)
    names = set(re.findall(r"#/components/schemas/([\w.-]+)", str(body)))
    assert names <= body["components"]["schemas"].keys()
    operations = [o for path in body["paths"].values() for o in path.values()]
    assert all(operation["summary"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


ANSWERS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/detect", image(1, 2)),
    ("POST", "/v1/embeddings", image(1, 2)),
    ("POST", "/v1/verify", {"files": {"source": b"faces:1", "target": b"faces:2"}}),
    ("POST", "/v1/collections", {"json": {"id": "c"}}),
    ("POST", "/v1/collections/{c}/subjects", images((1,), (), (2,))),
    ("POST", "/v1/collections/{c}/search", image(1, 5)),
    ("GET", "/v1/collections", {}),
    ("GET", "/v1/collections/{c}", {}),
    ("PATCH", "/v1/collections/{c}", {"json": {"name": "N"}}),
    ("GET", "/v1/collections/{c}/subjects", {}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/system", {}),
    ("GET", "/livez", {}),
    ("GET", "/readyz", {}),
    ("GET", "/v1/collections/{c}/subjects/nobody", {}),
    ("POST", "/v1/captions", image(1)),
]


async def test_answers_obey_their_schemas(client: httpx.AsyncClient) -> None:
    body = await document(client)
    for method, template, request in ANSWERS:
        path = template.replace("{c}", "default")
        response = await client.request(method, path, **request)
        operations = body["paths"][template.replace("/nobody", "/{s}")]
        described = operations[method.lower()]["responses"][str(response.status_code)]
        media_type = response.headers["content-type"].partition(";")[0]
        schema = described["content"][media_type]["schema"]
        jsonschema.validate(response.json(), {**schema, "components": body["components"]})


RECOGNIZERS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/recognizers", {"files": files(*NAMES), "data": {"callback_url": PUBLIC}}),
    ("GET", "/v1/recognizers", {}),
    ("GET", "/v1/recognizers/{id}", {}),
    ("GET", "/v1/recognizers/{id}/report", {}),
    ("POST", "/v1/recognizers/{id}/predict", image(1, 50)),
    ("GET", "/v1/recognizers/nobody", {}),
]


async def test_answers_about_recognizers_obey_their_schemas(
    client: httpx.AsyncClient, service: Service
) -> None:
    body = await document(client)
    recognizer_id = ""
    for method, template, request in RECOGNIZERS:
        path = template.replace("{id}", recognizer_id)
        response = await client.request(method, path, **request)
        described = body["paths"][template.replace("nobody", "{id}")][method.lower()]
        media_type = response.headers["content-type"].partition(";")[0]
        content = described["responses"][str(response.status_code)]["content"]
        if media_type == "image/png":
            assert content == {"image/*": {"schema": {"type": "string", "format": "binary"}}}
            continue
        schema = content[media_type]["schema"]
        jsonschema.validate(response.json(), {**schema, "components": body["components"]})
        if response.status_code == 202:
            recognizer_id = response.json()["id"]
            await finish(service, await take(service))


async def test_bodies_and_streams_of_recognizers_are_told(client: httpx.AsyncClient) -> None:
    paths = (await document(client))["paths"]
    body = paths["/v1/recognizers"]["post"]["requestBody"]["content"]
    assert set(body) == {
        "multipart/form-data",
        "application/zip",
        "application/vnd.apache.parquet",
        "text/csv",
        "application/json",
        "application/msgpack",
    }
    assert {"images", "archive", "labels"} <= body["multipart/form-data"]["schema"][
        "properties"
    ].keys()
    assert "archive" not in body["application/json"]["schema"]["properties"]
    events = paths["/v1/recognizers/{id}/events"]["get"]["responses"]["200"]["content"]
    assert events == {"text/event-stream": {"schema": {"type": "string"}}}


async def test_docs_need_no_network(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (await client.get("/" + asset)).status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
async def test_every_parameter_is_documented(client: httpx.AsyncClient, endpoint: Any) -> None:
    operation = (await document(client))["paths"][endpoint.path][endpoint.method.lower()]
    told = {parameter["name"] for parameter in operation["parameters"]}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    told |= body.get("schema", {}).get("properties", {}).keys()
    assert told >= endpoint.params.model_fields.keys()
    assert told >= set(re.findall(r"{(\w+)}", endpoint.path))
