"""Where smartav_api and face_recognition_v2 differ, over the one collection ``default``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COLLECTION = "default"


@dataclass(frozen=True, slots=True)
class Policy:
    """What one of the two does in its own way.

    prefix: before the paths of config-database, clear-samples and update-samples
    enrol: what becomes of an id that exists
    strangers: whether a face nobody matches is enrolled and answered, or left out
    invalid_update: the status of an update-samples that cannot be read
    no_face: the sentence for a probe without a face
    empty_gallery: the sentence for a probe where nobody is enrolled; None is no failure
    """

    prefix: str
    enrol: Literal["append", "replace"]
    strangers: Literal["enrol", "omit"]
    invalid_update: int
    no_face: str
    empty_gallery: str | None
