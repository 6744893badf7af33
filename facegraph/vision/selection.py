"""Narrowing a segmentation to what other options would have answered."""

from __future__ import annotations

from facegraph.types import Segmentation, SegmentOptions


def select(segmentation: Segmentation, options: SegmentOptions) -> Segmentation:
    """The rows that ``options`` ask for, of a segmentation made with wider ones.

    Exact, because a segmenter lets no object suppress a better-scored one.
    """
    above = int((segmentation.scores > options.score_threshold).sum())
    kept = min(above, options.top_k)
    return Segmentation(
        segmentation.width,
        segmentation.height,
        segmentation.labels[:kept],
        segmentation.scores[:kept],
        segmentation.boxes[:kept],
        segmentation.masks[:kept],
        segmentation.model,
    )
