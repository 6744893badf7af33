"""What is asked of a build: the parameters of its job."""

from __future__ import annotations

from dataclasses import dataclass

from facegraph.bulk.patterns import PATTERN
from facegraph.service import FacePolicy
from facegraph.store.recognizer_rows import KIND

RECOGNIZER = KIND
"""The kind of job."""

GENERATIONS = (1, 100)
POPULATION = (4, 200)
SEED = (0, 2**31 - 1)
MAX_LABEL = 128


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Of one build; it is the job's ``params`` as JSON.

    contract_id: of the embeddings it is for; a worker with another pack refuses the job
    collection_id: whose samples it is built from; None: the job's input
    labelled: the input is what :mod:`facegraph.recognizers.pictures` wrote; else an archive or
        table as bulk enrolment reads it, with ``pattern``
    threshold: the recognizer's own, already settled when the job is made
    time_budget_s: of the search; what it found until then counts
    min_pictures: a label with fewer is left out
    max_pictures, max_classes, max_image_bytes: limits in force when the job was made
    """

    contract_id: str
    threshold: float
    collection_id: str | None = None
    labelled: bool = False
    pattern: str = PATTERN
    optimize: bool = True
    generations: int = 8
    population: int = 12
    seed: int = 0
    time_budget_s: float = 300.0
    face: FacePolicy = "only"
    min_quality: float | None = None
    min_pictures: int = 2
    max_pictures: int = 2000
    max_classes: int = 1000
    max_image_bytes: int = 16 * 2**20
