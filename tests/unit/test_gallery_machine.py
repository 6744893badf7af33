"""Any history, read as the store tells it, in any bursts and across merges, against a model.

The model is the plainest there is: dictionaries, copied whole for each version. A log tells what
it logged joined with the state at the time of reading, as the real one does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from facegraph.decisions import similarities
from facegraph.gallery import Base, Gallery, Snapshot, search
from facegraph.types import Change, FloatArray, GalleryRecords, Head, SubjectRecord

pytestmark = pytest.mark.unit

DIMENSION = 8
STORAGES = ("float32", "bf16", "int8")

Kind = Literal["subject_upserted", "subject_removed", "sample_added", "sample_removed"]
Answer = tuple[str, str, float, str | None, Any]
"""Subject id, sample id, similarity, name, metadata."""


def _points() -> FloatArray:
    """(12, 8) float32, L2-normalised: some far apart, some all but the same, one twice."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(12, DIMENSION))
    rows[6:9] = rows[0] + 1e-4 * rng.normal(size=(3, DIMENSION))
    rows[11] = rows[5]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


POINTS = _points()
SIMILARITIES = np.array([similarities(POINTS, probe) for probe in POINTS]).tolist()


@dataclass(frozen=True, eq=False)
class World:
    """A collection at one version, never changed.

    subjects: id → (name, metadata); samples: id → (subject id, row of ``POINTS``)
    """

    version: int = 0
    subjects: dict[str, tuple[str | None, Any]] = field(default_factory=dict)
    samples: dict[str, tuple[str, int]] = field(default_factory=dict)

    @cached_property
    def ranked(self) -> list[list[Answer]]:
        """For each of ``POINTS`` everybody, best first: sorts everything."""
        return [self._ranked(probe) for probe in range(len(POINTS))]

    def _ranked(self, probe: int) -> list[Answer]:
        best: dict[str, Answer] = {}
        for negative, subject, sample in sorted(
            (-SIMILARITIES[probe][point], subject, sample)
            for sample, (subject, point) in self.samples.items()
        ):
            if subject not in best:
                best[subject] = (subject, sample, -negative, *self.subjects[subject])
        return list(best.values())

    def records(self) -> GalleryRecords:
        return GalleryRecords.of(
            head(self.version),
            (SubjectRecord(subject, *told) for subject, told in self.subjects.items()),
            ((sample, owner, POINTS[point]) for sample, (owner, point) in self.samples.items()),
        )


def head(version: int, *, more: bool = False) -> Head:
    return Head("one", version, 0, "contract", DIMENSION, stamp=f"stamp {version}", more=more)


class History:
    """A collection's worlds and its log."""

    def __init__(self) -> None:
        self.worlds = [World()]
        self._log: list[tuple[int, Kind, str, str | None]] = []

    @property
    def now(self) -> World:
        return self.worlds[-1]

    def enrol(self, subject: str, samples: dict[str, int], *, anew: bool = False) -> None:
        """Makes or renames the subject and adds ``samples``; ``anew``: in place of all it has.

        A sample's id that is in use is left out.
        """
        version, subjects, kept = self._next()
        entries: list[tuple[Kind, str | None]] = []
        if anew and subject in subjects:
            kept = {sample: held for sample, held in kept.items() if held[0] != subject}
            entries.append(("subject_removed", None))
        entries.append(("subject_upserted", None))
        subjects[subject] = (f"{subject} of {version}", {"version": version})
        for sample, point in samples.items():
            if sample not in kept:
                kept[sample] = (subject, point)
                entries.append(("sample_added", sample))
        self._commit(World(version, subjects, kept), subject, entries)

    def remove_sample(self, sample: str) -> None:
        version, subjects, kept = self._next()
        subject, _ = kept.pop(sample)
        self._commit(World(version, subjects, kept), subject, [("sample_removed", sample)])

    def erase(self, subject: str) -> None:
        version, subjects, kept = self._next()
        del subjects[subject]
        kept = {sample: held for sample, held in kept.items() if held[0] != subject}
        self._commit(World(version, subjects, kept), subject, [("subject_removed", None)])

    def _next(self) -> tuple[int, dict[str, Any], dict[str, tuple[str, int]]]:
        return self.now.version + 1, dict(self.now.subjects), dict(self.now.samples)

    def _commit(
        self, world: World, subject: str, entries: Sequence[tuple[Kind, str | None]]
    ) -> None:
        self.worlds.append(world)
        self._log += [(world.version, kind, subject, sample) for kind, sample in entries]

    def read(self, since: int, until: int) -> tuple[Head, list[Change]]:
        """What the store tells of the versions after ``since``, joined with the state now."""
        told = (self._told(*entry) for entry in self._log if since < entry[0] <= until)
        changes = [change for change in told if change is not None]
        return head(until, more=until < self.now.version), changes

    def _told(self, version: int, kind: Kind, subject: str, sample: str | None) -> Change | None:
        if kind == "subject_upserted":
            if (known := self.now.subjects.get(subject)) is None:
                return None
            return Change(version, kind, subject, subject=SubjectRecord(subject, *known))
        if kind == "sample_added":
            assert sample is not None
            owner, point = self.now.samples.get(sample, ("", 0))
            if owner != subject:
                return None
            return Change(version, kind, subject, sample, embedding=POINTS[point])
        return Change(version, kind, subject, sample)


def answers(snapshot: Snapshot, limit: int) -> list[list[Answer]]:
    found = search(snapshot, POINTS, limit=limit)
    return [
        [(m.subject_id, m.sample_id, m.similarity, m.name, dict(m.metadata)) for m in matches]
        for matches in found
    ]


def require_as_of(snapshot: Snapshot, world: World) -> None:
    """The snapshot answers what is true of its version."""
    assert snapshot.version == world.version
    assert snapshot.live == len(world.samples)
    for limit in (1, 2, 50):
        assert answers(snapshot, limit) == [one[:limit] for one in world.ranked]


who = st.integers(0, 5).map("p{}".format)
which = st.integers(0, 14).map("x{:02}".format)
some = st.dictionaries(which, st.integers(0, len(POINTS) - 1), max_size=4)


class GalleryMachine(RuleBasedStateMachine):
    """Writers, one gallery that follows them, and searches that began at older versions."""

    storage = "float32"

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.kept: list[tuple[Snapshot, World]] = []
        self.last_news: tuple[Head, list[Change]] | None = None

    @initialize(people=st.dictionaries(who, some, max_size=4))
    def load(self, people: dict[str, dict[str, int]]) -> None:
        for subject, samples in people.items():
            self.history.enrol(subject, samples)
        self.gallery = Gallery.of(self.history.now.records(), self.storage)

    @rule(subject=who, samples=some, anew=st.booleans())
    def enrol(self, subject: str, samples: dict[str, int], anew: bool) -> None:
        self.history.enrol(subject, samples, anew=anew)

    @rule(subject=who, point=st.integers(0, len(POINTS) - 1), count=st.integers(1, 80))
    def enrol_many(self, subject: str, point: int, count: int) -> None:
        """More than there is room for behind the base."""
        version = self.history.now.version + 1
        points = {f"y{version}-{n}": (point + n) % len(POINTS) for n in range(count)}
        self.history.enrol(subject, points)

    @precondition(lambda self: self.history.now.samples)
    @rule(data=st.data())
    def remove_sample(self, data: st.DataObject) -> None:
        self.history.remove_sample(data.draw(st.sampled_from(sorted(self.history.now.samples))))

    @precondition(lambda self: self.history.now.subjects)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        self.history.erase(data.draw(st.sampled_from(sorted(self.history.now.subjects))))

    @rule()
    def catch_up(self) -> None:
        """All there is since the gallery's version, in one burst."""
        news = self.history.read(self.gallery.snapshot.version, self.history.now.version)
        self.last_news = news
        assert self.gallery.apply(*news) is self.gallery.snapshot

    @rule(part=st.floats(0, 1), meanwhile=st.tuples(who, some, st.booleans()))
    def catch_up_in_pages(self, part: float, meanwhile: tuple[str, dict[str, int], bool]) -> None:
        """A writer comes between the pages; nobody searches there."""
        since, now = self.gallery.snapshot.version, self.history.now.version
        between = since + round(part * (now - since))
        self.gallery.apply(*self.history.read(since, between))
        subject, samples, anew = meanwhile
        self.history.enrol(subject, samples, anew=anew)
        self.catch_up()

    @precondition(lambda self: self.last_news is not None)
    @rule()
    def apply_again(self) -> None:
        assert self.last_news is not None
        if self.last_news[0].version == self.gallery.snapshot.version:
            self.gallery.apply(*self.last_news)

    @rule()
    def begin_a_search(self) -> None:
        snapshot = self.gallery.snapshot
        self.kept = [*self.kept[-5:], (snapshot, self.history.worlds[snapshot.version])]

    @precondition(lambda self: self.kept)
    @rule()
    def end_a_search(self) -> None:
        self.kept.pop(0)

    @invariant()
    def every_search_is_true_of_its_version(self) -> None:
        if hasattr(self, "gallery"):
            snapshot = self.gallery.snapshot
            require_as_of(snapshot, self.history.worlds[snapshot.version])
            for old, world in self.kept:
                require_as_of(old, world)


class MergingMachine(GalleryMachine):
    """The same, while all that lives is merged into new bases, in memory or in files."""

    folder: Path | None = None
    merging: tuple[Any, int] | None = None
    file: Path | None = None
    files = 0

    @precondition(lambda self: self.merging is None)
    @rule()
    def begin_to_merge(self) -> None:
        version = self.gallery.snapshot.version
        records = self.gallery.merged_records()
        assert records.head == head(version)
        self.merging = (records, version)

    @precondition(lambda self: self.merging is not None)
    @rule()
    def fail_to_merge(self) -> None:
        """No room on the disk, say: it begins again some other time."""
        self.merging = None

    @precondition(lambda self: self.merging is not None)
    @rule()
    def end_merging(self) -> None:
        assert self.merging is not None
        records, version = self.merging
        path = None
        if self.folder is not None:
            MergingMachine.files += 1
            path = self.folder / f"{self.files}.gallery"
        base = Base.build(records, self.storage, path=path)
        require_as_of(Gallery(base).snapshot, self.history.worlds[version])
        before = self.gallery.snapshot
        self.gallery = self.gallery.rebased(base)
        after = self.gallery.snapshot
        assert (after.version, after.stamp) == (before.version, before.stamp)
        if self.file is not None:
            self.file.unlink()  # searches that still read it go on
        self.merging, self.file = None, path

    @precondition(lambda self: self.file is not None)
    @rule()
    def start_anew_from_the_file(self) -> None:
        assert self.file is not None
        base = Base.open(self.file)
        self.gallery, self.merging = Gallery(base), None
        require_as_of(self.gallery.snapshot, self.history.worlds[base.head.version])
        self.catch_up()


def run_machine(machine: type[GalleryMachine], **parts: Any) -> None:
    made = type(machine.__name__, (machine,), parts)
    limits = hypothesis_settings(max_examples=25, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(made, settings=limits)


@pytest.mark.parametrize("storage", STORAGES)
def test_any_history_in_any_bursts(storage: str) -> None:
    run_machine(GalleryMachine, storage=storage)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "file"])
def test_any_history_across_merges(storage: str, on_disk: bool, tmp_path: Path) -> None:
    run_machine(MergingMachine, storage=storage, folder=tmp_path if on_disk else None)


@pytest.mark.parametrize("storage", STORAGES)
def test_searches_beside_bursts_and_merges_see_one_version(storage: str, tmp_path: Path) -> None:
    """Threads search without pause while one writes and merges."""
    history = History()
    for n in range(6):
        history.enrol(f"p{n}", {f"x{n}{i}": (n + i) % len(POINTS) for i in range(5)})
    shelf = [Gallery.of(history.now.records(), storage)]
    seen: dict[int, list[Any]] = {}
    stop = threading.Event()

    def read(limit: int) -> None:
        while not stop.is_set():
            snapshot = shelf[0].snapshot
            seen.setdefault(snapshot.version, []).append((limit, answers(snapshot, limit)))

    readers = [threading.Thread(target=read, args=(limit,)) for limit in (1, 3, 50)]
    for reader in readers:
        reader.start()
    try:
        write_and_merge(history, shelf, storage, tmp_path)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    for version, found in seen.items():
        ranked = history.worlds[version].ranked
        assert all(answer == [one[:limit] for one in ranked] for limit, answer in found)
    assert shelf[0].snapshot.version == history.now.version
    require_as_of(shelf[0].snapshot, history.now)


def write_and_merge(history: History, shelf: list[Gallery], storage: str, folder: Path) -> None:
    """Sixty bursts into ``shelf[0]``, some while it is merged and put on another base."""
    rng = np.random.default_rng(21)

    def write() -> None:
        write_burst(history, rng)
        shelf[0].apply(*history.read(shelf[0].snapshot.version, history.now.version))

    for turn in range(60):
        write()
        if turn % 6 == 0:
            records = shelf[0].merged_records()
            write()
            base = Base.build(records, storage, path=folder / f"{turn}.gallery")
            write()
            shelf[0] = shelf[0].rebased(base)


def write_burst(history: History, rng: np.random.Generator) -> None:
    """Some versions of all kinds."""
    for _ in range(rng.integers(1, 6)):
        subject, version = f"p{rng.integers(0, 9)}", history.now.version
        match rng.integers(0, 4):
            case 0 if subject in history.now.subjects:
                history.erase(subject)
            case 1 if history.now.samples:
                history.remove_sample(min(history.now.samples))
            case kind:
                new = {f"z{version}-{i}": int(rng.integers(0, len(POINTS))) for i in range(3)}
                history.enrol(subject, new, anew=kind == 2)
