"""What smartav_api and face_recognition_v2 have in common: faces over the collection ``default``.

``min_distance`` is a similarity that a match must exceed, by default the face pack's calibrated
threshold. Samples take the largest face. Where the two differ stands in a :class:`Policy`.
"""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from facegraph.api.compat.recognition.administration import clear_samples, config_database
from facegraph.api.compat.recognition.enrolment import update_samples
from facegraph.api.compat.recognition.features import extract_feature
from facegraph.api.compat.recognition.policy import Policy
from facegraph.api.compat.recognition.probing import face_recognition
from facegraph.api.compat.wire import alive

__all__ = ["Policy", "routes"]


def routes(policy: Policy) -> list[Route]:
    """The shared endpoints under ``policy``. HEAD, unlike the old GET, changes nothing."""
    config, clear, update = (
        f"{policy.prefix}/{name}" for name in ("config-database", "clear-samples", "update-samples")
    )
    return [
        Route(config, alive("Config database is running."), methods=["HEAD"]),
        Route(config, config_database, methods=["GET", "POST"]),
        Route(clear, alive("Clear samples is running."), methods=["HEAD"]),
        Route(clear, clear_samples, methods=["GET", "POST"]),
        Route(update, partial(update_samples, policy), methods=["POST"]),
        Route(update, alive("Update samples is running.")),
        Route("/face-recognition", partial(face_recognition, policy), methods=["POST"]),
        Route("/face-recognition", alive("Face recognition is running.")),
        Route("/extract_feature", extract_feature, methods=["POST"]),
    ]
