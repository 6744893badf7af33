"""One decision per track, one label per stranger, one timeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facegraph.service import Identified
from facegraph.types import Decision, FloatArray, Match
from facegraph.video.deciding import LIKENESS, agreed, same_stranger
from facegraph.video.timeline import label, people, track_answer
from facegraph.video.tracks import Sighting, Track
from tests.fake_graph import embedding_of

pytestmark = pytest.mark.unit

THRESHOLD = 0.36
BOX = np.array([10, 20, 30, 50], np.float32)


def match(subject: str, similarity: float) -> Match:
    return Match(subject, f"{subject}-1", similarity, subject.title(), {"of": subject})


def probe(decision: Decision, **similarities: float) -> Identified:
    """What the gallery says of one picture: a=0.5 is subject a at 0.5, best first."""
    return Identified(decision, tuple(match(name, value) for name, value in similarities.items()))


NOBODY = probe("unknown")
ANNA = probe("match", a=0.5)
BERT = probe("match", b=0.6)


@pytest.mark.parametrize(
    ("mean", "shots", "decision", "subjects"),
    [
        (ANNA, [ANNA], "match", ["a"]),  # one shot, the same as the mean
        (ANNA, [ANNA, NOBODY], "match", ["a"]),  # half of them
        (ANNA, [ANNA, NOBODY, NOBODY], "unknown", []),  # a mean is like everybody
        (ANNA, [NOBODY], "unknown", []),  # the mean alone names nobody
        (NOBODY, [ANNA, NOBODY], "unknown", []),  # nor does a shot alone
        (ANNA, [ANNA, ANNA, BERT], "ambiguous", ["b", "a"]),  # the shots disagree
        (NOBODY, [ANNA, BERT], "ambiguous", ["b", "a"]),  # and the mean is nobody
        (ANNA, [BERT, BERT], "ambiguous", ["b", "a"]),  # the mean is somebody else
        (probe("ambiguous", a=0.5, b=0.49), [ANNA], "ambiguous", ["a", "b"]),  # twins
        (ANNA, [probe("ambiguous", a=0.5, b=0.49)], "match", ["a"]),  # the mean can tell
        (ANNA, [probe("ambiguous", b=0.5, a=0.49)], "unknown", []),  # not the same best
    ],
)
def test_agreed(
    mean: Identified, shots: list[Identified], decision: Decision, subjects: list[str]
) -> None:
    verdict = agreed(mean, shots)
    assert verdict.decision == decision
    assert [match.subject_id for match in verdict.matches] == subjects


def alike(person: int, cosine: float) -> FloatArray:
    """An embedding that resembles ``person`` by ``cosine`` and nobody else."""
    one, two = (embedding_of(n, 128).astype(np.float64) for n in (person, person + 100))
    two -= one * (one @ two)
    mixed = cosine * one + np.sqrt(1 - cosine**2) * two / np.linalg.norm(two)
    return np.asarray(mixed, np.float32)


def track(
    number: int, start_s: float, last_s: float, *embeddings: FloatArray, person: int = 1
) -> Track:
    shots = [Sighting(start_s, BOX, e, 0.5) for e in embeddings or (embedding_of(person, 128),)]
    made = Track(number, start_s, shots[0], most_shots=5)
    made.shots = shots
    made.last = Sighting(last_s, BOX, shots[-1].embedding, 0.5)
    return made


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ([], []),
        ([track(1, 0, 1)], [0]),
        ([track(1, 0, 1), track(2, 2, 3)], [0, 0]),  # gone and back
        ([track(1, 0, 1), track(2, 1, 3)], [0, 1]),  # seen at the same time
        ([track(1, 0, 1), track(2, 2, 3, person=2), track(3, 4, 5)], [0, 1, 0]),
        ([track(1, 0, 1), track(2, 2, 3, alike(1, LIKENESS * THRESHOLD + 0.01))], [0, 0]),
        (
            [track(1, 0, 1), track(2, 2, 3, alike(1, LIKENESS * THRESHOLD - 0.01))],
            [0, 1],
        ),  # like two pictures of one person, but two tracks must be more so
        (
            [track(1, 0, 1), track(2, 2, 3, alike(1, 0.9), alike(1, 0.0), alike(1, 0.0))],
            [0, 1],
        ),  # one shot alike, the others not
    ],
)
def test_same_stranger(tracks: list[Track], expected: list[int]) -> None:
    assert same_stranger(tracks, THRESHOLD) == expected


def timeline(tracks: list[Track], verdicts: list[Identified]) -> list[dict[str, Any]]:
    seen = label(tracks, verdicts, threshold=THRESHOLD, period_s=0.2, duration_s=9.1)
    return people(seen, 1.0)


def test_people_in_order_of_appearance() -> None:
    tracks = [
        track(1, 0, 1, person=7),
        track(2, 0.4, 2, person=1),
        track(3, 3.2, 4, person=1),  # a second after track 2
        track(4, 5.21, 6, person=1),  # more than a second after track 3
        track(5, 8, 9, person=7),
        track(6, 8, 9, person=9),
    ]
    twins = probe("ambiguous", a=0.5, b=0.49)
    anna, nobody = timeline(tracks[1:2], [ANNA])[0], NOBODY
    assert (anna["subject_id"], anna["name"], anna["metadata"]) == ("a", "A", {"of": "a"})
    answer = timeline(tracks, [nobody, ANNA, ANNA, ANNA, nobody, twins])
    assert [(p["label"], p["decision"], p["subject_id"], p["seconds"]) for p in answer] == [
        ("unknown-1", "unknown", None, 2.3),  # 1.2 s and 1.1 s: the video ends
        ("a", "match", "a", 4.79),
        ("ambiguous-1", "ambiguous", None, 1.1),
    ]
    assert answer[1]["appearances"] == [
        {"start_s": 0.4, "end_s": 4.2, "tracks": [2, 3]},
        {"start_s": 5.21, "end_s": 6.2, "tracks": [4]},
    ]


def test_an_ambiguous_track_tells_its_subjects() -> None:
    (seen,) = label(
        [track(1, 0, 1)],
        [probe("ambiguous", a=0.5, b=0.49)],
        threshold=THRESHOLD,
        period_s=0.2,
        duration_s=9,
    )
    answer = track_answer(seen)
    assert (answer["track"], answer["faces"], answer["end_s"]) == (1, 1, 1.2)
    assert [(m["subject_id"], m["similarity"]) for m in answer["matches"]] == [
        ("a", 0.5),
        ("b", 0.49),
    ]
    bbox = {"x": 10.0, "y": 20.0, "width": 20.0, "height": 30.0}
    assert answer["best_shots"] == [{"time_s": 0, "bbox": bbox, "quality": 0.5}]
