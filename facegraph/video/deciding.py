"""Who a track shows: one decision per track, and which unknown tracks show the same stranger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegraph.service import Identified, Service
from facegraph.types import FloatArray, Match
from facegraph.video.tracks import Track

TRACKS_PER_SEARCH = 32
"""So many tracks' shots are searched with one call."""

LIKENESS = 1.15
"""How similar two tracks of strangers must be to count as one person's, in parts of the threshold:
blurred and dark faces resemble each other."""


@dataclass(frozen=True, slots=True)
class Decided:
    """``verdicts[i]`` is the decision about track i; the newest searched at ``version``."""

    version: int
    threshold: float
    verdicts: tuple[Identified, ...]


async def decide_tracks(
    service: Service,
    collection_id: str,
    tracks: Sequence[Track],
    *,
    threshold: float | None,
    limit: int,
) -> Decided:
    """Searches each track's best shots and their mean, and decides once per track.

    Without tracks, too, the collection is asked for: CollectionNotFound, ContractMismatch.
    """
    dimension = service.contract.dimension
    verdicts: list[Identified] = []
    version, bar = 0, 0.0
    for start in range(0, max(len(tracks), 1), TRACKS_PER_SEARCH):
        part = tracks[start : start + TRACKS_PER_SEARCH]
        rows = [np.stack([t.mean(), *(shot.embedding for shot in t.shots)]) for t in part]
        found = await service.identify(
            collection_id,
            np.concatenate([np.zeros((0, dimension), np.float32), *rows]),
            limit=max(limit, 2),
            threshold=threshold,
        )
        version, bar = max(version, found.version), found.threshold
        probes = iter(found.probes)
        for row in rows:
            mean, *shots = [next(probes) for _ in row]
            verdict = agreed(mean, shots)
            verdicts.append(Identified(verdict.decision, verdict.matches[:limit]))
    return Decided(version, bar, tuple(verdicts))


def agreed(mean: Identified, shots: Sequence[Identified]) -> Identified:
    """The decision about a track from those about its best shots and about their mean.

    The mean of several pictures is more similar to everybody than one picture is, so it names
    nobody on its own: `match` needs half of the shots, too, to come up with the same subject.
    Where two subjects are matched, by whichever shot, it is `ambiguous`.
    """
    claims = {probe.matches[0].subject_id for probe in (mean, *shots) if probe.decision == "match"}
    if len(claims) > 1:
        return Identified("ambiguous", _best([mean, *shots]))
    if mean.decision != "match":
        return mean
    (subject,) = claims
    backing = sum(bool(shot.matches) and shot.matches[0].subject_id == subject for shot in shots)
    if 2 * backing < len(shots):
        return Identified("unknown", ())
    return mean


def same_stranger(tracks: Sequence[Track], threshold: float) -> list[int]:
    """Which tracks show one person: equal numbers, from 0 in the order of the tracks.

    Tracks go together when the shots of any two of them are similar on average by more than
    ``threshold`` asks of two pictures, and no two are seen at the same time: one person has one
    face. The clusters are those of complete linkage.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    if len(tracks) < 2:
        return [0] * len(tracks)
    apart = 1 - _average_similarities(tracks)
    starts = np.array([track.start_s for track in tracks])
    ends = np.array([track.last_s for track in tracks])
    together = (starts[:, None] <= ends[None]) & (starts[None] <= ends[:, None])
    apart[together] = 3.0  # farther than any two faces
    np.fill_diagonal(apart, 0)
    farthest = 1 - LIKENESS * threshold
    clusters = fcluster(linkage(squareform(apart), "complete"), farthest, "distance")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(cluster), len(numbers)) for cluster in clusters]


def _average_similarities(tracks: Sequence[Track]) -> FloatArray:
    """Cosine of the shots of every two tracks, averaged over all pairs of shots: (n, n)."""
    means = np.stack([np.mean([s.embedding for s in t.shots], axis=0) for t in tracks])
    similarities = means @ means.T
    symmetric: FloatArray = (similarities + similarities.T) / 2
    return symmetric


def _best(probes: Sequence[Identified]) -> tuple[Match, ...]:
    """Every subject of ``probes`` once, with its best match."""
    best: dict[str, Match] = {}
    for match in sorted(
        (match for probe in probes for match in probe.matches),
        key=lambda match: (-match.similarity, match.subject_id),
    ):
        best.setdefault(match.subject_id, match)
    return tuple(best.values())
