"""Exact in-memory search over a collection's samples; a disposable projection of the store."""

from facegraph.gallery.base import Base
from facegraph.gallery.gallery import Gallery
from facegraph.gallery.layout import DamagedGallery
from facegraph.gallery.search import search
from facegraph.gallery.snapshot import Snapshot

__all__ = ["Base", "DamagedGallery", "Gallery", "Snapshot", "search"]
