"""Embeddings with labels: what a recognizer is trained on, and what is left out of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facegraph.errors import InvalidTrainingSet
from facegraph.types import FloatArray

ClassArray = npt.NDArray[np.int32]

MAX_LISTED = 200
"""Labels that are listed one by one; their number is always told."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """embeddings: (n, d) float32, L2-normalised
    classes: (n,) int32, row i is of ``labels[classes[i]]``
    labels: sorted, each at least once in ``classes``
    """

    embeddings: FloatArray
    classes: ClassArray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    def take(self, rows: npt.NDArray[np.integer]) -> TrainingSet:
        """Those rows; the labels stay all."""
        return TrainingSet(self.embeddings[rows], self.classes[rows], self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A picture's, or a collection's, embedding: (d,) float32, L2-normalised.

    name: of what it was made of, the same for the same picture; it gives rows their order
    """

    label: str
    name: str
    embedding: FloatArray


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """A label with too few pictures: ``pictures`` that could have been used, perhaps none."""

    label: str
    pictures: int


@dataclass(frozen=True, slots=True, order=True)
class Repeated:
    """A label with ``pictures`` more that only repeat an embedding: one in two folds is cheating.

    Of a label that is left out they are told too.
    """

    label: str
    pictures: int


@dataclass(frozen=True, slots=True, order=True)
class Conflict:
    """``pictures`` with one and the same embedding under several labels; none of them is used."""

    labels: tuple[str, ...]
    pictures: int


@dataclass(frozen=True, slots=True)
class Omitted:
    """All that was given and is not in the training set; each sorted."""

    left_out: tuple[LeftOut, ...]
    repeated: tuple[Repeated, ...]
    conflicts: tuple[Conflict, ...]

    def told(self) -> dict[str, Any]:
        """As JSON; the longest lists are cut, their ``count`` is not."""
        return {
            "left_out": _listed(
                [{"label": e.label, "pictures": e.pictures} for e in self.left_out]
            ),
            "repeated": _listed(
                [{"label": e.label, "pictures": e.pictures} for e in self.repeated]
            ),
            "conflicts": _listed(
                [
                    {"labels": [*e.labels[:MAX_LISTED]], "pictures": e.pictures}
                    for e in self.conflicts
                ]
            ),
        }


def training_set_of(
    samples: Iterable[Sample],
    *,
    min_pictures: int,
    max_classes: int,
    rejected: AbstractSet[str] = frozenset(),
) -> tuple[TrainingSet, Omitted]:
    """The training set of these samples, and what is not in it.

    rejected: labels with pictures that gave no sample; without another they are told as left out
    Rows are in the order of labels and names, so whatever order the samples came in, seeds mean the
    same. Raises InvalidTrainingSet for less than two labels, or more than ``max_classes``, with
    enough pictures; ``errors`` tells what became of each label.
    """
    given = sorted(samples, key=lambda sample: (sample.label, sample.name))
    distinct = list({(sample.label, sample.name): sample for sample in given}.values())
    more = Counter(sample.label for sample in given)
    more.subtract(sample.label for sample in distinct)
    shown = _by_embedding(distinct)
    usable: dict[str, list[FloatArray]] = {label: [] for label in sorted(more.keys() | rejected)}
    for embedding, labels in shown.items():
        if len(labels) == 1:
            usable[next(iter(labels))].append(np.frombuffer(embedding, np.float32))
    kept = sorted(label for label in usable if len(usable[label]) >= max(min_pictures, 1))
    _check(kept, usable, min_pictures, max_classes)
    sizes = [len(usable[label]) for label in kept]
    classes = np.repeat(np.arange(len(kept), dtype=np.int32), sizes)
    rows = [row for label in kept for row in usable[label]]
    omitted = Omitted(
        tuple(LeftOut(label, len(usable[label])) for label in sorted(usable.keys() - set(kept))),
        _repeated(shown, more),
        tuple(sorted(Conflict(tuple(sorted(e)), e.total()) for e in shown.values() if len(e) > 1)),
    )
    return TrainingSet(np.stack(rows), classes, tuple(kept)), omitted


def _by_embedding(samples: Iterable[Sample]) -> Mapping[bytes, Counter[str]]:
    """Of each embedding, as bytes and in the order of the first samples that have it, how often it
    came under which label."""
    shown: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        shown[np.asarray(sample.embedding, np.float32).tobytes()][sample.label] += 1
    return shown


def _repeated(shown: Mapping[bytes, Counter[str]], more: Counter[str]) -> tuple[Repeated, ...]:
    """more: samples of each label with the name of another"""
    for labels in shown.values():
        if len(labels) == 1:
            more.update({label: times - 1 for label, times in labels.items() if times > 1})
    return tuple(sorted(Repeated(label, pictures) for label, pictures in more.items() if pictures))


def _check(
    kept: Sequence[str],
    usable: Mapping[str, Sequence[FloatArray]],
    min_pictures: int,
    max_classes: int,
) -> None:
    if 2 <= len(kept) <= max_classes:
        return
    enough = set(kept)
    became = tuple(
        {
            "label": label,
            "pictures": len(usable[label]),
            "outcome": "kept" if label in enough else "too_few_pictures",
        }
        for label in sorted(usable)[:MAX_LISTED]
    )
    having = f"{len(kept)} of {len(usable)} labels have {min_pictures} different pictures"
    wanted = "two are needed" if len(kept) < 2 else f"at most {max_classes} are taken"
    raise InvalidTrainingSet(f"{having} with a face; {wanted}", became)


def _listed(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"count": len(items), "items": [*items[:MAX_LISTED]]}
