"""What must not miss anybody is searched exactly, whatever the collection says."""

from __future__ import annotations

import base64

import httpx
import pytest

from facegraph.graph import Query
from facegraph.service import Service
from facegraph.types import FloatArray, SearchResult
from tests.api.test_redact import redact
from tests.api.test_v1 import enrol
from tests.fake_graph import FakeGraph, image, picture


@pytest.fixture
def exact(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each search whether it had to be."""
    graph = service.graph
    assert isinstance(graph, FakeGraph)
    match = graph.match
    asked: list[bool] = []

    async def noted(
        collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        asked.append(query.exact)
        return await match(collection_id, contract_id, probes, query)

    monkeypatch.setattr(graph, "match", noted)
    return asked


async def test_a_search_may_be_approximate(client: httpx.AsyncClient, exact: list[bool]) -> None:
    assert (await client.post("/v1/collections/default/search", **image(1))).status_code == 200
    assert exact == [False]


async def test_who_is_kept_out_of_a_redaction(client: httpx.AsyncClient, exact: list[bool]) -> None:
    await enrol(client, "two", 2)
    await redact(client, 1, 2, keep="two")
    assert exact == [True]


async def test_who_is_a_stranger_to_the_old_systems(
    client: httpx.AsyncClient, exact: list[bool]
) -> None:
    body = {"image": f"data:image/jpg;base64, {base64.b64encode(picture(4)).decode()}"}
    response = await client.post("/face-recognition", json=body)
    assert response.status_code == 200, response.text
    assert exact
    assert all(exact)
