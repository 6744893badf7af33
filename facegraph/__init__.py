"""Facegraph: who is in a picture, what happens in it, what is where."""

__version__ = "0.1.0"
