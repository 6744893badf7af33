"""Images by URL, for operators who turn it on: public addresses only, redirects included.

The address is checked where the connection is made, by the resolver itself, so a name that
resolves differently a second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from facegraph.api.parsing import FetchUrl
from facegraph.errors import ImageTooLarge, InvalidRequest

TIMEOUT_S = 10.0
MAX_REDIRECTS = 3


def url_fetcher(enabled: bool) -> FetchUrl:
    """The fetcher in force: the real one, or one that refuses."""
    return fetch_public if enabled else _refuse


async def _refuse(url: str, limit: int) -> bytes:
    raise InvalidRequest("images by url are turned off here; send the picture itself")


async def fetch_public(url: str, limit: int) -> bytes:
    """The body behind an http(s) ``url``, at most ``limit`` bytes.

    Raises InvalidRequest for another scheme, a private address, a failure or a status other
    than 200, and ImageTooLarge past the limit.
    """
    connector = aiohttp.TCPConnector(resolver=_PublicResolver(), force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return await _follow(session, url, limit)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise InvalidRequest(f"the image url cannot be fetched: {error}") from None


async def _follow(session: aiohttp.ClientSession, url: str, limit: int) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        _require_public_literal(url)
        async with session.get(url, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308):
                url = str(response.url.join(URL(response.headers.get("location", ""))))
                continue
            if response.status != 200:
                raise InvalidRequest(f"the image url answered {response.status}")
            body = await response.content.read(limit + 1)
            while len(body) <= limit and (more := await response.content.read(limit + 1)):
                body += more
            if len(body) > limit:
                raise ImageTooLarge(f"an image may have {limit} bytes")
            return body
    raise InvalidRequest(f"the image url redirects more than {MAX_REDIRECTS} times")


def _require_public_literal(url: str) -> None:
    """aiohttp does not ask the resolver for literal addresses, so they are checked here."""
    parts = URL(url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidRequest("an image url must be http or https")
    try:
        address = ipaddress.ip_address(parts.host)
    except ValueError:
        return  # a name: the resolver checks what it resolves to
    _require_public(address)


def _require_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None) or address
    if not mapped.is_global or mapped.is_multicast:
        raise InvalidRequest("the image url leads to an address that is not public")


class _PublicResolver(AbstractResolver):
    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for entry in found:
            _require_public(ipaddress.ip_address(entry["host"]))
        return found

    async def close(self) -> None:
        await self._resolver.close()
