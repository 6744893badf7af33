"""How a collection is searched now, in ``GET /v1/collections/{c}``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import jsonschema
import pytest

from facegraph import local, local_faces
from facegraph.api.app import create_app
from facegraph.config import IngressTuning, MatcherTuning, Settings
from facegraph.graph import Graph
from facegraph.local import LocalGraph
from facegraph.matcher import Matcher
from facegraph.matching import upkeep
from facegraph.models.packs import find_pack
from facegraph.service import Service
from facegraph.store import open_store
from facegraph.types import Contract, NewSample
from tests.api.test_v1 import enrol, problem
from tests.fake_graph import FakeGraph, embedding_of
from tests.unit.test_matcher_upkeep import follow

PEOPLE = 40
RECALL = {"at_1": 0.995, "at_limit": 0.98, "limit": 5, "probes": 256}


class FakeWorker:
    """In place of a model that is never asked."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


@asynccontextmanager
async def served(graph: Graph, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service over that graph; the store has a collection ``crowd``."""
    pack = find_pack(settings)
    async with open_store(settings) as store:
        await store.ensure_default(pack.contract)
        await store.create_collection("crowd", contract=pack.contract)
        for person in range(PEOPLE):
            sample = NewSample(embedding_of(person, pack.contract.dimension))
            await store.create_subject(
                "crowd", f"p{person}", samples=[sample], contract=pack.contract
            )
        app = create_app(Service(graph, store, settings, IngressTuning(), pack))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def search_crowd(client: httpx.AsyncClient, contract: Contract) -> Any:
    embedding = embedding_of(7, contract.dimension).tolist()
    body = {"embedding": embedding, "contract": contract.id}
    response = await client.post("/v1/collections/crowd/search", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def crowd_indexes(client: httpx.AsyncClient) -> Any:
    response = await client.get("/v1/collections/crowd")
    assert response.status_code == 200, response.text
    return response.json()["indexes"]


async def test_in_one_process_it_is_shown_once_it_was_searched(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"gallery_storage": "bf16"})
    for worker in ("DetectorWorker", "EmbedderWorker"):
        monkeypatch.setattr(local_faces, worker, FakeWorker)
    for worker in ("SegmenterWorker", "CaptionerWorker", "RecognizerWorker"):
        monkeypatch.setattr(local, worker, FakeWorker)
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(open_store(settings))
        graph = LocalGraph(settings, records)
        stack.push_async_callback(graph.close)
        client = await stack.enter_async_context(served(graph, settings))
        assert await crowd_indexes(client) == []
        assert await crowd_indexes(client) == []  # looking loads nothing
        found = await search_crowd(client, find_pack(settings).contract)
        (gallery,) = await graph.galleries("crowd")
        assert gallery["bytes"] > 0
        assert await crowd_indexes(client) == [
            {
                "shard": 0,
                "version": found["version"],
                "samples": PEOPLE,
                "bytes": gallery["bytes"],
                "search": "exact",
                "storage": "bf16",
                "recall": None,
            }
        ]


async def test_an_approximate_index_tells_its_recall_on_the_collections_own_samples(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FEW_ROWS", 1)
    contract = find_pack(settings).contract
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(open_store(settings))
        matcher = Matcher(records, MatcherTuning(poll_interval_s=60))
        stack.push_async_callback(matcher.close)
        graph = FakeGraph(matcher, contract.dimension)
        client = await stack.enter_async_context(served(graph, settings))
        await client.patch("/v1/collections/crowd", json={"search_mode": "approximate"})
        await search_crowd(client, contract)
        (index,) = await crowd_indexes(client)
        assert (index["search"], index["recall"]) == ("exact", None)  # until it is made
        await follow(matcher)
        (index,) = await crowd_indexes(client)
        assert index["search"] == "approximate"
        assert (index["recall"]["limit"], index["recall"]["probes"]) == (5, 256)
        assert index["recall"]["at_1"] == 1.0  # so few are all candidates
        await client.patch("/v1/collections/crowd", json={"search_mode": "exact"})
        await search_crowd(client, contract)
        (index,) = await crowd_indexes(client)
        assert (index["search"], index["recall"]) == ("exact", None)


def gallery(shard: int, **instead: Any) -> dict[str, Any]:
    """As ``Graph.galleries`` tells an approximate one."""
    return {
        "shard": shard,
        "replica": "some-replica",
        "version": 9,
        "samples": 5000,
        "bytes": 20_000_000,
        "in_file": True,
        "pinned": False,
        "unused_s": 0.5,
        "search": "approximate",
        "storage": "int8",
        "approximate": {"kind": "ivf", "bits_per_sample": 64, "nbytes": 40_000, "recall": RECALL},
        **instead,
    }


MEMBERS = {"shard", "version", "samples", "bytes", "search", "storage", "recall"}


async def test_the_shards_replicas_are_told_in_their_order(
    client: httpx.AsyncClient, service: Service
) -> None:
    assert isinstance(service.graph, FakeGraph)
    unmeasured = {**gallery(0)["approximate"], "recall": None}
    service.graph.shown = [
        gallery(0, search="exact"),  # its index stands by, and is not what is searched
        gallery(0, version=8),
        gallery(1, approximate=unmeasured),
        gallery(2, search="exact", storage="bf16", approximate=None),
    ]
    response = await client.get("/v1/collections/default")
    told = response.json()["indexes"]
    assert [(i["shard"], i["version"], i["search"], i["storage"], i["recall"]) for i in told] == [
        (0, 9, "exact", "int8", None),
        (0, 8, "approximate", "int8", RECALL),
        (1, 9, "approximate", "int8", None),
        (2, 9, "exact", "bf16", None),
    ]
    assert [set(index) for index in told] == [MEMBERS] * 4
    document = (await client.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["IndexedCollection"]
    jsonschema.validate(response.json(), {**schema, "components": document["components"]})
    assert set(document["components"]["schemas"]["IndexAnswer"]["required"]) == MEMBERS


async def test_without_a_matcher_the_collection_is_told_all_the_same(
    client: httpx.AsyncClient, service: Service
) -> None:
    await enrol(client, "ann", 1)
    assert isinstance(service.graph, FakeGraph)
    service.graph.shown = []
    body = (await client.get("/v1/collections/default")).json()
    assert (body["sample_count"], body["indexes"]) == (1, [])
    assert problem(await client.get("/v1/collections/none")) == (404, "collection_not_found")


async def test_only_the_single_collection_asks_the_matchers(client: httpx.AsyncClient) -> None:
    (listed,) = (await client.get("/v1/collections")).json()["collections"]
    changed = (await client.patch("/v1/collections/default", json={"name": "N"})).json()
    made = (await client.post("/v1/collections", json={"id": "c"})).json()
    assert [body["id"] for body in (listed, changed, made)] == ["default", "default", "c"]
    assert not any("indexes" in body for body in (listed, changed, made))
