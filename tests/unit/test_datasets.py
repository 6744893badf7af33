"""``dataset.json`` in its two forms: what is read, what is refused, what comes back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facegraph.datasets import MAX_LABEL, Dataset, dataset_text, read_dataset, write_dataset
from facegraph.errors import InvalidRequest
from facegraph.types import FloatArray

pytestmark = pytest.mark.unit


def unit(*numbers: float) -> FloatArray:
    row = np.array(numbers, np.float64)
    return np.asarray(row / np.linalg.norm(row), np.float32)


@pytest.mark.parametrize(
    ("text", "labels", "embeddings", "reason"),
    [
        ("[]", [], np.zeros((0, 0)), "nobody"),
        ("{}", [], np.zeros((0, 0)), "nobody, in the other form"),
        ('[["Ada", "3,4"]]', ["Ada"], [[0.6, 0.8]], "numbers are normalised"),
        ('[["Ada", " 3 , 4e0"]]', ["Ada"], [[0.6, 0.8]], "spaces and exponents are numbers"),
        ('[["Ada", [3, 4]]]', ["Ada"], [[0.6, 0.8]], "a list instead of a text"),
        (
            '[["Ada", "1,0"], ["Bob", "0,1"], ["Ada", "0,2"]]',
            ["Ada", "Bob", "Ada"],
            [[1, 0], [0, 1], [0, 1]],
            "a label may come again later",
        ),
        (
            '{"Ada": [{"img": "a", "embedding": [1, 0]}, {"embedding": [0, 1]}], "Bob": []}',
            ["Ada", "Ada"],
            [[1, 0], [0, 1]],
            "the variant; img is not needed, a person may have no pictures",
        ),
    ],
)
def test_read(text: str, labels: list[str], embeddings: Any, reason: str) -> None:
    dataset = read_dataset(text)
    assert list(dataset.labels) == labels, reason
    assert dataset.embeddings.dtype == np.float32
    assert dataset.embeddings.tolist() == np.asarray(embeddings, np.float32).tolist(), reason


@pytest.mark.parametrize(
    ("text", "dimension", "said", "reason"),
    [
        ("nonsense", None, "must be a list or an object", "no JSON"),
        ("[" * 100_000, None, "no JSON", "deeper than the parser goes"),
        ("7", None, "a list or an object", "neither form"),
        ('["Ada"]', None, "entry 0 has no label", "an entry is a pair"),
        ('[["Ada", "1", "2"]]', None, "entry 0 has no label", "not a triple"),
        ('[["Ada", "1,0"], [7, "1,0"]]', None, "entry 1 has no label", "a label is a text"),
        ('[["", "1,0"]]', None, "entry 0 has no label", "an empty label names nobody"),
        (f'[["{"x" * (MAX_LABEL + 1)}", "1,0"]]', None, "entry 0 has no label", "too long"),
        ('[["\\ud800", "1,0"]]', None, "entry 0 has no label", "half a character"),
        ('{"Ada": 7}', None, "Ada is no list of numbers", "a person has a list"),
        ('{"Ada": [7]}', None, "Ada[0] is no list of numbers", "of objects"),
        ('{"Ada": [{"img": "a"}]}', None, "Ada[0] is no list of numbers", "with an embedding"),
        ('[["Ada", ""]]', None, "entry 0 is no list of numbers", "no numbers"),
        ('[["Ada", []]]', None, "entry 0 has no numbers", "none in a list either"),
        ('[["Ada", "1,x"]]', None, "entry 0 is no list of numbers", "a letter"),
        ('[["Ada", null]]', None, "entry 0 is no list of numbers", "null"),
        ('[["Ada", {"0": 1, "1": 0}]]', None, "entry 0 is no list of numbers", "keys are none"),
        ('{"Ada": [{"embedding": {"0": 1}}]}', None, "Ada[0] is no list of numbers", "nor there"),
        ('[["Ada", "1,nan"]]', None, "entry 0 must be finite", "not a number"),
        ('[["Ada", [1, Infinity]]]', None, "entry 0 must be finite", "infinite"),
        (f'[["Ada", [1{"0" * 400}]]]', None, "entry 0 is no list", "beyond a float"),
        ('[["Ada", "0,0"]]', None, "not all zeros", "no direction"),
        ('[["Ada", "1,0"], ["Bob", "1"]]', None, "entry 1 has 1 numbers, not 2", "as the first"),
        ('[["Ada", "1,0"]]', 3, "entry 0 has 2 numbers, not 3", "as asked for"),
    ],
)
def test_refused(text: str, dimension: int | None, said: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_dataset(text, dimension)
    assert said in str(raised.value), reason
    assert len(str(raised.value)) < 300


def test_a_long_name_is_not_told_back_whole() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_dataset(json.dumps({"x" * 1_000_000: 7}))
    assert len(str(raised.value)) < 300


VECTORS = arrays(
    np.float32, 5, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
).filter(lambda row: float(np.linalg.norm(row)) > 1e-3)
LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_LABEL)


@given(st.lists(st.tuples(LABELS, VECTORS), max_size=5))
def test_what_is_written_comes_back_bit_for_bit(people: list[tuple[str, FloatArray]]) -> None:
    entries = [(label, unit(*row.tolist())) for label, row in people]
    read = read_dataset(write_dataset(entries))
    assert list(read.labels) == [label for label, _ in entries]
    assert [row.tobytes() for row in read.embeddings] == [row.tobytes() for _, row in entries]


def test_the_form_that_is_written() -> None:
    entries = [("Ada", unit(1, 0)), ("Zoë", unit(0, -1))]
    assert write_dataset(entries) == '[["Ada", "1.0,0.0"],\n["Zoë", "0.0,-1.0"]]\n'
    assert next(dataset_text(entries)) == '[["Ada", "1.0,0.0"]'
    assert write_dataset([]) == "[]\n"


def test_the_best_embedding_counts_not_the_most() -> None:
    many = np.stack([unit(1, 0.9), unit(1, 0.8), unit(0, 1), unit(1, 0.7)])
    found = Dataset(("crowd", "crowd", "one", "crowd"), many).best(unit(0.1, 1))
    assert found is not None
    assert found[0] == "one"
    assert found[1] == pytest.approx(1 / np.sqrt(1.01))


def test_a_tie_goes_to_the_label_that_sorts_first() -> None:
    assert Dataset(("b", "a"), np.stack([unit(1, 0)] * 2)).best(unit(1, 0)) == ("a", 1.0)


def test_nobody_answers_nobody() -> None:
    assert read_dataset("[]").best(unit(1, 0)) is None
