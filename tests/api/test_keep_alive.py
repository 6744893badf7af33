"""A client keeps its connection after every kind of answer; uvicorn as Serve runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from facegraph.config import IngressTuning
from facegraph.errors import ModelUnavailable
from facegraph.service import Service
from facegraph.supervisor.ports import free_ports
from tests.fake_graph import picture

LIMITED = IngressTuning(max_image_bytes=100_000, max_request_bytes=200_000)


@pytest.fixture
async def port(app: Starlette, service: Service) -> AsyncIterator[int]:
    service.tuning = LIMITED
    (port,) = free_ports(1)
    config = uvicorn.Config(app, port=port, lifespan="off", access_log=False, log_level="error")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield port
    await server.shutdown()


class Connection:
    """One connection, on which request after request is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, method: str, path: str, body: bytes, **headers: str) -> None:
        fields = {"host": "x", "content-length": str(len(body)), "content-type": "image/png"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {name: value for name, value in fields.items() if value}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert "connection: close" not in head
        (length,) = [line for line in head.split("\r\n") if line.startswith("content-length")]
        body = await self._reader.readexactly(int(length.partition(":")[2]))
        return int(head.split(" ", 2)[1]), body

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.fixture
async def connection(port: int) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    yield connection
    await connection.close()


async def test_one_connection_takes_every_kind_of_answer(
    connection: Connection, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: Any, **__: Any) -> None:
        raise ModelUnavailable("away")

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    asked: list[tuple[str, str, bytes, dict[str, str], int]] = [
        ("POST", "/v1/detect", picture(1), {}, 200),
        ("POST", "/v1/detect?nonsense=1", picture(1), {}, 400),
        ("POST", "/v1/detect", b"{", {"content_type": "application/json"}, 400),
        ("POST", "/v1/nothing", bytes(150_000), {}, 404),  # a body that nobody reads
        ("POST", "/livez", bytes(150_000), {}, 405),
        ("POST", "/v1/detect", b"x", {"content_type": "text/plain"}, 415),
        ("POST", "/v1/detect", b"no picture", {}, 422),
        ("POST", "/v1/detect", bytes(150_000), {}, 413),  # one image
        ("POST", "/v1/detect", bytes(1_000_000), {}, 413),  # announced: refused unread
        ("DELETE", "/v1/collections/default/subjects/nobody", b"", {}, 404),
    ]
    for method, path, body, headers, status in asked:
        await connection.send(method, path, body, **headers)
        assert (await connection.answer())[0] == status, path
    for detect, status in ((unavailable, 503), (broken, 500)):
        monkeypatch.setattr(service.graph, "detect", detect)
        await connection.send("POST", "/v1/detect", picture(1))
        assert (await connection.answer())[0] == status
    monkeypatch.undo()
    service.tuning = LIMITED.model_copy(update={"max_concurrent_requests": 0})
    await connection.send("POST", "/v1/detect", bytes(150_000))
    assert (await connection.answer())[0] == 503  # overloaded, with an unread body
    service.tuning = LIMITED
    await connection.send("POST", "/v1/detect", picture(1))
    status, body = await connection.answer()
    assert (status, len(json.loads(body)["faces"])) == (200, 1)


async def test_a_body_announced_too_large_is_refused_before_it_comes(
    connection: Connection,
) -> None:
    await connection.send("POST", "/v1/detect", b"a begin", content_length="1000000")
    status, body = await connection.answer()
    assert (status, json.loads(body)["code"]) == (413, "image_too_large")


async def test_a_body_without_a_length_is_refused_when_it_is_too_large(
    connection: Connection,
) -> None:
    """The rest of it is thrown away, and the connection goes on."""
    chunk = b"%x\r\n%s\r\n" % (50_000, bytes(50_000))
    await connection.send(
        "POST",
        "/v1/detect",
        chunk * 10 + b"0\r\n\r\n",
        content_length="",
        transfer_encoding="chunked",
    )
    assert (await connection.answer())[0] == 413
    await connection.send("GET", "/livez", b"")
    assert (await connection.answer())[0] == 200
