"""The gallery's benchmark runs, its report has its shape, and its yardstick is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gallery import __main__ as benchmark
from benchmarks.gallery import ours, truth
from benchmarks.gallery.database import wire
from benchmarks.gallery.people import People
from benchmarks.gallery.report import Report, shown
from benchmarks.gallery.scanning import COLUMNS

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def people() -> People:
    return People.of(400, 32)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a tiny run without peers writes as JSON."""
    path: Path = tmp_path_factory.mktemp("report") / "report.json"
    names = ["ours, float32", "NumPy"]
    sizes = ["--samples", "400", "--dimension", "32", "--seconds", "0", "--rounds", "1"]
    benchmark.main([*sizes, "--parts", "engine", "--engines", *names, "--json", str(path)])
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_a_run_reports_its_tables(written: dict[str, Any]) -> None:
    titles = [(table["part"], table["title"]) for table in written["tables"]]
    assert titles == [
        ("aims", "400 × 32: aims"),
        ("engine", "400 × 32: one engine, no network"),
    ]
    rows = written["tables"][1]["rows"]
    assert [(row["engine"], row["finds"]) for row in rows] == [
        ("ours", "subjects"),
        ("ours, float32", "subjects"),
        ("NumPy", "rows"),
        ("NumPy", "subjects"),
    ]
    assert list(rows[0]) == list(COLUMNS)
    assert written["environment"].keys() == {"command", "date", "hardware", "versions"}


def test_ours_finds_what_brute_force_finds(written: dict[str, Any]) -> None:
    rows = written["tables"][1]["rows"]
    found = [(row["top-1"], row["top-1 of the known"], row["top-5"]) for row in rows]
    assert found == [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (None, None, None), (1.0, 1.0, 1.0)]


def test_samples_of_one_person_are_alike_and_strangers_are_not(people: People) -> None:
    cosines = people.embeddings @ people.embeddings.T
    same = people.row_subjects[:, None] == people.row_subjects
    np.fill_diagonal(same, val=False)
    assert cosines[same].mean() == pytest.approx(0.7, abs=0.02)
    assert cosines[people.row_subjects[:, None] != people.row_subjects].mean() == pytest.approx(
        0, abs=0.02
    )
    assert np.bincount(people.row_subjects).tolist() == [4] * 100


def test_brute_force_ranks_every_subject_by_its_best_sample(people: People) -> None:
    scores = people.probes.astype(np.float64) @ people.embeddings.T.astype(np.float64)
    best = np.full((len(scores), people.subjects), -np.inf)
    for row, subject in enumerate(people.row_subjects):
        best[:, subject] = np.maximum(best[:, subject], scores[:, row])
    assert truth.best_subjects(people) == np.argsort(-best, axis=1)[:, : truth.LIMIT].tolist()


def test_recall_counts_what_is_right(people: People) -> None:
    right = truth.best_subjects(people)
    wrong = [[-1, *subjects[1:]] for subjects in right]
    found = truth.recall(lambda _: wrong, list, people, right, batch=len(right), seconds=0)
    assert (found.top_1, found.known) == (0.0, 0.0)
    assert found.top_5 == pytest.approx(0.8)


def test_a_merge_keeps_everybody(people: People) -> None:
    gallery = ours.build(people.records)
    before = ours.numbers(ours.find(gallery.snapshot, people.probes))
    assert ours.numbers(ours.find(ours.merge(gallery).snapshot, people.probes)) == before


def test_rows_go_to_postgresql_in_its_binary_format() -> None:
    columns = [np.array([b"ab", b"cd"]), np.array([[1], [2]], ">i4")]
    rows = [
        b"\0\2" + b"\0\0\0\2ab" + b"\0\0\0\4\0\0\0\1",
        b"\0\2" + b"\0\0\0\2cd" + b"\0\0\0\4\0\0\0\2",
    ]
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    assert list(wire(columns)) == [head, b"".join(rows), b"\xff\xff"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),  # nothing was counted
        (1_000_000, "1,000,000"),
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        ("ours", "ours"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float | str | None, text: str) -> None:
    assert shown(value) == text


def test_tables_come_in_the_order_of_their_parts() -> None:
    report = Report(("first", "second"))
    report.table("second", "B", ["x"]).add(2)
    report.table("first", "A", ["x"]).add(1)
    text = report.markdown()
    assert text.index("### A\n\n| x |\n| --- |\n| 1 |") < text.index("### B\n\n| x |")


@pytest.mark.parametrize("arguments", [["--engines", "nobody's"], ["--parts", "none"]])
def test_unknown_names_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.parse(arguments)
    assert "invalid choice" in capsys.readouterr().err
