"""The old systems' wire formats, one file each; translation and stated policy only."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Mount

from facegraph.api.compat import smartav

DIALECTS = {"smartav": smartav.ROUTES}


def dialect_routes(at_root: Iterable[str]) -> list[BaseRoute]:
    """Every dialect under ``/compat/<dialect>``, the named ones at ``/`` too."""
    mounted: list[BaseRoute] = [
        Mount(f"/compat/{name}", routes=routes) for name, routes in DIALECTS.items()
    ]
    return mounted + [route for name in at_root for route in DIALECTS[name]]
