"""Parts of the importers that need no database."""

from __future__ import annotations

import io
import json

import pytest

from facegraph.datasets import MAX_LABEL
from facegraph.errors import ConfigError
from facegraph.importing.collections import contract_of_old
from facegraph.importing.dataset_files import labels_of, subject_of
from facegraph.importing.enrolling import sample_id
from facegraph.importing.old_tables import checked_url
from facegraph.importing.report import SHOWN, Rejection, Report

pytestmark = pytest.mark.unit

LONG = "n" * (MAX_LABEL + 1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:se@cret@host/db",
        "postgresql://u:se/cret@host/db",
        "postgresql://u:se?cret@host/db",
        "postgresql://u:se#cret@host/db",
        "postgresql://u:secret%zz@host/db",
        "host=h password='secret",
        "mysql://u:secret@host/db",
    ],
)
def test_a_url_that_would_be_misread_is_not_told_back(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        checked_url(url)
    assert "cret" not in str(raised.value)
    assert "percent-encoded" in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:se%40cret@host:5433/db?sslmode=require",
        "postgres://host/db",
        "postgresql:///db?host=/run/postgresql",
        "host=h dbname=d password=x@y",
    ],
)
def test_urls_of_postgresql(url: str) -> None:
    assert "client_encoding=utf8" in checked_url(url)


@pytest.mark.parametrize(
    ("names", "labels", "renamed", "reason"),
    [
        ({"1": "Ada", "2": None, "3": ""}, ["Ada", "2", "3"], {}, "no name: the id"),
        ({"1": "A", "2": "A"}, ["A (1)", "A (2)"], {"1": "A (1)", "2": "A (2)"}, "shared"),
        (
            {"1": "A", "2": "A", "3": "A (1)"},
            ["A (1) 2", "A (2)", "A (1)"],
            {"1": "A (1) 2", "2": "A (2)"},
            "what tells two apart may be a third's name",
        ),
        ({"1": "2", "2": None}, ["2 (1)", "2 (2)"], {"1": "2 (1)", "2": "2 (2)"}, "another's id"),
        ({"1": LONG}, ["1"], {"1": "1"}, "longer than a label may be"),
    ],
)
def test_labels(
    names: dict[str, str | None], labels: list[str], renamed: dict[str, str], reason: str
) -> None:
    made, told = labels_of(names.items())
    assert list(made.values()) == labels, reason
    assert told == renamed


def test_a_label_made_longer_is_cut_at_its_end() -> None:
    made, _ = labels_of([("1", "n" * MAX_LABEL), ("2", "n" * MAX_LABEL)])
    assert made == {"1": "n" * (MAX_LABEL - 4) + " (1)", "2": "n" * (MAX_LABEL - 4) + " (2)"}


@pytest.mark.parametrize(
    ("label", "subject"),
    [("ada", "ada"), ("Ada L.", "b64.QWRhIEwu"), ("x" * 128, "x" * 128)],
)
def test_subjects_of_labels(label: str, subject: str) -> None:
    assert subject_of(label) == subject


def test_a_long_label_has_a_digest_for_its_id() -> None:
    assert subject_of("ä" * 100).startswith("label-")
    assert subject_of("ä" * 100) != subject_of("ä" * 101)


def test_sample_ids() -> None:
    one = sample_id("smartav", "7", b"1")
    assert one == sample_id("smartav", "7", b"1")
    assert one.startswith("smartav-")
    others = [("smartav", "7", b"2"), ("smartav", "71", b""), ("frv2", "7", b"1")]
    assert one not in {sample_id(*other) for other in others}


def test_contracts_of_old_systems() -> None:
    assert contract_of_old("smartav", 512).id.startswith("smartav_arcface-")
    assert contract_of_old("smartav", 512) == contract_of_old("smartav", 512)
    made = {contract_of_old(*of).id for of in [("smartav", 512), ("smartav", 128), ("frv2", 512)]}
    assert len(made) == 3


def test_the_report_counts_every_item_once() -> None:
    file, steps = io.StringIO(), []
    report = Report(file, lambda: steps.append(1))
    report.subjects({"a", "b"}, {"a"})
    report.subjects({"a", "c"}, {"c"})
    report.samples(3, 2)
    for number in range(SHOWN + 1):
        report.reject(Rejection(str(number), None, "no_vector", "nothing\nthere"))
    assert (report.new_subjects, report.known_subjects) == (2, 1)
    assert report.read == len(steps) == 5 + SHOWN + 1
    assert [one.id for one in report.first] == [str(number) for number in range(SHOWN)]
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(lines) == SHOWN + 1
    assert lines[0] == {"id": "0", "item": None, "code": "no_vector", "detail": "nothing\nthere"}
