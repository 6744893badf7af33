"""gnosis' wire format: faces, embeddings and names of pictures and of live video."""

from __future__ import annotations

from facegraph.api.compat.gnosis import images, streams

ROUTES = [*images.ROUTES, *streams.ROUTES]
