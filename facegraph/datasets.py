"""``dataset.json``: labelled embeddings in a file, as gnosis kept its people.

Two forms are read, ``[[label, "f,f,f,…"], …]`` and ``{label: [{"img": …, "embedding": [f, …]}]}``;
the first is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegraph.decisions import similarities
from facegraph.errors import InvalidRequest
from facegraph.types import FloatArray

MAX_LABEL = 256


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
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the dataset is not JSON: {error}") from None
    labels, rows = [], []
    for where, label, numbers in _entries(value):
        row = _row(where, numbers, dimension)
        dimension = len(row)
        labels.append(label)
        rows.append(row)
    embeddings = np.array(rows, np.float64).reshape(len(rows), dimension or 0)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Dataset(tuple(labels), np.asarray(embeddings / norms, np.float32))


def write_dataset(entries: Iterable[tuple[str, FloatArray]]) -> str:
    """The text of ``[[label, "f,f,f,…"], …]``; float32 come back as they went."""
    rows = [[label, ",".join(map(str, row.tolist()))] for label, row in entries]
    return json.dumps(rows, ensure_ascii=False)


def _entries(value: Any) -> Iterator[tuple[str, str, Any]]:
    """Where each embedding stands, its label and its numbers as they were sent."""
    if isinstance(value, dict):
        for label, images in value.items():
            if not isinstance(images, list):
                raise InvalidRequest(f"dataset: {label!r} must have a list")
            for at, image in enumerate(images):
                if not isinstance(image, dict) or "embedding" not in image:
                    raise InvalidRequest(f"dataset: {label!r}[{at}] has no embedding")
                yield f"{label!r}[{at}]", _label(label), image["embedding"]
    elif isinstance(value, list):
        for at, entry in enumerate(value):
            if not isinstance(entry, list) or len(entry) != 2:
                raise InvalidRequest(f"dataset: entry {at} is no [label, numbers]")
            yield f"entry {at}", _label(entry[0]), entry[1]
    else:
        raise InvalidRequest("the dataset must be a list or an object")


def _label(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LABEL:
        raise InvalidRequest(f"dataset: a label is a text of 1 to {MAX_LABEL} characters")
    return value


def _row(where: str, numbers: Any, dimension: int | None) -> Sequence[float]:
    parts = numbers.split(",") if isinstance(numbers, str) else numbers
    try:
        row = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise InvalidRequest(f"dataset: {where} is no list of numbers") from None
    if not row or (dimension is not None and len(row) != dimension):
        raise InvalidRequest(f"dataset: {where} has {len(row)} numbers, not {dimension or 'any'}")
    norm = float(np.linalg.norm(row))
    if not np.isfinite(norm) or norm < 1e-6:
        raise InvalidRequest(f"dataset: {where} must be finite and not all zeros")
    return row
