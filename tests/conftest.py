"""Fixtures that several kinds of tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from starlette.applications import Starlette

from facegraph.api.app import create_app
from facegraph.config import IngressTuning, MatcherTuning, Settings, settings_from
from facegraph.matcher import Matcher
from facegraph.models.packs import find_pack
from facegraph.service import Service
from facegraph.store import open_store
from tests.fake_graph import FakeGraph
from tests.store.conftest import make_database, server_url, short_tmp

__all__ = ["make_database", "server_url", "short_tmp"]


@pytest.fixture
def settings(make_database: Callable[[], str]) -> Settings:
    """The default pack over an empty database of the test's own."""
    return settings_from({"database_url": make_database()}, {})


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """The service on an empty database of its own."""
    pack = find_pack(settings)
    async with open_store(settings) as store, open_store(settings) as records:
        await store.ensure_default(pack.contract)
        matcher = Matcher(records, MatcherTuning(poll_interval_s=0.1))
        await matcher.start()
        graph = FakeGraph(matcher, pack.contract.dimension)
        yield Service(graph, store, settings, IngressTuning(), pack)
        await matcher.close()


@pytest.fixture
def app(service: Service) -> Starlette:
    return create_app(service)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
