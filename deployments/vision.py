"""The place of captioning and segmentation in the graph, until there are models for them.

No deployment exists without a model: a replica that can only refuse would still cost a process.
``Captioner`` and ``Segmenter`` will be deployments here, and ``Vision`` will call their handles.
"""

from __future__ import annotations

from typing import Any

from facegraph.errors import ModelUnavailable


class Vision:
    """Refuses, and says why."""

    async def caption(self, image: bytes) -> dict[str, Any]:
        """One sentence for one compressed image."""
        raise ModelUnavailable("no captioning model is part of this version")

    async def segment(self, image: bytes) -> dict[str, Any]:
        """Instance masks of one compressed image."""
        raise ModelUnavailable("no segmentation model is part of this version")
