"""Labels, and labelled pictures as the input of a job."""

from __future__ import annotations

import pytest

from facegraph.bulk.items import Item
from facegraph.errors import InvalidRequest
from facegraph.recognizers.pictures import (
    LabelledPicture,
    PictureSource,
    check_label,
    label_of,
    write_pictures,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("filename", "label"),
    [
        ("ada/1.jpg", "ada"),  # the folder's name
        ("people/ada/1.jpg", "ada"),  # the nearest one's
        ("people\\ada\\1.jpg", "ada"),  # as another system writes it
        ("ada_1.jpg", "ada"),
        ("ada_love_12.jpeg", "ada_love"),  # only the number goes
        ("ada/bob_1.jpg", "ada"),  # the folder counts before the stem
        ("ada.jpg", None),  # nothing says that this is a name
        ("ada_x.jpg", None),
        ("_1.jpg", None),
        ("", None),
        ("/1.jpg", None),
    ],
)
def test_the_label_of_a_file(filename: str, label: str | None) -> None:
    assert label_of(filename) == label


@pytest.mark.parametrize("label", ["a", "Ada Lovelace", "Ада", "x" * 128, "unknown-1"])
def test_labels(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize(
    "label", ["", " ", " a", "a ", "x" * 129, "a\nb", "a\0", "unknown", "Unknown", "\ud800"]
)
def test_no_labels(label: str) -> None:
    with pytest.raises(InvalidRequest):
        check_label(label)


def test_pictures_come_as_they_went() -> None:
    sent = [LabelledPicture("Ада", "1.jpg", b"x" * 300_000), LabelledPicture("b", "é/2", b"\0")]
    with write_pictures(sent) as file:
        source = PictureSource(file)
        assert source.count() == 2
        items = [item for item in source.items() if isinstance(item, Item)]
    assert [(i.person.id, i.where, i.content) for i in items] == [
        (p.label, p.where, p.data) for p in sent
    ]
