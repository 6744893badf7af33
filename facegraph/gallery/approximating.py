"""Makes a base's approximate index and measures it."""

from __future__ import annotations

from collections.abc import Callable

from facegraph.gallery.approximate import Approximate
from facegraph.gallery.approximation import Approximation
from facegraph.gallery.base import Base
from facegraph.gallery.gallery import Gallery
from facegraph.gallery.recall import measure_recall, recall_probes
from facegraph.gallery.search import search

_PROBES = 256


def approximated(base: Base, *, threads: int, cancelled: Callable[[], bool]) -> Approximation:
    """An approximate index of ``base``, which has rows, with its recall; BuildCancelled."""
    index = Approximate.build(base.embeddings, threads=threads, cancelled=cancelled)
    gallery = Gallery(base)
    exact, near = gallery.snapshot, gallery.equip(Approximation(index))
    recall = measure_recall(
        lambda probes, limit: search(exact, probes, limit=limit),
        lambda probes, limit: search(near, probes, limit=limit, approximate=True),
        recall_probes(base.embeddings, base.row_subjects, _PROBES),
        cancelled=cancelled,
    )
    return Approximation(index, recall)
