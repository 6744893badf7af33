"""Addresses that clients name: which are public, and that no way leads to another."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from aiohttp.test_utils import TestServer

from facegraph import outside
from facegraph.api.fetch import url_fetcher
from facegraph.errors import ImageTooLarge, InvalidRequest

pytestmark = pytest.mark.unit

NOT_PUBLIC = "the url leads to an address that is not public"
ODD = "the url has an address that is not four decimal numbers"
NO_WEB = "the url must be http or https, and name a host"


@pytest.mark.parametrize(
    ("address", "public", "reason"),
    [
        ("8.8.8.8", True, "anybody's"),
        ("2606:4700::1111", True, "anybody's, IPv6"),
        ("::ffff:8.8.8.8", True, "IPv4 by way of IPv6"),
        ("64:ff9b::808:808", True, "where a network has IPv6 alone, DNS answers so"),
        ("2002:808:808::1", True, "6to4"),
        ("127.0.0.1", False, "this machine"),
        ("0.0.0.0", False, "this machine, for a client"),
        ("10.1.2.3", False, "a private network"),
        ("100.64.0.1", False, "a provider's network"),
        ("169.254.169.254", False, "what clouds tell their machines"),
        ("192.0.0.192", False, "Oracle's of old"),
        ("168.63.129.16", False, "Azure's"),
        ("224.0.0.1", False, "multicast"),
        ("255.255.255.255", False, "broadcast"),
        ("::1", False, "this machine, IPv6"),
        ("::", False, "this machine, for a client"),
        ("::127.0.0.1", False, "IPv4-compatible"),
        ("::ffff:169.254.169.254", False, "mapped"),
        ("64:ff9b::a9fe:a9fe", False, "by way of NAT64"),
        ("64:ff9b:1::a9fe:a9fe", False, "by way of a local NAT64"),
        ("2002:a9fe:a9fe::1", False, "by way of 6to4"),
        ("2001:0:a9fe:a9fe::1", False, "Teredo"),
        ("fe80::1", False, "link-local"),
        ("fec0::1", False, "site-local"),
        ("fd00:ec2::254", False, "AWS's"),
        ("ff02::1", False, "multicast"),
        ("2001:db8::1", False, "documentation"),
    ],
)
def test_which_addresses_are_public(address: str, public: bool, reason: str) -> None:
    assert outside.is_public(ipaddress.ip_address(address)) is public, reason


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://127.0.0.1:8000/x", NOT_PUBLIC),
        ("http://[::ffff:169.254.169.254]/x", NOT_PUBLIC),
        ("http://[fe80::1%25eth0]/", NOT_PUBLIC),
        ("http://①②⑦.0.0.1/", NOT_PUBLIC),
        ("http://2130706433/", ODD),
        ("http://0x7f000001/", ODD),
        ("http://0x7f.1/", ODD),
        ("http://0177.0.0.1/", ODD),
        ("http://127.1/", ODD),
        ("http://0/", ODD),
        ("file:///etc/passwd", NO_WEB),
        ("ftp://example.org/x", NO_WEB),
        ("http:///x", NO_WEB),
        ("//example.org/x", NO_WEB),
        ("", NO_WEB),
        ("http://example.org:99999/", "the url is not a url"),
        ("http://[1/", "the url is not a url"),
        ("http://example.org/" + "x" * 8192, "the url may have 8192 characters"),
    ],
)
async def test_urls_that_lead_nowhere_are_refused(url: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        outside.require_public_url(url)
    assert told.value.detail == detail
    with pytest.raises(InvalidRequest) as told:
        await outside.require_reachable(url, private=False)
    assert told.value.detail == detail


def resolving(*addresses: str) -> Callable[[str, int, int], list[ResolveResult]]:
    """A fake of the system's resolver: every name has these addresses; none: unknown."""

    def look_up(host: str, port: int, family: int) -> list[ResolveResult]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "fake")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    return look_up


@pytest.mark.parametrize(
    ("url", "addresses", "private", "detail"),
    [
        ("https://example.org/x", ["8.8.8.8"], False, None),
        ("https://8.8.8.8/x", [], False, None),
        ("https://example.org/x", ["8.8.8.8", "10.0.0.1"], False, NOT_PUBLIC),
        ("https://example.org/x", ["64:ff9b::7f00:1"], False, NOT_PUBLIC),
        ("https://example.org/x", ["10.0.0.1"], True, None),
        ("https://10.0.0.1/x", [], True, None),
        ("https://example.org/x", [], False, "the url names a host that is not known"),
        ("https://example.org/x", [], True, "the url names a host that is not known"),
        ("https://127.1/x", [], True, ODD),
        ("https://me@8.8.8.8/x", [], False, "the url must not hold a user or password"),
        ("https://:pw@8.8.8.8/x", [], True, "the url must not hold a user or password"),
    ],
)
async def test_a_name_is_resolved_at_once(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    addresses: list[str],
    private: bool,
    detail: str | None,
) -> None:
    monkeypatch.setattr(outside, "look_up", resolving(*addresses))
    if detail is None:
        await outside.require_reachable(url, private)
        return
    with pytest.raises(InvalidRequest) as told:
        await outside.require_reachable(url, private)
    assert told.value.detail == detail


async def test_the_systems_own_resolver_is_asked() -> None:
    with pytest.raises(InvalidRequest, match="not public"):
        await outside.require_reachable("http://localhost/", private=False)
    await outside.require_reachable("http://localhost/", private=True)
    with pytest.raises(InvalidRequest, match="names a host that is not known"):
        await outside.require_reachable(f"http://{'x' * 64}.org/", private=False)


async def test_name_servers_that_do_not_answer_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def hanging(host: str, port: int, family: int) -> list[ResolveResult]:
        answered.wait()
        return []

    monkeypatch.setattr(outside, "look_up", hanging)
    monkeypatch.setattr(outside, "LOOKUP_S", 0.01)
    try:
        with pytest.raises(InvalidRequest, match=r"host was not found within 0\.01 s"):
            await outside.require_reachable("http://example.org/", private=False)
    finally:
        answered.set()


class FakeInside:
    """A service on this machine that counts who connects, and what it is asked."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")
        writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[FakeInside]:
    fake = FakeInside()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    yield fake
    server.close()
    await server.wait_closed()


async def read(url: str, private: bool) -> bytes:
    async with (
        aiohttp.ClientSession(connector=outside.connector(private)) as session,
        session.get(url) as response,
    ):
        return await response.read()


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", []),
        ("[::ffff:127.0.0.1]", []),
        ("localhost", ["127.0.0.1"]),
        ("rebound.example", ["127.0.0.1"]),
        ("rebound.example", ["8.8.8.8", "127.0.0.1"]),
    ],
)
async def test_no_connection_is_made_to_what_is_not_public(
    monkeypatch: pytest.MonkeyPatch, inside: FakeInside, host: str, addresses: list[str]
) -> None:
    monkeypatch.setattr(outside, "look_up", resolving(*addresses))
    with pytest.raises(InvalidRequest, match="leads to an address that is not public"):
        await read(f"http://{host}:{inside.port}/", private=False)
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.example"])
async def test_a_connection_is_made_where_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, inside: FakeInside, host: str
) -> None:
    monkeypatch.setattr(outside, "look_up", resolving("127.0.0.1"))
    assert await read(f"http://{host}:{inside.port}/", private=True) == b"secret"
    assert inside.connections == 1


@pytest.fixture
async def pictures(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestServer]:
    """Pictures at 127.0.0.1, which here, and alone, counts as public."""

    async def answer(request: web.Request) -> web.Response:
        if (target := request.query.get("to")) is not None:
            raise web.HTTPFound(target)
        return web.Response(body=b"picture", status=int(request.query.get("status", 200)))

    monkeypatch.setattr(outside, "is_public", lambda address: str(address) == "127.0.0.1")
    app = web.Application()
    app.router.add_get("/", answer)
    server = TestServer(app, host="127.0.0.1")
    async with server:
        yield server


async def test_a_picture_is_fetched(pictures: TestServer) -> None:
    fetch = url_fetcher(True)
    url = str(pictures.make_url("/"))
    assert await fetch(url, 7) == b"picture"
    assert await fetch(f"{url}?to=/", 7) == b"picture"
    with pytest.raises(ImageTooLarge, match="an image may have 6 bytes"):
        await fetch(url, 6)
    with pytest.raises(InvalidRequest, match="the image url answered 404"):
        await fetch(f"{url}?status=404", 7)
    with pytest.raises(InvalidRequest, match="redirects more than 3 times"):
        await fetch(f"{url}?to=/?to=/?to=/?to=/?to=/", 7)


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://localhost/"])
async def test_a_picture_elsewhere_is_not(
    pictures: TestServer, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(outside, "look_up", resolving("10.0.0.1"))
    with pytest.raises(InvalidRequest) as told:
        await url_fetcher(True)(f"{pictures.make_url('/')}?to={target}", 7)
    assert told.value.detail == "the image url leads to an address that is not public"


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
    ],
)
async def test_where_machines_tell_of_themselves_nobody_goes(host: str) -> None:
    """Not even where private addresses are allowed."""
    with pytest.raises(InvalidRequest, match="not allowed"):
        await outside.require_reachable(f"http://{host}/", private=True)
    with pytest.raises(InvalidRequest, match="not allowed"):
        await read(f"http://{host}/", private=True)


@pytest.mark.parametrize("host", ["10.1.2.3", "127.0.0.1", "[::1]", "[fd12::1]", "93.184.216.34"])
async def test_private_networks_are_reached_where_they_are_allowed(host: str) -> None:
    await outside.require_reachable(f"http://{host}/", private=True)
