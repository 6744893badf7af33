"""The answer of a video search as JSON: who is seen from when to when, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from facegraph.service import Identified
from facegraph.types import Match
from facegraph.video.deciding import same_stranger
from facegraph.video.tracks import Sighting, Track


@dataclass(frozen=True, slots=True)
class Seen:
    """A track with its decision.

    end_s: when the face was no longer seen: a period after it was seen last
    label: the subject's id; ``unknown-1``, ``ambiguous-1``, … for the others
    """

    track: Track
    verdict: Identified
    end_s: float
    label: str

    @property
    def match(self) -> Match | None:
        """The subject, where the decision is `match`."""
        return self.verdict.matches[0] if self.verdict.decision == "match" else None


def label(
    tracks: Sequence[Track],
    verdicts: Sequence[Identified],
    *,
    threshold: float,
    period_s: float,
    duration_s: float,
) -> list[Seen]:
    """Every track with its decision and the label that its person has in all tracks."""
    labels: dict[int, str] = {}
    for decision in ("unknown", "ambiguous"):
        others = [t for t, v in zip(tracks, verdicts, strict=True) if v.decision == decision]
        for track, person in zip(others, same_stranger(others, threshold), strict=True):
            labels[track.number] = f"{decision}-{person + 1}"
    return [
        Seen(
            track,
            verdict,
            min(track.last_s + period_s, max(duration_s, track.last_s)),
            labels.get(track.number) or verdict.matches[0].subject_id,
        )
        for track, verdict in zip(tracks, verdicts, strict=True)
    ]


def people(seen: Iterable[Seen], gap_s: float) -> list[dict[str, Any]]:
    """Everybody who is seen, in order of appearance."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in seen:
        groups.setdefault((one.verdict.decision, one.label), []).append(one)
    return [_person(group, gap_s) for group in groups.values()]


def _person(group: Sequence[Seen], gap_s: float) -> dict[str, Any]:
    match = group[0].match
    appearances = _appearances(group, gap_s)
    return {
        "subject_id": match.subject_id if match else None,
        "name": match.name if match else None,
        "metadata": dict(match.metadata) if match else None,
        "label": group[0].label,
        "decision": group[0].verdict.decision,
        "seconds": _seconds(sum(part["end_s"] - part["start_s"] for part in appearances)),
        "appearances": appearances,
    }


def _appearances(group: Sequence[Seen], gap_s: float) -> list[dict[str, Any]]:
    """The group's tracks in order of time; those at most ``gap_s`` apart are one appearance."""
    parts: list[dict[str, Any]] = []
    for one in sorted(group, key=lambda one: (one.track.start_s, one.track.number)):
        if parts and one.track.start_s - parts[-1]["end_s"] <= gap_s:
            parts[-1]["end_s"] = max(parts[-1]["end_s"], _seconds(one.end_s))
            parts[-1]["tracks"].append(one.track.number)
        else:
            start_s, end_s = _seconds(one.track.start_s), _seconds(one.end_s)
            parts.append({"start_s": start_s, "end_s": end_s, "tracks": [one.track.number]})
    return parts


def track_answer(seen: Seen) -> dict[str, Any]:
    return {
        "track": seen.track.number,
        "start_s": _seconds(seen.track.start_s),
        "end_s": _seconds(seen.end_s),
        "faces": seen.track.faces,
        "label": seen.label,
        "decision": seen.verdict.decision,
        "matches": [_match(match) for match in seen.verdict.matches],
        "best_shots": [_shot(shot) for shot in seen.track.shots],
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "subject_id": match.subject_id,
        "name": match.name,
        "metadata": dict(match.metadata),
        "sample_id": match.sample_id,
        "similarity": match.similarity,
    }


def _shot(shot: Sighting) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in shot.box)
    return {
        "time_s": _seconds(shot.time_s),
        "bbox": {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1},
        "quality": shot.quality,
    }


def _seconds(time_s: float) -> float:
    return round(time_s, 3)
