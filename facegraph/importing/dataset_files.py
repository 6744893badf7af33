"""``dataset.json`` to and from a collection.

The file's form knows labels and nothing else: a subject is written under its name, one without a
name under its id. Subjects that share a name are written as ``name (id)``, each of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from facegraph.dataset_entries import RawEntry
from facegraph.datasets import MAX_LABEL, checked, dataset_text
from facegraph.errors import ConfigError, FacegraphError, InvalidRequest
from facegraph.ids import to_subject_id
from facegraph.importing.dataset_reading import entries_of
from facegraph.importing.enrolling import BATCH, Entry, Person, enrol, sample_id
from facegraph.importing.report import Rejection, Report
from facegraph.store import Store
from facegraph.store.changelog import head_blocking
from facegraph.store.connecting import BlockingConnection
from facegraph.store.samples import from_bytes
from facegraph.types import Contract, NewSample

_TIME_TO_READ = "SET LOCAL statement_timeout = '10min'"
_SUBJECTS = """
SELECT id, name FROM facegraph.subjects WHERE collection_id = %s AND sample_count > 0 ORDER BY id
"""
_COUNT = "SELECT sample_count FROM facegraph.collections WHERE id = %s"
_SAMPLES = """
SELECT subject_id, embedding FROM facegraph.samples WHERE collection_id = %s
ORDER BY subject_id, id
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """``renamed``: subject id → label, where that is not the subject's name."""

    subjects: int
    samples: int
    contract_id: str
    renamed: dict[str, str]


async def import_dataset(
    path: Path, store: Store, collection_id: str, contract: Contract, report: Report
) -> None:
    """Every entry that can be kept: the label's subject, made if absent, gets its embedding."""
    batch: list[Entry] = []
    for raw in entries_of(path):
        try:
            batch.append(_entry(raw, contract.dimension))
        except InvalidRequest as error:
            where, label, _ = raw
            said = label[:MAX_LABEL] if isinstance(label, str) else None
            report.reject(Rejection(said, where, "invalid_entry", str(error)))
        if len(batch) == BATCH:
            await enrol(store, collection_id, batch, contract, report)
            batch = []
    await enrol(store, collection_id, batch, contract, report)


async def export_dataset(store: Store, collection_id: str, path: Path) -> Exported:
    """Writes the whole collection at one version; the file appears when it is complete."""
    try:
        return await store.read_in_thread(partial(_export, collection_id=collection_id, path=path))
    except OSError as error:
        raise FacegraphError(f"cannot write {path}: {error.strerror}") from None


def subject_of(label: str) -> str:
    """The id for a label: as for an old id; a digest where that would be too long."""
    try:
        return to_subject_id(label)
    except InvalidRequest:
        return f"label-{hashlib.sha256(label.encode()).hexdigest()[:32]}"


def labels_of(names: Iterable[tuple[str, str | None]]) -> tuple[dict[str, str], dict[str, str]]:
    """A label of its own for each ``(id, name)``; and of those, what differs from the name."""
    wanted, renamed = {}, {}
    for subject_id, name in names:
        wanted[subject_id] = name if name and len(name) <= MAX_LABEL else subject_id
        if name and wanted[subject_id] != name:
            renamed[subject_id] = subject_id
    times = Counter(wanted.values())
    taken = set(wanted.values())
    for subject_id, label in wanted.items():
        if times[label] > 1:
            renamed[subject_id] = _distinct(label, subject_id, taken)
            taken.add(renamed[subject_id])
    return wanted | renamed, renamed


def _distinct(label: str, subject_id: str, taken: set[str]) -> str:
    for number in count(1):
        end = f" ({subject_id})" if number == 1 else f" ({subject_id}) {number}"
        candidate = label[: MAX_LABEL - len(end)] + end
        if candidate not in taken:
            return candidate
    raise AssertionError("numbers do not end")


def _entry(raw: RawEntry, dimension: int) -> Entry:
    label, row = checked(raw, dimension)
    name = sample_id("dataset", label, row.tobytes())
    return Entry(Person(subject_of(label), label, {}), name, NewSample(row, id=name))


def _export(connection: BlockingConnection, collection_id: str, path: Path) -> Exported:
    connection.execute(_TIME_TO_READ)
    head = head_blocking(connection, collection_id)
    with connection.cursor("subjects") as rows:
        labels, renamed = labels_of(rows.execute(_SUBJECTS, [collection_id]))
    counted = count()
    with connection.cursor("samples") as rows:
        rows.itersize = BATCH
        rows.execute(_SAMPLES, [collection_id])
        entries = (
            (labels[row[0]], from_bytes(row[1])) for row, _ in zip(rows, counted, strict=False)
        )
        _write(path, dataset_text(entries))
    return Exported(len(labels), next(counted), head.contract_id, renamed)


def _write(path: Path, parts: Iterator[str]) -> None:
    """To a file beside it that takes its place; readable to its owner only: these are faces."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path} is no file")
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix=f".{target.name}.", dir=target.parent, delete=False
    ) as file:
        try:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
