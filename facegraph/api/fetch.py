"""Images by URL, for operators who turn it on: public addresses only, redirects included."""

from __future__ import annotations

import aiohttp
from yarl import URL

from facegraph import outside
from facegraph.api.parsing import FetchUrl
from facegraph.errors import ImageTooLarge, InvalidRequest

TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
WHAT = "image url"


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
    connector = outside.connector(private=False, what=WHAT)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return await _follow(session, url, limit)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise InvalidRequest(f"the image url cannot be fetched: {error}") from None


async def _follow(session: aiohttp.ClientSession, url: str, limit: int) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        outside.require_public_url(url, WHAT)
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
