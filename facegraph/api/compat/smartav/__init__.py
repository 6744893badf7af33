"""smartav_api's wire format: faces over the collection ``default``, captions, instance masks."""

from __future__ import annotations

from facegraph.api.compat.smartav import faces, vision

ROUTES = [*faces.ROUTES, *vision.ROUTES]
