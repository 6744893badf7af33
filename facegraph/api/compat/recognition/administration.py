"""Moving to another database, and forgetting everybody."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.compat.recognition.policy import COLLECTION
from facegraph.api.compat.wire import is_cross_site, json_of, sentence, state_of
from facegraph.errors import FacegraphError

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


async def config_database(request: Request) -> Response:
    """Moves every replica to another database, or none; from this machine only."""
    if is_cross_site(request) or not _from_loopback(request):
        return sentence("Database configuration is only allowed from this machine.", 403)
    body = await json_of(request)
    given = body if isinstance(body, dict) else {}
    for key in ("host", "db_name", "username", "password"):
        if key not in given:
            return sentence(f'"{key}" is missing.', 400)
    try:
        await state_of(request).service.store.move_to(_database_url(given))
    except FacegraphError as error:
        return sentence(f"Database configuration is failed. {error}", 500)
    return sentence("Database configuration is done.")


async def clear_samples(request: Request) -> Response:
    if is_cross_site(request):
        return JSONResponse({"fail": "not from another site's page"}, 403)
    try:
        await state_of(request).service.store.clear_collection(COLLECTION)
    except FacegraphError as error:
        return JSONResponse({"fail": str(error)}, 500)
    return JSONResponse({"success": "Samples have been removed successfully"})


def _database_url(given: Mapping[str, Any]) -> str:
    user, password, name = (
        quote(str(given[k]), safe="") for k in ("username", "password", "db_name")
    )
    host, port = quote(str(given["host"]), safe=""), given.get("port") or 5432
    return f"postgresql://{user}:{password}@/{name}?host={host}&port={quote(str(port), safe='')}"


def _from_loopback(request: Request) -> bool:
    """Whether the peer, every client a proxy names, and the name it was called by are this machine.

    `facegraph serve` has HAProxy name the client, so a proxy on this machine hides nobody. A page
    in a browser here may have a name that leads here (DNS rebinding), but its own name it is.
    """
    if (request.url.hostname or "").lower() not in _LOCAL_NAMES:
        return False
    hops = [request.client.host if request.client else "unknown"]
    hops += request.headers.get("x-forwarded-for", "").replace(" ", "").split(",")
    try:
        return all(ipaddress.ip_address(hop).is_loopback for hop in hops if hop)
    except ValueError:
        return False
