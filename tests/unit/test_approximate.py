"""The approximate index against brute force, and the measure of its recall."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from facegraph.gallery.approximate import Approximate, BuildCancelled, widening
from facegraph.gallery.recall import measure_recall, recall_probes
from facegraph.types import FloatArray, Match

DIMENSION = 64
SUBJECTS = 4000
SAMPLES = 5
ROWS = SUBJECTS * SAMPLES


def unit(rows: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def people(seed: int = 0) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Samples at about 0.7 to their subject's centre, in random order, and their subjects."""
    random = np.random.default_rng(seed)
    centres = unit(random.standard_normal((SUBJECTS, DIMENSION)))
    subjects = random.permutation(np.repeat(np.arange(SUBJECTS, dtype=np.int32), SAMPLES))
    noise = unit(random.standard_normal((ROWS, DIMENSION)))
    return unit(0.7 * centres[subjects] + 0.714 * noise), subjects


@pytest.fixture(scope="module")
def enrolled() -> tuple[FloatArray, npt.NDArray[np.int32]]:
    return people()


@pytest.fixture(scope="module")
def index(enrolled: tuple[FloatArray, npt.NDArray[np.int32]]) -> Approximate:
    return Approximate.build(enrolled[0], threads=2)


class FakeEmbeddings:
    """A large file of embeddings that notes what is read of it."""

    def __init__(self, embeddings: FloatArray) -> None:
        self.shape = embeddings.shape
        self.read: list[int] = []
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    def __getitem__(self, rows: Any) -> FloatArray:
        found: FloatArray = self._embeddings[rows]
        self.read.append(len(found))
        return found


def test_candidates_hold_the_nearest_rows(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    embeddings, subjects = enrolled
    probes = recall_probes(embeddings, subjects, 100, seed=3)
    found = index.candidates(probes, 256)
    nearest = np.argsort(-(probes @ embeddings.T), axis=1)
    assert all(best[0] in rows for best, rows in zip(nearest, found, strict=True))
    shares = [
        len(np.intersect1d(best[:10], rows)) / 10 for best, rows in zip(nearest, found, strict=True)
    ]
    assert np.mean(shares) > 0.97


def test_candidates_are_as_many_as_wanted_each_once_best_first(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    embeddings, _ = enrolled
    for wanted in (1, 7, 300):
        (found,) = index.candidates(embeddings[:1], wanted)
        assert found.dtype == np.int32
        assert len(found) == len(np.unique(found)) == wanted
        assert found[0] == 0, "a row is nearest to itself, by a wide margin"
    (few,), (many,) = index.candidates(embeddings[:1], 10), index.candidates(embeddings[:1], 500)
    assert few.tolist() == many[:10].tolist()
    nearness = embeddings[many] @ embeddings[0]
    assert nearness[:50].mean() > nearness[-50:].mean() + 0.05


@pytest.mark.parametrize("wanted", [ROWS, ROWS + 1, 10 * ROWS])
def test_asked_for_everything_it_names_every_row(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate, wanted: int
) -> None:
    for found in index.candidates(enrolled[0][:3], wanted):
        assert np.sort(found).tolist() == list(range(ROWS))


def test_many_probes_are_answered_as_each_alone(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]],
    index: Approximate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probes = enrolled[0][:70]
    alone = [index.candidates(probe[np.newaxis], 40)[0].tolist() for probe in probes]
    assert [rows.tolist() for rows in index.candidates(probes, 40)] == alone
    monkeypatch.setattr("facegraph.gallery.approximate._PAIRS_PER_PASS", 100)
    assert [rows.tolist() for rows in index.candidates(probes, 40)] == alone
    assert index.candidates(probes[:0], 40) == []


def test_a_pool_changes_nothing(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    probes = enrolled[0][:20]
    with ThreadPoolExecutor(2) as pool:
        shared = index.candidates(probes, 50, pool=pool)
    alone = index.candidates(probes, 50)
    assert [rows.tolist() for rows in shared] == [rows.tolist() for rows in alone]


def test_the_same_rows_make_the_same_index_whatever_the_parts(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    embeddings, _ = enrolled
    again = Approximate.build(embeddings, threads=2)
    first, second = (
        [faiss.serialize_index(part).tobytes() for part in one._parts] for one in (index, again)
    )
    assert first == second
    whole = Approximate.build(embeddings, threads=1)
    assert (whole.description["parts"], index.description["parts"]) == (1, 2)
    for one, two in zip(
        whole.candidates(embeddings[:50], 100), index.candidates(embeddings[:50], 100), strict=True
    ):
        # Rows that look equally near may change places at the end.
        assert len(np.intersect1d(one, two)) >= 95


@pytest.mark.parametrize(
    ("rows", "dimension", "threads"),
    [
        (1, 8, 4),  # fewer rows than threads
        (5, 8, 1),  # fewer than codes have values
        (100, 7, 3),  # components that cannot be paired
        (33, 2, 2),  # hardly any components
        (500, 1024, 2),  # more pairs of components than sums hold
        (64, 257, 1),  # one code for each component would be too many
        (40_000, 8, 2),  # several blocks in each part
    ],
)
def test_every_shape_is_indexed(rows: int, dimension: int, threads: int) -> None:
    embeddings = unit(np.random.default_rng(1).standard_normal((rows, dimension)))
    built = Approximate.build(embeddings, threads=threads)
    assert (built.rows, built.dimension) == (rows, dimension)
    (found,) = built.candidates(embeddings[-1:], rows)
    assert np.sort(found).tolist() == list(range(rows))
    if dimension > 8 and rows >= 500:
        assert found[0] == rows - 1


def test_an_index_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Approximate.build(np.zeros((0, 8), np.float32), threads=1)


def test_a_build_reads_blocks_of_a_file(tmp_path: Path) -> None:
    embeddings = unit(np.random.default_rng(1).standard_normal((50_000, 8)))
    embeddings.tofile(tmp_path / "embeddings")
    mapped = np.memmap(tmp_path / "embeddings", np.float32, "r", shape=embeddings.shape)
    noted: Any = FakeEmbeddings(mapped)
    built = Approximate.build(noted, threads=1)
    assert max(noted.read) == 16_384
    assert sum(noted.read) == 4096 + 50_000
    expected = Approximate.build(embeddings, threads=1).candidates(embeddings[:5], 9)
    found = built.candidates(embeddings[:5], 9)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]


def test_a_cancelled_build_stops_at_the_next_block() -> None:
    noted: Any = FakeEmbeddings(unit(np.random.default_rng(1).standard_normal((60_000, 8))))
    with pytest.raises(BuildCancelled):
        Approximate.build(noted, threads=1, cancelled=lambda: len(noted.read) >= 2)
    assert noted.read == [4096, 16_384], "the sample and one block"


def test_what_it_costs_is_told(index: Approximate) -> None:
    assert index.description["bits_per_sample"] == 2 * DIMENSION
    codes = ROWS * DIMENSION // 4
    assert codes <= index.nbytes <= codes + 100_000
    assert index.description["nbytes"] == index.nbytes


def test_the_library_starts_no_threads_of_its_own(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    allowed: list[int] = []

    def search() -> None:
        index.candidates(enrolled[0][:70], 5)
        allowed.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert allowed == [1]


@pytest.mark.parametrize(
    ("limit", "rows", "asked"),
    [
        (1, 100, [100]),  # few rows: all at once
        (5, 20_000, [256, 2048, 16_384, 20_000]),  # ever more, at last all
        (100, 20_000, [1600, 12_800, 20_000]),  # more subjects, more from the beginning
        (5, 2048, [256, 2048]),  # all, once
    ],
)
def test_ever_more_is_asked_for(limit: int, rows: int, asked: list[int]) -> None:
    assert list(widening(limit, rows)) == asked


def test_a_subject_with_very_many_samples_hides_nobody() -> None:
    random = np.random.default_rng(2)
    person = unit(random.standard_normal(DIMENSION))
    crowd = unit(person + 0.02 * random.standard_normal((3000, DIMENSION)))
    others = unit(random.standard_normal((3000, DIMENSION)))
    embeddings = np.concatenate([crowd, others])
    subjects = np.concatenate([np.zeros(3000, np.int64), np.arange(1, 3001)])
    built = Approximate.build(embeddings, threads=2)
    passes = []
    for wanted in widening(3, len(embeddings)):
        (rows,) = built.candidates(person[np.newaxis], wanted)
        passes.append(len(np.unique(subjects[rows])))
        if passes[-1] >= 3:
            break
    assert passes == [1, 1, 3001]


def match(subject: str, similarity: float) -> Match:
    return Match(subject, f"{subject}-1", similarity, None, {})


A, B, C, D = match("a", 0.9), match("b", 0.5), match("c", 0.4), match("d", 0.4)


@pytest.mark.parametrize(
    ("truth", "found", "at_1", "at_limit"),
    [
        ([A, B, C], [A, B, C], 1.0, 1.0),  # the same
        ([A, B, C], [A, C], 1.0, 2 / 3),  # one missing
        ([A, B, C], [B, C], 0.0, 2 / 3),  # the best missing
        ([A, B, C], [A, B, D], 1.0, 1.0),  # another as similar as the last
        ([A, B, C], [], 0.0, 0.0),  # nothing found
        ([A, B], [match("a", 0.8), B], 1.0, 1.0),  # the right subject, by another sample
        ([], [], 1.0, 1.0),  # nothing to find
    ],
)
def test_recall_counts_subjects(
    truth: list[Match], found: list[Match], at_1: float, at_limit: float
) -> None:
    measured = measure_recall(
        lambda probes, _: [truth] * len(probes),
        lambda probes, _: [found] * len(probes),
        np.zeros((70, 4), np.float32),
        limit=3,
    )
    assert (measured.limit, measured.probes) == (3, 70)
    assert measured.at_1 == pytest.approx(at_1)
    assert measured.at_limit == pytest.approx(at_limit)


def test_recall_is_that_of_the_index(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]], index: Approximate
) -> None:
    embeddings, subjects = enrolled

    def ranked(rows: npt.NDArray[Any], probe: FloatArray, limit: int) -> Sequence[Match]:
        nearness = embeddings[rows] @ probe
        best: dict[str, Match] = {}
        for place in np.argsort(-nearness)[:200]:  # far more than name five subjects
            name = str(subjects[rows[place]])
            best.setdefault(name, match(name, float(nearness[place])))
        return list(best.values())[:limit]

    def exact(probes: FloatArray, limit: int) -> list[Sequence[Match]]:
        return [ranked(np.arange(ROWS), probe, limit) for probe in probes]

    def search(wanted: int) -> Any:
        return lambda probes, limit: [
            ranked(rows, probe, limit)
            for rows, probe in zip(index.candidates(probes, wanted), probes, strict=True)
        ]

    probes = recall_probes(embeddings, subjects, 40, seed=1)
    all_rows = measure_recall(exact, search(ROWS), probes)
    usual = measure_recall(exact, search(256), probes)
    hardly = measure_recall(exact, search(2), probes)
    assert (all_rows.at_1, all_rows.at_limit) == (1.0, 1.0)
    assert usual.at_1 == 1.0
    assert 0.9 < usual.at_limit <= 1.0
    assert hardly.at_limit <= 0.4


def test_a_cancelled_measurement_stops() -> None:
    asked: list[int] = []

    def search(probes: FloatArray, _: int) -> list[Sequence[Match]]:
        asked.append(len(probes))
        return [[A]] * len(probes)

    with pytest.raises(BuildCancelled):
        measure_recall(
            search, search, np.zeros((500, 4), np.float32), cancelled=lambda: bool(asked)
        )
    assert asked == [64, 64], "one pass of each"
    with pytest.raises(ValueError, match="at least one probe"):
        measure_recall(search, search, np.zeros((0, 4), np.float32))


def test_recall_probes_are_near_a_person_as_their_samples_are_to_each_other(
    enrolled: tuple[FloatArray, npt.NDArray[np.int32]],
) -> None:
    embeddings, subjects = enrolled
    probes = recall_probes(embeddings, subjects, 200, seed=5)
    assert probes.dtype == np.float32
    assert np.allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-6)
    nearest = (probes @ embeddings.T).max(axis=1)
    assert nearest.max() < 0.95, "none is a row again"
    pairs = [
        float(embeddings[left] @ embeddings[right])
        for left, right in (np.flatnonzero(subjects == subject)[:2] for subject in range(200))
    ]
    assert abs(float(np.median(nearest)) - float(np.median(pairs))) < 0.05
    assert np.array_equal(probes, recall_probes(embeddings, subjects, 200, seed=5))
    assert not np.array_equal(probes, recall_probes(embeddings, subjects, 200, seed=6))


@pytest.mark.parametrize(
    ("rows", "copies"),
    [
        (50, 1),  # nobody has two samples
        (50, 3),  # all samples of a person are one and the same
        (1, 1),  # one sample only: every probe is made of it
    ],
)
def test_recall_probes_without_pairs_are_half_near(rows: int, copies: int) -> None:
    some = unit(np.random.default_rng(4).standard_normal((rows, DIMENSION)))
    embeddings = np.repeat(some, copies, axis=0)
    subjects = np.repeat(np.arange(rows, dtype=np.int32), copies)
    probes = recall_probes(embeddings, subjects, 80, seed=5)
    nearness = np.sort(probes @ embeddings.T, axis=1)[:, -1]
    assert np.allclose(np.median(nearness), 0.5, atol=0.05)
