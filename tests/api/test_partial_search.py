"""A lost shard in the answers of v1: 503, or what the others have, and then nothing decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from facegraph.errors import ShardUnavailable
from facegraph.graph import Query
from facegraph.service import Service
from facegraph.types import FloatArray, SearchResult
from tests.api.test_v1 import enrol, problem
from tests.fake_graph import FakeGraph, embedding_of, image, photo

SEARCH = "/v1/collections/default/search"
MISSING = {"missing_shards": [1, 2], "shards": 3}


@pytest.fixture
def lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lost ones of three shards; the test puts them in. Who is enrolled is in the others."""
    graph = service.graph
    assert isinstance(graph, FakeGraph)
    whole = graph.match
    missing: list[int] = []

    async def match(
        collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        found = await whole(collection_id, contract_id, probes, query)
        if missing and not query.partial:
            raise ShardUnavailable(f"{len(missing)} of 3 shards cannot be searched now")
        return replace(found, missing_shards=tuple(missing), shards=3)

    monkeypatch.setattr(graph, "match", match)
    return missing


async def search(client: httpx.AsyncClient, *people: int, **params: Any) -> Any:
    response = await client.post(SEARCH, params=params, **image(*people))
    assert response.status_code == 200, response.text
    return response.json()


def told(body: Any) -> list[tuple[str, list[str]]]:
    return [
        (face["decision"], [match["subject_id"] for match in face["matches"]])
        for face in body["faces"]
    ]


async def test_a_lost_shard_is_an_error_unless_asked_otherwise(
    client: httpx.AsyncClient, lost: list[int]
) -> None:
    lost += [1, 2]
    response = await client.post(SEARCH, **image(7))
    assert problem(response) == (503, "shard_unavailable")
    assert response.headers["retry-after"] == "1"


async def test_a_partial_answer_decides_nothing(client: httpx.AsyncClient, lost: list[int]) -> None:
    """Neither that seven is it, with others unseen, nor that four is a stranger."""
    await enrol(client, "seven", 7)
    lost += [1, 2]
    body = await search(client, 7, 4, partial=True)
    assert body["partial"] == MISSING
    assert told(body) == [("ambiguous", ["seven"]), ("ambiguous", [])]
    assert body["faces"][0]["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    metrics = (await client.get("/metrics")).text
    assert "facegraph_partial_searches_total 1.0" in metrics


@pytest.mark.parametrize("partial", [True, False])
async def test_an_answer_that_lacks_nothing_is_the_same_either_way(
    client: httpx.AsyncClient, lost: list[int], partial: bool
) -> None:
    await enrol(client, "seven", 7)
    assert lost == []
    body = await search(client, 7, 4, partial=partial)
    assert "partial" not in body
    assert told(body) == [("match", ["seven"]), ("unknown", [])]


async def test_by_embedding_in_json(
    client: httpx.AsyncClient, service: Service, lost: list[int]
) -> None:
    await enrol(client, "seven", 7)
    lost += [1, 2]
    contract = service.contract
    embedding = embedding_of(7, contract.dimension).tolist()
    sent = {"embedding": embedding, "contract": contract.id, "partial": True}
    body = (await client.post(SEARCH, json=sent)).json()
    assert (body["partial"], told(body)) == (MISSING, [("ambiguous", ["seven"])])


async def test_in_a_form(client: httpx.AsyncClient, lost: list[int]) -> None:
    lost += [1, 2]
    files = {"image": ("p.png", image(7)["content"], "image/png")}
    body = (await client.post(SEARCH, data={"partial": "true"}, files=files)).json()
    assert body["partial"] == MISSING


async def test_analyze(client: httpx.AsyncClient, lost: list[int]) -> None:
    await enrol(client, "seven", 7)
    lost += [1, 2]
    params: dict[str, Any] = {"features": "faces,search"}
    body = (await client.post("/v1/analyze", params=params, **image(7))).json()
    assert body["search"]["problem"]["code"] == "shard_unavailable"
    params["partial"] = True
    body = (await client.post("/v1/analyze", params=params, **image(7))).json()
    assert body["search"]["partial"] == MISSING
    assert told(body["search"]) == [("ambiguous", ["seven"])]


async def test_who_is_kept_in_a_redaction_is_never_told_by_a_part(
    client: httpx.AsyncClient, lost: list[int]
) -> None:
    await enrol(client, "seven", 7)
    lost += [1]
    files = {"image": ("p.png", photo(7), "image/png")}
    response = await client.post("/v1/redact", params={"keep": "seven"}, files=files)
    assert problem(response) == (503, "shard_unavailable")
