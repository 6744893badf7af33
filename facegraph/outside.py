"""Addresses that a client names: on the open internet only, unless the operator allows others.

They are checked where the connection is made, in the resolver and again as the socket is, so a
name that resolves differently a second time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from facegraph.errors import InvalidRequest

MAX_URL = 8192
LOOKUP_S = 5.0

_LOOKUPS = ThreadPoolExecutor(8, thread_name_prefix="lookup")
"""Of their own: a name server that does not answer keeps a thread for half a minute."""

_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CLOUDS = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))
"""Where Oracle's and Azure's machines ask about themselves: public by the registry only."""
_AWS = ipaddress.IPv6Address("fd00:ec2::254")
"""Where Amazon's do, over IPv6."""


def require_public_url(url: str, what: str = "url") -> None:
    """InvalidRequest unless ``url`` is http(s) and names a host, or an address that is public."""
    parts = _parse(url, what)
    address = _literal(parts, what)
    if address is not None:
        _require(address, False, what)


async def require_reachable(url: str, private: bool, what: str = "url") -> None:
    """Resolves the name now, so that who gave ``url`` learns at once that it leads nowhere.

    Raises InvalidRequest, for a name and password in it too: it is kept, and shown.
    """
    parts = _parse(url, what)
    if parts.user is not None or parts.password is not None:
        raise InvalidRequest(f"the {what} must not hold a user or password")
    address = _literal(parts, what)
    if address is None:
        await _resolve_now(parts, private, what)
    else:
        _require(address, private, what)


def connector(private: bool, what: str = "url") -> aiohttp.TCPConnector:
    """Connects to public addresses, and where ``private`` to the networks around, too.

    Never to where a machine or its cloud tells of itself. InvalidRequest.
    """
    return aiohttp.TCPConnector(
        resolver=_Resolver(private, what),
        socket_factory=partial(_socket, private, what),
        force_close=True,
    )


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it belongs to the open internet, also where it is IPv4 written as IPv6."""
    if isinstance(address, IPv4Address):
        inside = any(address in network for network in _CLOUDS)
        return address.is_global and not address.is_multicast and not inside
    if (embedded := _embedded(address)) is not None:
        return is_public(embedded)
    return address in _UNICAST and address.is_global


def look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    """What a name resolves to; blocks for as long as name servers take. OSError, UnicodeError."""
    found = socket.getaddrinfo(
        host, port, socket.AddressFamily(family), socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0],
            port=port,
            family=its_family,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for its_family, _, proto, _, address in found
    ]


def _parse(url: str, what: str) -> URL:
    if len(url) > MAX_URL:
        raise InvalidRequest(f"the {what} may have {MAX_URL} characters")
    try:
        parts = URL(url)
    except ValueError:
        raise InvalidRequest(f"the {what} is not a url") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidRequest(f"the {what} must be http or https, and name a host")
    return parts


def _literal(parts: URL, what: str) -> IPv4Address | IPv6Address | None:
    """The address that stands in a URL; None for a name, which the resolver checks.

    The system would take `2130706433`, `0x7f.1` and `0177.0.0.1` for addresses, too.
    """
    host = parts.raw_host or ""
    try:
        return _address(host)
    except ValueError:
        pass
    try:
        socket.inet_aton(host)
    except OSError:
        return None
    raise InvalidRequest(f"the {what} has an address that is not four decimal numbers")


def _address(host: str) -> IPv4Address | IPv6Address:
    return ipaddress.ip_address(host.partition("%")[0])  # without the interface it is on


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that is reached by way of an IPv6 one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _require(address: IPv4Address | IPv6Address, private: bool, what: str) -> None:
    if is_public(address) or (private and not _tells_of_itself(address)):
        return
    kind = "allowed" if private else "public"
    raise InvalidRequest(f"the {what} leads to an address that is not {kind}")


def _tells_of_itself(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is link-local, as the metadata of most clouds are, or of no host."""
    if isinstance(address, IPv6Address) and (embedded := _embedded(address)) is not None:
        return _tells_of_itself(embedded)
    inside = isinstance(address, IPv4Address) and any(address in cloud for cloud in _CLOUDS)
    nobody = address.is_link_local or address.is_multicast or address.is_unspecified
    return inside or nobody or address == _AWS


async def _resolve_now(parts: URL, private: bool, what: str) -> None:
    try:
        async with asyncio.timeout(LOOKUP_S):
            await _Resolver(private, what).resolve(
                parts.raw_host or "", parts.port or 0, socket.AF_UNSPEC
            )
    except TimeoutError:
        raise InvalidRequest(f"the {what}'s host was not found within {LOOKUP_S:g} s") from None
    except (OSError, UnicodeError):
        raise InvalidRequest(f"the {what} names a host that is not known") from None


def _socket(private: bool, what: str, info: aiohttp.AddrInfoType) -> socket.socket:
    """aiohttp asks no resolver for addresses that stand in a URL; this it always asks."""
    family, kind, proto, _, address = info
    _require(_address(str(address[0])), private, what)
    return socket.socket(family, kind, proto)


class _Resolver(AbstractResolver):
    def __init__(self, private: bool, what: str) -> None:
        self._private = private
        self._what = what

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(_LOOKUPS, look_up, host, port, family)
        for entry in found:
            _require(_address(entry["host"]), self._private, self._what)
        return found

    async def close(self) -> None:
        """There is nothing to close."""
