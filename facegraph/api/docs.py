"""Interactive documentation at /docs, from files that a package brings: no network needed."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}


async def _page(_: Request) -> Response:
    # Addresses are relative, so the page works under any prefix a proxy adds.
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Facegraph API",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )


def _asset(name: str, media_type: str) -> Route:
    path = Path(str(importlib.resources.files("fastapi_offline") / "static" / name))

    async def serve(_: Request) -> Response:
        return FileResponse(path, media_type=media_type)

    return Route(f"/docs/{name}", serve)


ROUTES = [Route("/docs", _page), *(_asset(name, kind) for name, kind in _FILES.items())]
