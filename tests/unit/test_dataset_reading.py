"""Reading a dataset entry by entry gives what reading it whole gives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegraph import dataset_entries
from facegraph.dataset_entries import entries, entries_of_label, entry_of_list
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing import dataset_reading
from facegraph.importing.dataset_reading import Extent, measure

pytestmark = pytest.mark.unit

NUMBERS = st.one_of(st.text(max_size=30), st.lists(st.floats(allow_nan=False), max_size=5))


class Dripping(io.StringIO):
    """Gives three characters at a time, whatever is asked for."""

    def read(self, size: int | None = -1) -> str:
        return super().read(3)


@given(
    st.lists(st.tuples(st.text(), NUMBERS)),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_the_list(rows: list[tuple[str, Any]], indent: Any, ascii_only: bool) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    whole = [entry_of_list(at, row) for at, row in enumerate(json.loads(text))]
    assert list(entries(Dripping(text))) == whole
    assert list(entries(io.StringIO(f" \n{text}\n "))) == whole


@given(st.dictionaries(st.text(), st.lists(st.fixed_dictionaries({"embedding": NUMBERS}))))
def test_the_object(people: dict[str, Any]) -> None:
    text = json.dumps(people)
    whole = [entry for label in people for entry in entries_of_label(label, people[label])]
    assert list(entries(Dripping(text))) == whole


@pytest.mark.parametrize(
    ("text", "said", "reason"),
    [
        ("", "a list or an object", "an empty file"),
        ("7", "a list or an object", "a number"),
        ("[[1, 2]", "no JSON after 7", "cut off behind an entry"),
        ("[[1, 2", "no JSON after 1", "cut off within an entry"),
        ("[[1,2],]", "no JSON after 7", "a comma too many"),
        ("[[1,2] [3,4]]", "no JSON after 8", "a comma too few"),
        ("[]]", "no JSON after 3", "a bracket too many"),
        ('{"a" []}', "no JSON after 6", "no colon"),
        ("{7: []}", "no JSON after 2", "a key is a text"),
        ("[" * 100_000, "no JSON", "deeper than the parser goes"),
    ],
)
def test_no_json(text: str, said: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as raised:
        list(entries(io.StringIO(text)))
    assert raised.value.status == 400, reason


def test_an_entry_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_entries, "MAX_PIECE", 100)
    with pytest.raises(InvalidRequest, match="longer than 100"):
        list(entries(Dripping('[["Ada", "' + "1," * 200)))


def test_measure(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text('[["a","1,2"],["b","1,2,3"],["c",[1,2]],["d",7],["e","4,5,6"],["f","x"]]')
    assert measure(path, 6) == Extent(6, 3)  # two and two: the longer
    with pytest.raises(InvalidRequest, match="more than 5 entries; --limit"):
        measure(path, 5)
    path.write_text("[]")
    assert measure(path, 1) == Extent(0, None)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_reading, "MAX_BYTES_PER_ENTRY", 8)
    path = tmp_path / "dataset.json"
    path.write_text("nonsense, which reading would find")
    with pytest.raises(InvalidRequest, match="34 bytes, too many for 4 entries; --limit"):
        measure(path, 4)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, ConfigError, "cannot read .*No such file"),
        (b'\xef\xbb\xbf[["a","1"]]', None, ""),
        (b'[["\xff", "1"]]', InvalidRequest, "no UTF-8"),
    ],
)
def test_files(
    tmp_path: Path, content: bytes | None, error: type[Exception] | None, said: str
) -> None:
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_bytes(content)
    if error is None:  # a byte order mark
        assert measure(path, 1) == Extent(1, 1)
        return
    with pytest.raises(error, match=said):
        measure(path, 1)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        measure(tmp_path, 1)
