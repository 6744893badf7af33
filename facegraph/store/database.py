"""Which database the settings name, and a store over it; what every process calls."""

from __future__ import annotations

import asyncio
import logging

from facegraph.config import Settings
from facegraph.errors import DatabaseError, StoreUnavailable
from facegraph.store.opening import Opening
from facegraph.store.server import EmbeddedServer
from facegraph.store.store import Store

log = logging.getLogger(__name__)


def open_store(settings: Settings) -> Opening[Store]:
    """The store of ``settings``: await it and close it, or use ``async with``.

    An external server where ``database_url`` names one; else the embedded one, which is started
    if need be, kept running while the store is open, and started again should it be killed.
    DatabaseError.
    """

    async def opened() -> Store:
        if settings.database_url is not None:
            return await Store.open(settings.database_url, pool_size=settings.database_pool_size)
        return await _open_embedded(settings)

    return Opening(opened)


async def read_choice(settings: Settings, name: str, configured: str) -> str | None:
    """As :meth:`Store.choice`, for a process that keeps no store; None where none is reached."""
    try:
        async with open_store(settings) as store:
            return await store.choice(name, configured)
    except (DatabaseError, StoreUnavailable) as error:
        log.warning("going on with what is configured: %s", error)
        return None


async def _open_embedded(settings: Settings) -> Store:
    server = EmbeddedServer(settings.data_path)

    async def heal() -> None:
        await asyncio.to_thread(server.ensure_running)

    async def release() -> None:
        await asyncio.to_thread(server.release)

    try:
        url = await asyncio.to_thread(server.hold)
        return await Store.open(
            url, pool_size=settings.database_pool_size, on_unavailable=heal, on_close=release
        )
    except BaseException:
        await release()
        raise
