"""Old clients come over a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``app`` over a real socket on this machine."""
    config = uvicorn.Config(app, lifespan="off", ws="none", log_level="warning")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        await server.startup(sockets=[listening])
        async with httpx.AsyncClient(base_url=address) as client:
            yield client
        await server.shutdown(sockets=[listening])


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with served(app) as client:
        yield client
