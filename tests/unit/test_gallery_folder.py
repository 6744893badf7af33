"""Gallery files: which are used, which are ignored, and which must not stay."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from facegraph.gallery import Base, Gallery, search
from facegraph.gallery import folder as module
from facegraph.gallery.folder import Folder
from facegraph.gallery.layout import Draft
from facegraph.types import WHOLE, Change, GalleryRecords, Head, Shard, SubjectRecord

pytestmark = pytest.mark.unit

VECTORS = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 8)))[0].astype(np.float32)
HEAD = Head("i1", 3, 0, "c1", 8, stamp="s3")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "galleries", WHOLE, "float32")


class FakeTime:
    """A clock that is turned by hand; ``ahead_s`` is how much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        monkeypatch.setattr("facegraph.gallery.folder.time", self)

    def time(self) -> float:
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


def gallery(head: Head = HEAD, *people: int) -> Gallery:
    people = people or (0, 1, 2)
    records = GalleryRecords.of(
        head,
        [SubjectRecord(f"p{n}", f"p{n}", {}) for n in people],
        [(f"f{n}", f"p{n}", VECTORS[n]) for n in people],
    )
    return Gallery.of(records, "float32")


def at(version: int) -> Head:
    return replace(HEAD, version=version, stamp=f"s{version}")


def put(folder: Folder, head: Head = HEAD, collection_id: str = "a") -> Path:
    """The file of a gallery at ``head``; all the others stay."""
    kept = {file.path: file.path.read_bytes() for file in folder.files()}
    assert folder.write(collection_id, gallery(head), beyond=head.version) is not None
    (path,) = {file.path for file in folder.files()} - kept.keys()
    for other, data in kept.items():
        other.write_bytes(data)
    return path


def names(folder: Folder) -> list[int]:
    return sorted(file.version for file in folder.files())


def test_what_is_written_is_opened_again(folder: Folder) -> None:
    folder.write("a", gallery(), beyond=-1)
    base = folder.open("a", at(9))
    assert base is not None
    assert (base.head.version, base.head.stamp) == (3, "s3")
    found = search(Gallery(base).snapshot, VECTORS[1:2], limit=1)
    assert [match.subject_id for match in found[0]] == ["p1"]


def test_only_this_user_may_enter_and_no_id_is_in_a_name(folder: Folder, tmp_path: Path) -> None:
    path = put(folder, collection_id="people of Bern")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "Bern" not in path.name
    assert HEAD.incarnation not in path.name.split("-")


@pytest.mark.parametrize(
    ("head", "version", "why"),
    [
        (at(9), 5, "the newest before the head"),
        (at(5), 5, "the head's own"),
        (at(4), 3, "not beyond the head, which may have been read before"),
        (at(2), None, "all are beyond"),
        (replace(at(9), incarnation="i2"), None, "another collection of the same id"),
    ],
)
def test_the_newest_usable_one_is_opened(
    folder: Folder, head: Head, version: int | None, why: str
) -> None:
    put(folder, at(3))
    put(folder, at(5))
    base = folder.open("a", head)
    assert (None if base is None else base.head.version) == version, why
    assert names(folder) == [3, 5], why
    assert folder.open("b", head) is None


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        byte = file.read(1)
        file.seek(-4096, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def _other_format(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"FGGAL\x00\xff\n")


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: os.truncate(path, 0), "empty"),
    (lambda path: os.truncate(path, path.stat().st_size // 2), "cut in half"),
    (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "zeros"),
    (lambda path: path.write_bytes(os.urandom(70_000)), "noise"),
    (_flip, "one bit"),
    (_other_format, "of another version of the format"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE)
def test_a_damaged_file_is_removed_and_an_older_one_used(
    folder: Folder,
    damage: Callable[[Path], object],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(folder, at(3))
    damage(put(folder, at(5)))
    base = folder.open("a", at(9))
    assert base is not None, why
    assert base.head.version == 3
    assert names(folder) == [3]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["it is damaged"]


@pytest.mark.parametrize(
    ("written", "asked", "why"),
    [
        (replace(HEAD, incarnation="i9"), HEAD, "of another incarnation"),
        (replace(HEAD, version=2), HEAD, "of another version"),
        (replace(HEAD, contract_id="c9"), HEAD, "of another contract"),
    ],
)
def test_a_foreign_file_under_a_fitting_name_is_removed(
    folder: Folder, written: Head, asked: Head, why: str
) -> None:
    place = put(folder, HEAD)
    foreign = put(Folder(place.parent.parent / "other", WHOLE, "float32"), written)
    foreign.replace(place)
    assert folder.open("a", asked) is None, why
    assert names(folder) == [], why


@pytest.mark.parametrize(
    ("shard", "storage", "why"),
    [
        (Shard(1, 2), "float32", "another shard"),
        (Shard(0, 3), "float32", "another number of shards"),
        (WHOLE, "int8", "another storage"),
        (WHOLE, "auto", "one chosen otherwise"),
    ],
)
def test_files_of_another_layout_are_left_to_those_who_use_them(
    folder: Folder, tmp_path: Path, shard: Shard, storage: str, why: str
) -> None:
    put(folder)
    other = Folder(tmp_path / "galleries", shard, storage)
    assert other.open("a", HEAD) is None, why
    assert other.write("a", gallery(at(4)), beyond=-1) is not None
    assert names(folder) == [3, 4], why


def test_a_newer_file_takes_the_place_of_older_ones_which_stay_readable(folder: Folder) -> None:
    folder.write("a", gallery(), beyond=-1)
    folder.write("b", gallery(), beyond=-1)
    old = folder.open("a", HEAD)
    folder.write("a", gallery(at(4), 5), beyond=3)
    assert names(folder) == [3, 4]
    assert old is not None
    assert np.array_equal(old.embeddings, VECTORS[:3])


def test_one_writes_at_a_time(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "galleries", WHOLE, "float32")
    folder.files()
    with other._alone() as alone:
        assert alone
        assert folder.write("a", gallery(), beyond=-1) is None
    assert folder.write("a", gallery(), beyond=-1) is not None


def test_what_another_has_written_is_not_written_again(folder: Folder) -> None:
    put(folder, at(5))
    late = gallery(at(3))
    late.apply(at(6), [])
    assert folder.write("a", late, beyond=3) is None
    assert folder.write("a", late, beyond=5) is not None


def test_a_full_disk_keeps_its_last_space(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=gallery().nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="too little space"):
        folder.write("a", gallery(), beyond=-1)
    assert names(folder) == []


def test_a_folder_that_others_may_enter_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "open"
    path.mkdir(mode=0o755)
    folder = Folder(path, WHOLE, "float32")
    with pytest.raises(PermissionError):
        folder.write("a", gallery(), beyond=-1)
    assert folder.files() == folder.files() == ()
    assert folder.open("a", HEAD) is None
    assert len(caplog.records) == 1
    assert path.stat().st_mode & 0o777 == 0o755, "it is not ours to close"


def test_what_is_no_gallery_file_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    folder.files()
    other = tmp_path / "galleries" / "notes.txt"
    other.write_text("mine")
    folder.sweep(folder.files(), {})
    assert other.read_text() == "mine"


class Sweep(NamedTuple):
    heads: dict[str, Head]
    left: list[int]
    why: str


@pytest.mark.parametrize(
    "case",
    [
        Sweep({"a": HEAD}, [3], "its collection stands there"),
        Sweep({"a": at(8)}, [3], "it is behind, but not for long"),
        Sweep({}, [], "its collection was deleted"),
        Sweep({"b": HEAD}, [], "another collection"),
        Sweep({"a": replace(HEAD, incarnation="i2")}, [], "deleted and made again"),
        Sweep({"a": at(2)}, [], "a backup was restored: its history is lost"),
    ],
    ids=lambda case: case.why,
)
def test_files_go_with_their_collection(folder: Folder, case: Sweep) -> None:
    put(folder)
    folder.sweep(folder.files(), case.heads)
    assert names(folder) == case.left


def test_a_file_made_after_the_heads_were_read_is_not_swept(folder: Folder) -> None:
    files = folder.files()
    put(folder)
    folder.sweep(files, {})
    assert names(folder) == [3]


def test_a_file_that_nobody_vouches_for_goes_when_it_may_hold_what_was_removed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch)
    put(folder, HEAD)
    put(folder, HEAD, "unchanged")
    heads = {"a": at(4), "unchanged": HEAD}
    folder.sweep(folder.files(), heads)
    clock.ahead_s += module.STALE_AFTER_S - 60
    folder.sweep(folder.files(), heads)
    assert names(folder) == [3, 3]
    clock.ahead_s += 61
    folder.sweep(folder.files(), heads)
    assert names(folder) == [3]
    assert folder.open("unchanged", HEAD) is not None


def test_a_start_leaves_time_to_use_an_old_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch)
    put(folder)
    clock.ahead_s += 86_400
    folder.sweep(folder.files(), {"a": at(4)})
    assert names(folder) == [3]


def test_a_file_is_kept_by_any_process_that_vouches(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch)
    path = put(folder)
    folder.sweep(folder.files(), {"a": at(4)})
    clock.ahead_s += 2 * module.STALE_AFTER_S
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda place: real(place, (clock.time(),) * 2))
    Folder(tmp_path / "galleries", WHOLE, "float32").vouch("a", HEAD)
    folder.sweep(folder.files(), {"a": at(4)})
    assert path.exists()


def test_who_vouches_learns_that_a_file_is_gone(folder: Folder) -> None:
    path = put(folder)
    assert folder.vouch("a", HEAD)
    path.unlink()
    assert not folder.vouch("a", HEAD)


def test_files_of_another_number_of_shards_go_when_nobody_vouches_for_them(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch)
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda place: real(place, (clock.time(),) * 2))
    layouts = (Shard(0, 2), Shard(1, 2), Shard(0, 3), WHOLE)
    halves = [Folder(tmp_path / "galleries", shard, "float32") for shard in layouts]
    for half in halves:
        half.write("a", gallery(), beyond=-1)
    heads = {"a": HEAD}  # the collection stands where the files do

    def left() -> list[str]:
        return sorted(f"{file.shard.index}of{file.shard.count}" for file in folder.files())

    halves[0].sweep(folder.files(), heads)
    assert left() == ["0of1", "0of2", "0of3", "1of2"], "they may yet be used"
    clock.ahead_s += module.STALE_AFTER_S
    halves[2].vouch("a", HEAD)
    halves[0].sweep(folder.files(), heads)
    assert left() == ["0of2", "0of3", "1of2"], "its own division stays, and what is vouched for"
    clock.ahead_s += module.STALE_AFTER_S
    halves[0].sweep(folder.files(), heads)
    assert left() == ["0of2", "1of2"]


def test_what_a_killed_writer_left_is_cleared(folder: Folder, tmp_path: Path) -> None:
    folder.files()
    left = tmp_path / "galleries" / f"0123{module._TEMPORARY}"
    left.write_bytes(b"embeddings")
    with Folder(tmp_path / "galleries", WHOLE, "int8")._alone():
        folder.sweep(folder.files(), {})
        assert left.exists(), "somebody may be writing it"
    folder.sweep(folder.files(), {})
    assert not left.exists()


def test_a_draft_that_fails_leaves_nothing(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafted = gallery()

    def fail(*_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("the fake disk failed")

    monkeypatch.setattr(Base, "build", fail)
    with pytest.raises(OSError, match="fake disk"):
        folder.write("a", drafted, beyond=-1)
    assert [path.name for path in (tmp_path / "galleries").iterdir()] == ["lock"]


def test_a_draft_without_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError("the fake disk is full")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    place = tmp_path / "draft"
    with pytest.raises(OSError, match="fake disk"):
        Draft({"ones": (np.int8, (1,))}, place)
    assert not place.exists()
    place.write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        Draft({"ones": (np.int8, (1,))}, place)
    assert place.read_bytes() == b"another's"


def test_removals_are_told_at_their_weight(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(folder, at(3))
    folder.sweep(folder.files(), {})
    put(folder, at(3))
    folder.discard("a", at(3), "why not")
    folder.discard("a", at(3), "it is gone already")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_merging_is_what_erases(folder: Folder) -> None:
    erased = gallery()
    path = put(folder, HEAD)
    assert VECTORS[1].tobytes() in path.read_bytes()
    erased.apply(at(4), [Change(4, "subject_removed", "p1")])
    folder.write("a", erased, beyond=3)
    (file,) = folder.files()
    data = file.path.read_bytes()
    assert VECTORS[1].tobytes() not in data
    assert b"p1" not in data
    assert VECTORS[2].tobytes() in data
