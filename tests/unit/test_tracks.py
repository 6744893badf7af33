"""Which faces of sampled frames become one track."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegraph.types import FloatArray
from facegraph.video.tracks import SHOT_EVERY_S, Sighting, Track, Tracker
from tests.fake_graph import embedding_of

pytestmark = pytest.mark.unit

PERIOD_S = 0.2
THRESHOLD = 0.36
WIDTH = 50.0
DIMENSION = 128

Face = tuple[int, float]
"""Person and left edge."""


def box(left: float, width: float = WIDTH) -> FloatArray:
    return np.array([left, 100, left + width, 100 + width], np.float32)


def sighting(
    time_s: float, person: int, left: float, quality: float = 0.5, width: float = WIDTH
) -> Sighting:
    return Sighting(time_s, box(left, width), embedding_of(person, DIMENSION), quality)


def between(person: int, other: int, cosine: float) -> FloatArray:
    """An embedding that resembles ``person`` by ``cosine``, and ``other`` for the rest."""
    one, two = (embedding_of(n, DIMENSION).astype(np.float64) for n in (person, other))
    two -= one * (one @ two)
    return np.asarray(cosine * one + np.sqrt(1 - cosine**2) * two / np.linalg.norm(two), np.float32)


def tracker(**options: float) -> Tracker:
    values = {"gap_s": 1.0, "min_track_s": 0.0, "most_tracks": 1000, "most_shots": 5} | options
    return Tracker(
        threshold=THRESHOLD,
        gap_s=values["gap_s"],
        min_track_s=values["min_track_s"],
        period_s=PERIOD_S,
        most_tracks=int(values["most_tracks"]),
        most_shots=int(values["most_shots"]),
    )


def told(tracks: Sequence[Track]) -> list[tuple[int, int, int, int]]:
    """Person, first and last frame, number of faces; a track of two people fails."""
    people = range(1, 6)
    rows = []
    for track in tracks:
        best = {
            max(people, key=lambda n: float(embedding_of(n, DIMENSION) @ shot.embedding))
            for shot in [*track.shots, track.last]
        }
        (person,) = best
        first, last = round(track.start_s / PERIOD_S), round(track.last_s / PERIOD_S)
        rows.append((person, first, last, track.faces))
    return rows


STAYS = [[(1, 100.0)]] * 3
AWAY: list[list[Face]] = [[]]


@pytest.mark.parametrize(
    ("frames", "cuts", "expected"),
    [
        ([[(1, 100.0), (2, 300.0)]] * 4, (), [(1, 0, 3, 4), (2, 0, 3, 4)]),  # two people sit
        (
            [[(1, 20.0 * i), (2, 200 - 20.0 * i)] for i in range(11)],
            (),
            [(1, 0, 10, 11), (2, 0, 10, 11)],
        ),  # their paths cross
        (
            [[(1, 30.0 * i)] for i in range(4)] + [[(2, 90.0)]] * 3,
            (),
            [(1, 0, 3, 4), (2, 4, 6, 3)],
        ),  # a cut that nobody noticed: another person at the same place
        (STAYS + [[(2, 100.0)]] * 3, (3,), [(1, 0, 2, 3), (2, 3, 5, 3)]),  # a cut
        (STAYS + STAYS, (3,), [(1, 0, 2, 3), (1, 3, 5, 3)]),  # a cut always parts
        (STAYS + AWAY * 4 + STAYS, (), [(1, 0, 9, 6)]),  # away for exactly the gap
        (STAYS + AWAY * 5 + STAYS, (), [(1, 0, 2, 3), (1, 8, 10, 3)]),  # away for longer
        (
            STAYS + AWAY * 2 + [[(2, 100.0)]] * 3,
            (),
            [(1, 0, 2, 3), (2, 5, 7, 3)],
        ),  # one leaves, another takes the place
        (
            STAYS + [[(1, 600.0)]] * 3,
            (),
            [(1, 0, 2, 3), (1, 3, 5, 3)],
        ),  # nobody jumps by ten widths
        (
            [[(1, 100.0)], [(2, 100.0), (1, 130.0)], [(1, 160.0), (2, 100.0)]],
            (),
            [(1, 0, 2, 3), (2, 1, 2, 2)],
        ),  # one steps aside, another stands where the first was
    ],
    ids=str,
)
def test_tracks(
    frames: list[list[Face]], cuts: tuple[int, ...], expected: list[tuple[int, int, int, int]]
) -> None:
    following = tracker()
    for at, faces in enumerate(frames):
        time_s = at * PERIOD_S
        following.see(time_s, [sighting(time_s, *face) for face in faces], cut=at in cuts)
    assert told(following.finish()) == expected


@pytest.mark.parametrize(
    ("cosine", "moved", "later_s", "tracks"),
    [
        (0.30, 5, 0.2, 1),  # turned away, at its place
        (0.25, 5, 0.2, 2),  # at its place, but no more alike than two people
        (0.30, 5, 0.4, 2),  # turned away and unseen for a frame: it could be anybody
        (0.37, 5, 0.4, 1),  # unseen for a frame, but alike
        (0.37, 48, 0.2, 1),  # ran on by a width
        (0.30, 48, 0.2, 2),  # somebody beside
    ],
)
def test_how_alike_a_face_must_be(cosine: float, moved: float, later_s: float, tracks: int) -> None:
    following = tracker()
    following.see(0, [sighting(0, 1, 100)], cut=False)
    turned = Sighting(later_s, box(100 + moved), between(1, 9, cosine), 0.5)
    following.see(later_s, [turned], cut=False)
    assert len(following.finish()) == tracks


def test_a_close_up_is_another_track() -> None:
    following = tracker()
    following.see(0, [sighting(0, 1, 100)], cut=False)
    following.see(PERIOD_S, [sighting(PERIOD_S, 1, 70, width=2.2 * WIDTH)], cut=False)
    assert [track.faces for track in following.finish()] == [1, 1]


def test_glimpses_are_left_out() -> None:
    following = tracker(min_track_s=2 * PERIOD_S)
    following.see(0, [sighting(0, 1, 100), sighting(0, 2, 300)], cut=False)
    following.see(PERIOD_S, [sighting(PERIOD_S, 2, 300)], cut=False)
    assert told(following.finish()) == [(2, 0, 1, 2)]


def test_of_too_many_tracks_the_shortest_go() -> None:
    following = tracker(most_tracks=2)
    for at in range(4):
        people = [p for p in (1, 2, 3, 4) if at < p]  # person n is seen n times
        seen = [sighting(at * PERIOD_S, p, 200.0 * p) for p in people]
        following.see(at * PERIOD_S, seen, cut=False)
    assert [person for person, *_ in told(following.finish())] == [3, 4]
    assert following.left_out == 2


@pytest.mark.parametrize(
    ("period_s", "gap_s", "away", "faces"),
    [
        (1.0, 1.0, 1, [6]),  # frames that lie a little more than the gap apart
        (2.0, 1.0, 1, [6]),  # seldom looked at
        (0.2, 0.0, 1, [6]),  # no gap at all: it was never away
        (1.0, 1.0, 2, [1] * 6),  # missing in every other frame
    ],
)
def test_a_face_in_every_frame_was_never_away(
    period_s: float, gap_s: float, away: int, faces: list[int]
) -> None:
    following = Tracker(
        threshold=THRESHOLD,
        gap_s=gap_s,
        min_track_s=0.0,
        period_s=period_s,
        most_tracks=1000,
        most_shots=5,
    )
    for at in range(6):
        time_s = at * away * period_s * 1.001  # 23.976 frames a second, for example
        following.see(time_s, [sighting(time_s, 1, 100)], cut=False)
    assert [track.faces for track in following.finish()] == faces


def test_faces_that_are_waited_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegraph.video.tracks.FOLLOWED", 2)
    following = tracker(gap_s=60)
    for at, person in enumerate((1, 2, 3, 2, 1)):  # the third ends the first
        following.see(at * PERIOD_S, [sighting(at * PERIOD_S, person, 100)], cut=False)
    assert told(following.finish()) == [(1, 0, 0, 1), (2, 1, 3, 2), (3, 2, 2, 1), (1, 4, 4, 1)]


def test_a_face_without_an_embedding_resembles_nobody() -> None:
    following = tracker()
    blank = np.zeros(DIMENSION, np.float32)
    for time_s in (0, PERIOD_S):
        following.see(time_s, [Sighting(time_s, box(100), blank, 0.0)], cut=False)
    tracks = following.finish()
    assert [track.faces for track in tracks] == [1, 1]
    assert not tracks[0].mean().any()


@pytest.mark.parametrize(
    ("quality", "most", "expected"),
    [
        (lambda at: 1 - abs(at - 5) / 10, 1, [5]),  # the best of all
        (lambda at: 1.0, 5, [0, 2, 4, 6, 8]),  # spread
        (lambda at: 0.9 if at in (3, 4) else 0.1, 2, [3, 7]),  # neighbours count once
    ],
    ids=["one", "spread", "neighbours"],
)
def test_best_shots(quality: Callable[[int], float], most: int, expected: list[int]) -> None:
    following = tracker(most_shots=most)
    for at in range(10):
        time_s = at * PERIOD_S
        following.see(time_s, [sighting(time_s, 1, 100, quality(at))], cut=False)
    (track,) = following.finish()
    assert [round(shot.time_s / PERIOD_S) for shot in track.shots] == expected


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 4), st.floats(0, 500), st.floats(0, 1)),
            max_size=4,
            unique_by=lambda face: face[0],
        ),
        max_size=30,
    ),
    st.sets(st.integers(0, 29)),
)
def test_every_face_is_in_one_track(
    frames: list[list[tuple[int, float, float]]], cuts: set[int]
) -> None:
    following = tracker(most_shots=3)
    for at, faces in enumerate(frames):
        seen = [sighting(at * PERIOD_S, *face) for face in faces]
        following.see(at * PERIOD_S, seen, cut=at in cuts)
    tracks = following.finish()
    assert sum(track.faces for track in tracks) == sum(map(len, frames))
    assert [track.number for track in tracks] == list(range(1, len(tracks) + 1))
    assert [track.start_s for track in tracks] == sorted(track.start_s for track in tracks)
    told(tracks)  # nobody shares a track
    for track in tracks:
        times = [shot.time_s for shot in track.shots]
        assert 1 <= len(times) <= min(3, track.faces)
        assert track.start_s <= times[0] <= times[-1] <= track.last_s
        assert all(b - a >= SHOT_EVERY_S - 1e-9 for a, b in pairwise(times))
        assert not any(track.start_s < cut * PERIOD_S <= track.last_s for cut in cuts)
