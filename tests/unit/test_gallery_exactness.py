"""Searches against sorting everything: the same subjects, samples, order and similarities.

Whatever is stored beside the embeddings to choose candidates, no answer may show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from facegraph.decisions import similarities
from facegraph.gallery import Gallery, arithmetic, codes, search
from facegraph.types import Change, FloatArray, GalleryRecords, Head, SubjectRecord

pytestmark = pytest.mark.unit

STORAGES = ("float32", "bf16", "int8")
EVERYBODY = 10_000

Answer = tuple[str, str, float]
"""Subject id, sample id, similarity."""


@dataclass(frozen=True, eq=False)
class Enrolled:
    """Samples as columns: ``owners[i]`` is the subject of ``samples[i]``, embedded by ``rows[i]``.

    rows: (n, d) float32
    """

    owners: Sequence[str]
    samples: Sequence[str]
    rows: FloatArray

    def take(self, kept: npt.NDArray[np.intp]) -> Enrolled:
        return Enrolled(
            [self.owners[i] for i in kept], [self.samples[i] for i in kept], self.rows[kept]
        )

    def brute_force(self, probe: FloatArray, limit: int = EVERYBODY) -> list[Answer]:
        """Sorts everything, then keeps each subject's first."""
        values = similarities(self.rows, probe)
        order = np.lexsort((_ranks(self.samples), _ranks(self.owners), -values))
        best: dict[str, Answer] = {}
        for row in order:
            owner = self.owners[row]
            if owner not in best:
                if len(best) == limit:
                    break
                best[owner] = (owner, self.samples[row], float(values[row]))
        return list(best.values())


def _ranks(texts: Sequence[str]) -> npt.NDArray[np.intp]:
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.array([places[text] for text in texts], np.intp)


def head(version: int, dimension: int) -> Head:
    return Head("one", version, 0, "contract", dimension)


def gallery_of(people: Enrolled, storage: str) -> Gallery:
    subjects = [SubjectRecord(name, None, {}) for name in dict.fromkeys(people.owners)]
    samples = zip(people.samples, people.owners, people.rows, strict=True)
    records = GalleryRecords.of(head(1, people.rows.shape[1]), subjects, samples)
    return Gallery.of(records, storage)


def answers(gallery: Gallery, probes: FloatArray, limit: int) -> list[list[Answer]]:
    found = search(gallery.snapshot, probes, limit=limit)
    return [[(m.subject_id, m.sample_id, m.similarity) for m in matches] for matches in found]


def unit(rows: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def people_of(rows: FloatArray, per_subject: int = 1) -> Enrolled:
    """Ids that sort in another order than the rows stand in."""
    shuffled = np.random.default_rng(len(rows)).permutation(len(rows))
    return Enrolled(
        [f"s{(i // per_subject) * 7919 % 10_007:05}-{i // per_subject}" for i in range(len(rows))],
        [f"x{place:06}" for place in shuffled],
        rows,
    )


# What is enrolled and what is looked for, by what makes it hard.


def clustered() -> tuple[Enrolled, FloatArray]:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(400, 1, 128))
    rows = unit(centres + 0.35 * rng.normal(size=(400, 5, 128))).reshape(-1, 128)
    probes = unit(centres[:40, 0] + 0.35 * rng.normal(size=(40, 128)))
    return people_of(rows, 5), probes


def twins() -> tuple[Enrolled, FloatArray]:
    rng = np.random.default_rng(2)
    rows = unit(rng.normal(size=(30, 64)))[rng.integers(0, 30, 1500)]
    return people_of(rows, 3), unit(np.vstack([rows[:10], rng.normal(size=(10, 64))]))


def alike() -> tuple[Enrolled, FloatArray]:
    rng = np.random.default_rng(3)
    row = unit(rng.normal(size=48))
    return people_of(np.tile(row, (700, 1)), 2), unit(np.vstack([row, -row, rng.normal(size=48)]))


def neighbours() -> tuple[Enrolled, FloatArray]:
    """One unit in a float32's last place apart: different embeddings, mostly one similarity."""
    rng = np.random.default_rng(4)
    rows = np.tile(unit(rng.normal(size=96)), (900, 1))
    at = rng.integers(0, 96, 900)
    towards = np.where(rng.random(900) < 0.5, -np.inf, np.inf).astype(np.float32)
    rows[np.arange(900), at] = np.nextafter(rows[np.arange(900), at], towards)
    return people_of(rows), unit(np.vstack([rows[:5], rng.normal(size=(5, 96))]))


def crowd() -> tuple[Enrolled, FloatArray]:
    rng = np.random.default_rng(5)
    centre = rng.normal(size=32)
    many = unit(centre + 0.1 * rng.normal(size=(3000, 32)))
    few = unit(rng.normal(size=(60, 32)))
    people = Enrolled(
        ["the crowd"] * 3000 + [f"s{i:02}" for i in range(60)],
        [f"c{i:04}" for i in range(3000)] + [f"x{i:02}" for i in range(60)],
        np.vstack([many, few]),
    )
    return people, unit(np.vstack([centre, many[:5], few[:5]]))


def nothing_there() -> tuple[Enrolled, FloatArray]:
    rng = np.random.default_rng(6)
    rows = unit(rng.normal(size=(500, 24)))
    rows[::3] = 0
    return people_of(rows), np.vstack([rows[1:9], unit(-rows[1:9:3]), np.zeros((1, 24), "f4")])


def one_component() -> tuple[Enrolled, FloatArray]:
    """A large component makes the steps of an integer code so wide that the others are lost."""
    rng = np.random.default_rng(7)
    rows = 1e-3 * rng.normal(size=(1200, 80))
    rows[:, 11] = 1 + 1e-4 * rng.normal(size=1200)
    probes = 1e-3 * rng.normal(size=(20, 80))
    probes[10:, 11] = 1
    return people_of(unit(rows), 2), unit(probes)


def tiny_components() -> tuple[Enrolled, FloatArray]:
    """Squares and products of most components are lost even to float32."""
    rng = np.random.default_rng(8)
    rows = np.zeros((800, 40))
    rows[np.arange(800), rng.integers(0, 40, 800)] = rng.choice([-1.0, 1.0], 800)
    rows += 1e-30 * rng.normal(size=rows.shape)
    return people_of(unit(rows), 2), unit(np.vstack([rows[:10], rng.normal(size=(5, 40))]))


def opposite() -> tuple[Enrolled, FloatArray]:
    """The best there is may be below zero."""
    rng = np.random.default_rng(9)
    centre = rng.normal(size=50)
    rows = unit(centre + 0.2 * rng.normal(size=(600, 50)))
    return people_of(rows, 4), unit(-centre + 0.2 * rng.normal(size=(10, 50)))


def written_in_many_scripts() -> tuple[Enrolled, FloatArray]:
    """Ids of equal rows order by code point, not by UTF-16 unit, locale or length."""
    ids = ["z", "Z", "é", "e\u0301", "ß", "Ж", "字", "\uffee", "\U0001f600", "a", "aa", "a b", "~"]
    row = unit(np.random.default_rng(10).normal(size=12))
    rows = np.tile(row, (len(ids), 1))
    return Enrolled(ids, ids[::-1], rows), row[np.newaxis]


def one_far_too_long() -> tuple[Enrolled, FloatArray]:
    """Its square is infinite to float32: bounds that cannot be told leave nobody out."""
    rng = np.random.default_rng(14)
    rows = unit(rng.normal(size=(900, 16)))
    rows[3] *= np.float32(1e20)
    return people_of(rows, 2), np.vstack([rows[5:9], np.zeros((1, 16), "f4")])


CASES = (
    clustered,
    twins,
    alike,
    neighbours,
    crowd,
    nothing_there,
    one_component,
    tiny_components,
    opposite,
    written_in_many_scripts,
    one_far_too_long,
)


@cache
def expected_of(case: Any) -> tuple[Enrolled, FloatArray, list[list[Answer]]]:
    """What is enrolled, the probes, and everybody in the right order for each probe."""
    people, probes = case()
    return people, probes, [people.brute_force(probe) for probe in probes]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_search_is_brute_force(case: Any, storage: str) -> None:
    people, probes, ranked = expected_of(case)
    gallery = gallery_of(people, storage)
    for limit in (1, 5, 100, EVERYBODY):
        assert answers(gallery, probes, limit) == [one[:limit] for one in ranked]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dimension", [1, 3, 100, 128, 512, 513])
def test_any_dimension(dimension: int, storage: str) -> None:
    rng = np.random.default_rng(dimension)
    people = people_of(unit(rng.normal(size=(700, dimension))), 3)
    probes = unit(rng.normal(size=(9, dimension)))
    gallery = gallery_of(people, storage)
    for limit in (1, 5, EVERYBODY):
        expected = [people.brute_force(probe, limit) for probe in probes]
        assert answers(gallery, probes, limit) == expected


@cache
def bordering(rows: int) -> tuple[Enrolled, FloatArray, list[list[Answer]]]:
    """Probes for which the best stand in the first rows, in the last, and anywhere."""
    rng = np.random.default_rng(rows)
    people = people_of(unit(rng.normal(size=(rows, 32))), 2)
    ends = people.rows[[0, rows // 2, -1]]
    probes = unit(np.vstack([ends, rng.normal(size=(4, 32))]))
    return people, probes, [people.brute_force(probe, 100) for probe in probes]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "rows", [1, 2, 63, 64, 65, 4095, 4096, 4097, 8191, 8192, 8193, 16_385, 65_537]
)
def test_the_borders_of_blocks(rows: int, storage: str) -> None:
    people, probes, ranked = bordering(rows)
    gallery = gallery_of(people, storage)
    for limit in (1, 5, 100):
        assert answers(gallery, probes, limit) == [one[:limit] for one in ranked]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("batch", [1, 2, 7, 64, 65, 200])
def test_probes_together_are_answered_as_each_alone(batch: int, storage: str) -> None:
    people, _, _ = expected_of(clustered)
    gallery = gallery_of(people, storage)
    probes, ranked = batch_of_probes()
    assert answers(gallery, probes[:batch], 5) == ranked[:batch]


@cache
def batch_of_probes() -> tuple[FloatArray, list[list[Answer]]]:
    people, _, _ = expected_of(clustered)
    rng = np.random.default_rng(11)
    noise = 0.05 * rng.normal(size=(200, 128))
    probes = unit(people.rows[rng.integers(0, len(people.rows), 200)] + noise)
    probes[100] = probes[0]  # the same again, in another block
    return probes, [people.brute_force(probe, 5) for probe in probes]


@pytest.mark.parametrize("case", [clustered, one_component], ids=lambda case: case.__name__)
def test_int8_on_a_processor_whose_products_of_it_saturate(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, or the setting, may say int8 where the processor cannot."""

    def saturating(rows: Any, probes: Any, *, out: Any = None) -> Any:
        product = (rows.double() @ probes.double()).clip(-(2**15), 2**15 - 1).int()
        return product if out is None else out.copy_(product)

    people, probes, ranked = expected_of(case)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    arithmetic.int8_is_exact.cache_clear()
    try:
        assert codes.best_storage(1_000_000) == "float32"
        assert answers(gallery_of(people, "int8"), probes, 5) == [one[:5] for one in ranked]
    finally:
        arithmetic.int8_is_exact.cache_clear()


@pytest.mark.parametrize("storage", STORAGES)
def test_no_probes_and_nobody_enrolled(storage: str) -> None:
    people, probes, _ = expected_of(clustered)
    assert answers(gallery_of(people, storage), probes[:0], 5) == []
    nobody = people.take(np.zeros(0, np.intp))
    assert answers(gallery_of(nobody, storage), probes[:3], 5) == [[], [], []]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("case", [clustered, twins, crowd, neighbours], ids=lambda c: c.__name__)
def test_the_best_are_gone_and_others_came(case: Any, storage: str) -> None:
    """Of what is built in, the best for each probe go; a third of all rows comes later."""
    people, probes, ranked = expected_of(case)
    rng = np.random.default_rng(12)
    best = {sample for one in ranked for _, sample, _ in one[:3]}
    late = set(np.flatnonzero(rng.random(len(people.samples)) < 1 / 3).tolist())
    early = np.array([i for i in range(len(people.samples)) if i not in late], np.intp)
    gallery = gallery_of(people.take(early), storage)
    width = people.rows.shape[1]
    gallery.apply(
        head(2, width), [addition for row in sorted(late) for addition in added(people, row, 2)]
    )
    assert answers(gallery, probes, 5) == [one[:5] for one in ranked]
    removals = [
        Change(3, "sample_removed", owner, sample)
        for owner, sample in zip(people.owners, people.samples, strict=True)
        if sample in best
    ]
    gallery.apply(head(3, width), removals)
    left = people.take(np.array([i for i, x in enumerate(people.samples) if x not in best]))
    for limit in (1, 5, EVERYBODY):
        expected = [left.brute_force(probe, limit) for probe in probes]
        assert answers(gallery, probes, limit) == expected


def added(people: Enrolled, row: int, version: int) -> list[Change]:
    owner = people.owners[row]
    return [
        Change(version, "subject_upserted", owner, subject=SubjectRecord(owner, None, {})),
        Change(version, "sample_added", owner, people.samples[row], embedding=people.rows[row]),
    ]


@pytest.mark.parametrize("storage", STORAGES)
def test_top_1_is_that_of_a_float32_product(storage: str) -> None:
    """On clustered data; apart from pairs that a float32 product cannot tell apart."""
    rng = np.random.default_rng(13)
    centres = rng.normal(size=(5000, 1, 64))
    rows = unit(centres + 0.5 * rng.normal(size=(5000, 4, 64))).reshape(-1, 64)
    probes = unit(centres[:1000, 0] + 0.5 * rng.normal(size=(1000, 64)))
    people = people_of(rows, 4)
    found = answers(gallery_of(people, storage), probes, 1)
    scores = probes @ rows.T
    at = scores.argmax(axis=1)
    same = [people.samples[row] == one[0][1] for row, one in zip(at, found, strict=True)]
    assert np.mean(same) >= 0.9999
    told = np.array([one[0][2] for one in found])
    assert np.abs(told - scores.max(axis=1)).max() < 1e-6


corners = st.lists(st.integers(-2, 2), min_size=6, max_size=6)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    storage=st.sampled_from(STORAGES),
    placed=st.lists(st.tuples(st.integers(0, 8), corners), max_size=60),
    probes=st.lists(corners, min_size=1, max_size=4),
    limit=st.integers(1, 10),
)
def test_points_of_a_grid_with_ties_everywhere(
    storage: str, placed: list[tuple[int, list[int]]], probes: list[list[int]], limit: int
) -> None:
    people = Enrolled(
        [f"s{owner}" for owner, _ in placed],
        [f"x{len(placed) - i:02}" for i in range(len(placed))],
        on_sphere([corner for _, corner in placed]),
    )
    looked_for = on_sphere(probes)
    expected = [people.brute_force(probe, limit) for probe in looked_for]
    assert answers(gallery_of(people, storage), looked_for, limit) == expected


def on_sphere(points: list[list[int]]) -> FloatArray:
    """(n, 6) float32, L2-normalised; the origin stays where it is."""
    rows = np.array(points, np.float64).reshape(-1, 6)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths == 0, 1, lengths), np.float32)
