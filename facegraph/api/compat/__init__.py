"""The old systems' wire formats, one file or folder each; translation and stated policy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from starlette.routing import BaseRoute, Mount

from facegraph.api.compat import face, frv2, gnosis, modelbuilder, smartav

DIALECTS: Mapping[str, Sequence[BaseRoute]] = {
    "smartav": smartav.ROUTES,
    "frv2": frv2.ROUTES,
    "gnosis": gnosis.ROUTES,
    "face": face.ROUTES,
    "modelbuilder": modelbuilder.ROUTES,
}


def dialect_routes(at_root: Iterable[str]) -> list[BaseRoute]:
    """Every dialect under ``/compat/<dialect>``, the named ones at ``/`` too."""
    mounted: list[BaseRoute] = [
        Mount(f"/compat/{name}", routes=routes) for name, routes in DIALECTS.items()
    ]
    return mounted + [route for name in at_root for route in DIALECTS[name]]
