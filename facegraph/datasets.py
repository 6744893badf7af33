"""``dataset.json``: labelled embeddings in a file, as gnosis kept its people.

Two forms are read, ``[[label, "f,f,f,…"], …]`` and ``{label: [{"img": …, "embedding": [f, …]}]}``;
the first is written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegraph.dataset_entries import RawEntry, entries
from facegraph.decisions import similarities
from facegraph.errors import InvalidRequest
from facegraph.types import FloatArray

MAX_LABEL = 256

UNIT = 1e-6
"""A norm this near to 1 is 1: embeddings written here keep every bit when they are read again."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """``embeddings[i]`` is one of the person ``labels[i]``; a label may come many times.

    embeddings: (n, d) float32, L2-normalised; n may be 0
    """

    labels: tuple[str, ...]
    embeddings: FloatArray

    def best(self, probe: FloatArray) -> tuple[str, float] | None:
        """The label most similar to ``probe`` (d,) and its cosine; None for an empty dataset.

        The best single embedding counts, not how many are near: who has more photos has no
        advantage. Ties go to the label that sorts first.
        """
        if not self.labels:
            return None
        scores = similarities(self.embeddings, probe)
        row = min(range(len(scores)), key=lambda row: (-scores[row], self.labels[row]))
        return self.labels[row], float(scores[row])


def read_dataset(data: bytes | str, dimension: int | None = None) -> Dataset:
    """The dataset in either form; InvalidRequest says which entry is wrong and why.

    dimension: what every embedding must have; None: whatever the first has
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("the dataset is no UTF-8") from None
    labels, rows = [], []
    for entry in entries(io.StringIO(text)):
        label, row = checked(entry, dimension)
        dimension = len(row)
        labels.append(label)
        rows.append(row)
    embeddings = np.array(rows, np.float32).reshape(len(rows), dimension or 0)
    return Dataset(tuple(labels), embeddings)


def write_dataset(rows: Iterable[tuple[str, FloatArray]]) -> str:
    """The text of ``[[label, "f,f,f,…"], …]``; float32 come back as they went."""
    return "".join(dataset_text(rows))


def dataset_text(rows: Iterable[tuple[str, FloatArray]]) -> Iterator[str]:
    """As :func:`write_dataset`, a line for each entry."""
    between = "["
    for label, row in rows:
        numbers = ",".join(map(str, row.tolist()))
        yield between + json.dumps([label, numbers], ensure_ascii=False)
        between = ",\n"
    yield "[]\n" if between == "[" else "]\n"


def checked(entry: RawEntry, dimension: int | None) -> tuple[str, FloatArray]:
    """The label and the embedding, (d,) float32, L2-normalised; InvalidRequest."""
    where, label, numbers = entry
    if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL or not _is_text(label):
        raise InvalidRequest(
            f"dataset: {where} has no label with numbers; a label is a text of 1 to {MAX_LABEL} "
            "characters"
        )
    parts = numbers.split(",") if isinstance(numbers, str) else numbers
    try:
        return label, unit_row(parts, dimension)
    except InvalidRequest as error:
        raise InvalidRequest(f"dataset: {where} {error}") from None


def unit_row(numbers: Any, dimension: int | None) -> FloatArray:
    """``numbers`` as (d,) float32, L2-normalised; InvalidRequest, beginning with a verb.

    What is normalised already keeps every bit.
    """
    if not isinstance(numbers, list):  # an object's keys may look like numbers
        raise InvalidRequest("is no list of numbers")
    try:
        row = np.array([float(number) for number in numbers], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest("is no list of numbers") from None
    if not len(row):
        raise InvalidRequest("has no numbers")
    if dimension is not None and len(row) != dimension:
        raise InvalidRequest(f"has {len(row)} numbers, not {dimension}")
    norm = float(np.linalg.norm(row))
    if not np.isfinite(norm) or norm < 1e-6:
        raise InvalidRequest("must be finite and not all zeros")
    return np.asarray(row if abs(norm - 1) < UNIT else row / norm, np.float32)


def _is_text(label: str) -> bool:
    """Whether ``label`` can be written as UTF-8; JSON's escapes can make half a character."""
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True
