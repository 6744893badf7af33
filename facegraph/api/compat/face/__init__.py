"""face's wire format: frames of videos and analysis of faces, as jsonpickle texts.

Both old ports are this one. A later client posts either to ``/``; there the content decides.
"""

from __future__ import annotations

from starlette.routing import Route

from facegraph.api.compat.face.analysis import face_analysis
from facegraph.api.compat.face.either import either
from facegraph.api.compat.face.frames import extract_frames

ROUTES = [
    Route("/extract-frames", extract_frames, methods=["POST"]),
    Route("/face-analysis", face_analysis, methods=["POST"]),
    Route("/", either, methods=["POST"]),
]
