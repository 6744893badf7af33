"""The seams between a picture and what describes it; one engine per file beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from facegraph.types import ByteArray, CaptionOptions, Segmentation, SegmentOptions


class Segmenter(Protocol):
    """A loaded instance segmentation model. Synchronous; one thread at a time calls it.

    name: the pack's, answered as ``model``
    best_batch: images in one run beyond which more gain nothing; on a CPU mostly 1
    """

    name: str
    best_batch: int

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        """The objects of each (h, w, 3) uint8 RGB image, under its own options.

        Raises ModelUnavailable where the run fails.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Kind, file, digest, licence, engine, provider, precision; goes into ``/v1/models``."""
        ...


class Captioner(Protocol):
    """A loaded captioning model. Synchronous; one thread at a time calls it."""

    name: str
    best_batch: int

    def caption(self, images: Sequence[ByteArray], options: CaptionOptions) -> list[str]:
        """One sentence for each (h, w, 3) uint8 RGB image.

        Raises InvalidRequest for a prompt that leaves no token of ``max_length`` for a caption,
        ModelUnavailable where the run fails or memory runs out.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """As :meth:`Segmenter.describe`."""
        ...
