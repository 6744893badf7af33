"""The index against brute force: same subjects, same order, ties and removals included."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from facegraph.decisions import decide, similarities, similarity
from facegraph.gallery import Base, Gallery, search
from facegraph.types import Change, FloatArray, GalleryRecords, Head, Match, SubjectRecord

DIMENSION = 16


def unit(rows: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def head(version: int) -> Head:
    return Head("one", version, 0, "contract", DIMENSION)


def gallery_of(samples: Iterable[tuple[str, str, FloatArray]]) -> Gallery:
    rows = list(samples)
    subjects = dict.fromkeys(subject for subject, _, _ in rows)
    return Gallery.of(
        GalleryRecords.of(
            head(1),
            [SubjectRecord(name, name.upper(), {}) for name in subjects],
            [(sample, subject, embedding) for subject, sample, embedding in rows],
        )
    )


def brute_force(
    samples: Iterable[tuple[str, str, FloatArray]], probe: FloatArray, limit: int
) -> list[tuple[str, str, float]]:
    """Sorts everything, then keeps each subject's first."""
    ranked = sorted(
        (-similarity(probe, embedding), subject, sample) for subject, sample, embedding in samples
    )
    best: dict[str, tuple[str, str, float]] = {}
    for negative, subject, sample in ranked:
        best.setdefault(subject, (subject, sample, -negative))
    return list(best.values())[:limit]


def answers(gallery: Gallery, probes: FloatArray, limit: int) -> list[list[tuple[str, str, float]]]:
    found = search(gallery.snapshot, probes, limit=limit)
    return [[(m.subject_id, m.sample_id, m.similarity) for m in matches] for matches in found]


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize(
    ("subjects", "per_subject"),
    [
        (1, 1),
        (50, 3),
        (3, 400),  # one subject's samples fill the first candidates
        (900, 1),
    ],
)
def test_search_is_brute_force(subjects: int, per_subject: int, limit: int) -> None:
    rng = np.random.default_rng(subjects * 1000 + per_subject)
    centres = rng.normal(size=(subjects, 1, DIMENSION))
    points = unit(centres + 0.3 * rng.normal(size=(subjects, per_subject, DIMENSION)))
    samples = [
        (f"s{i:04}", f"{i:04}-{j:04}", points[i, j])
        for i in range(subjects)
        for j in range(per_subject)
    ]
    probes = unit(rng.normal(size=(9, DIMENSION)))
    expected = [brute_force(samples, probe, limit) for probe in probes]
    assert answers(gallery_of(samples), probes, limit) == expected


def test_equal_samples_tie_in_the_order_of_their_ids_whatever_their_row() -> None:
    rng = np.random.default_rng(5)
    twin = unit(rng.normal(size=DIMENSION))
    others = unit(rng.normal(size=(500, DIMENSION)))
    samples = [(f"o{i}", f"o{i}", row) for i, row in enumerate(others)]
    for place, name in [(0, "zoe"), (250, "amy"), (502, "bob")]:
        samples.insert(place, (name, f"{name}-2", twin))
        samples.insert(place, (name, f"{name}-1", twin))
    (found,) = answers(gallery_of(samples), twin[np.newaxis], 3)
    assert [(subject, sample) for subject, sample, _ in found] == [
        ("amy", "amy-1"),
        ("bob", "bob-1"),
        ("zoe", "zoe-1"),
    ]
    assert len({value for _, _, value in found}) == 1


def test_a_similarity_does_not_depend_on_what_is_searched_with_it() -> None:
    rng = np.random.default_rng(6)
    rows = unit(rng.normal(size=(300, DIMENSION)))
    gallery = gallery_of((f"s{i}", f"s{i}", row) for i, row in enumerate(rows))
    probes = unit(rng.normal(size=(40, DIMENSION)))
    together = answers(gallery, probes, 5)
    alone = [answers(gallery, probe[np.newaxis], 5)[0] for probe in probes]
    assert together == alone
    assert similarities(rows, probes[0])[7] == similarity(probes[0], rows[7])


def test_an_empty_gallery_answers_nothing_and_takes_its_first_sample() -> None:
    gallery = gallery_of([])
    probe = unit(np.ones((1, DIMENSION)))
    assert answers(gallery, probe, 5) == [[]]
    gallery.apply(
        head(2),
        [
            Change(2, "subject_upserted", "a", subject=SubjectRecord("a", "A", {"k": 1})),
            Change(2, "sample_added", "a", "a1", embedding=probe[0]),
        ],
    )
    (match,) = search(gallery.snapshot, probe, limit=5)[0]
    assert (match.subject_id, match.name, match.metadata) == ("a", "A", {"k": 1})
    assert gallery.snapshot.version == 2


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "erase", "rename"]), st.integers(0, 5), st.integers(0, 9)
    ),
    max_size=200,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(steps)
def test_any_history_of_changes_equals_brute_force(history: list[Step]) -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(10, DIMENSION)))
    gallery = gallery_of([])
    truth: dict[str, dict[str, FloatArray]] = {}
    version, serial = 1, 0
    for kind, who, which in history:
        version += 1
        name = f"p{who}"
        changes: list[Change] = []
        if kind == "add":
            serial += 1
            truth.setdefault(name, {})[f"{serial:05}"] = vectors[which]
            record = SubjectRecord(name, name, {})
            changes = [
                Change(version, "subject_upserted", name, subject=record),
                Change(version, "sample_added", name, f"{serial:05}", embedding=vectors[which]),
            ]
        elif kind == "remove" and truth.get(name):
            sample = sorted(truth[name])[which % len(truth[name])]
            del truth[name][sample]
            changes = [Change(version, "sample_removed", name, sample)]
        elif kind == "erase" and name in truth:
            del truth[name]
            changes = [Change(version, "subject_removed", name)]
        elif kind == "rename" and name in truth:
            record = SubjectRecord(name, f"{name}-{version}", {})
            changes = [Change(version, "subject_upserted", name, subject=record)]
        gallery.apply(head(version), changes)
    samples = [(s, sample, e) for s, owned in truth.items() for sample, e in owned.items()]
    assert gallery.snapshot.live == len(samples)
    expected = [brute_force(samples, vector, 4) for vector in vectors]
    assert answers(gallery, vectors, 4) == expected


def test_removals_are_merged_away_and_the_rest_is_found() -> None:
    rows = unit(np.random.default_rng(2).normal(size=(2000, DIMENSION)))
    gallery = gallery_of((f"s{i:04}", f"f{i:04}", row) for i, row in enumerate(rows))
    assert not gallery.merge_due
    gallery.apply(head(2), [Change(2, "subject_removed", f"s{i:04}") for i in range(1500)])
    assert gallery.merge_due
    assert (gallery.snapshot.rows, gallery.snapshot.live) == (2000, 500)
    merged = gallery.rebased(Base.build(gallery.merged_records()))
    assert not merged.merge_due
    assert (merged.snapshot.rows, merged.snapshot.live) == (500, 500)
    assert answers(merged, rows[1950:1951], 1)[0][0][:2] == ("s1950", "f1950")


def test_what_happens_during_a_merge_is_in_the_merged_gallery() -> None:
    rows = unit(np.random.default_rng(5).normal(size=(6, DIMENSION)))
    gallery = gallery_of((name, f"f{name}", row) for name, row in zip("abc", rows, strict=False))
    gallery.apply(
        head(2),
        [
            Change(2, "subject_upserted", "a", subject=SubjectRecord("a", "Ann", {"x": 1})),
            Change(2, "subject_upserted", "d", subject=SubjectRecord("d", "Dan", {})),
            Change(2, "sample_added", "d", "fd", embedding=rows[3]),
            Change(2, "sample_removed", "b", "fb"),
        ],
    )
    records = gallery.merged_records()
    gallery.apply(
        head(3),
        [
            Change(3, "subject_removed", "c"),
            Change(3, "subject_upserted", "d", subject=SubjectRecord("d", "Dora", {})),
            Change(3, "sample_added", "b", "fb2", embedding=rows[4]),
        ],
    )
    merged = gallery.rebased(Base.build(records))
    assert merged.snapshot.version == gallery.snapshot.version == 3
    found = search(merged.snapshot, rows, limit=9)
    assert found == search(gallery.snapshot, rows, limit=9)
    assert {(m.subject_id, m.sample_id, m.name) for m in found[0]} == {
        ("a", "fa", "Ann"),
        ("b", "fb2", "B"),
        ("d", "fd", "Dora"),
    }


def test_a_snapshot_never_changes_under_a_search() -> None:
    rows = unit(np.random.default_rng(3).normal(size=(200, DIMENSION)))
    gallery = gallery_of((f"s{i:03}", f"f{i:03}", row) for i, row in enumerate(rows[:100]))
    old = gallery.snapshot
    before = search(old, rows[:5], limit=3)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            if search(old, rows[:5], limit=3) != before:
                wrong.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(2, 102):
        name, row = f"s{version + 98:03}", rows[version + 98]
        added = [
            Change(version, "subject_upserted", name, subject=SubjectRecord(name, None, {})),
            Change(version, "sample_added", name, f"f{name}", embedding=row),
            Change(version, "subject_removed", f"s{version - 2:03}"),
        ]
        gallery.apply(head(version), added)
    stop.set()
    reader.join()
    assert wrong == []
    assert (old.version, gallery.snapshot.version) == (1, 101)


def test_an_earlier_version_can_be_told_until_a_merge() -> None:
    rows = unit(np.random.default_rng(6).normal(size=(9, DIMENSION)))
    gallery = gallery_of((name, f"f{name}", row) for name, row in zip("ab", rows, strict=False))
    kept = [gallery.snapshot]
    for version, added, removed in ((2, "c", "a"), (3, "d", "c"), (4, "a", "b")):
        changes = [
            Change(version, "subject_removed", removed),
            Change(version, "subject_upserted", added, subject=SubjectRecord(added, None, {})),
            Change(version, "sample_added", added, f"f{version}", embedding=rows[version]),
            Change(version, "subject_upserted", "d", subject=SubjectRecord("d", f"D{version}", {})),
        ]
        kept.append(gallery.apply(head(version), changes))
    newest = gallery.snapshot
    for then in kept:
        told = newest.at(then.version)
        assert told is not None
        assert (told.version, told.live) == (then.version, then.live)
        assert search(told, rows, limit=9) == search(then, rows, limit=9)
    assert newest.at(0) is None
    assert newest.at(5) is None
    merged = gallery.rebased(Base.build(gallery.merged_records()))
    assert merged.snapshot.at(3) is None


def match(subject: str, value: float) -> Match:
    return Match(subject, f"{subject}-1", value, None, {})


@pytest.mark.parametrize(
    ("values", "expected", "reason"),
    [
        ([], "unknown", "nobody is enrolled"),
        ([0.499], "unknown", "below the threshold"),
        ([0.5], "match", "the threshold is inclusive"),
        ([0.8, 0.5], "match", "a clear winner"),
        ([0.8, 0.79], "ambiguous", "two subjects closer than the margin"),
        ([0.51, 0.495], "ambiguous", "the rival lies just below the threshold"),
        ([0.49, 0.488], "unknown", "two rivals below the threshold are still nobody"),
    ],
)
def test_decisions(values: list[float], expected: str, reason: str) -> None:
    matches = [match(f"s{i}", value) for i, value in enumerate(values)]
    assert decide(matches, 0.5, 0.02) == expected, reason
