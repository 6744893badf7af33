"""Galleries as files: a node's matchers map them, share their pages, and so start in seconds.

A file holds one collection's base at one version. It is a copy of what the store has, never the
truth: whatever is damaged, foreign or of another history is removed, and the store is asked.
Embeddings are biometric data, so only this user may enter the folder, no id stands in a name, and
files go with their collection, or once they may hold what was removed from it.

Any number of processes read; one at a time writes, under a lock that the kernel frees when its
holder ends. A file is complete before it gets its name, and unlinking one takes nothing from those
who have mapped it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from facegraph.gallery.base import Base
from facegraph.gallery.gallery import Gallery
from facegraph.types import Head, Shard

log = logging.getLogger(__name__)

STALE_AFTER_S = 600.0
"""A file that nobody vouches for is removed after this time, if it is behind its collection or is
of another number of shards than the matchers here."""

_NAME = re.compile(r"([0-9a-f]{40})-(\d{1,19})-(\d+)of(\d+)-(\w+)\.gallery")
_TEMPORARY = ".writing"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class GalleryFile:
    """What a file's name says. ``key`` stands for a collection's incarnation."""

    path: Path
    key: str
    version: int
    shard: Shard
    storage: str


class Folder:
    """The gallery files of a node, as a matcher of one shard and storage sees them.

    Every method blocks: run it in a thread. Where the folder cannot be used, that is told once,
    and there are no files.
    """

    def __init__(self, path: Path, shard: Shard, storage: str) -> None:
        self._path = path
        self._shard = shard
        self._storage = storage
        self._told = False
        self._doubted: dict[str, float] = {}

    def files(self) -> tuple[GalleryFile, ...]:
        """All gallery files there are."""
        try:
            self._prepare()
            names = [entry.name for entry in os.scandir(self._path)]
        except OSError as error:
            self.tell(error)
            return ()
        return tuple(file for name in names if (file := self._parse(name)) is not None)

    def newest(
        self, files: Sequence[GalleryFile], collection_id: str, head: Head
    ) -> GalleryFile | None:
        """Of ``files`` the newest that may serve this matcher at ``head``."""
        return max(
            (file for file in files if self._serves(file, collection_id, head)),
            key=lambda file: file.version,
            default=None,
        )

    def open(self, collection_id: str, head: Head) -> Base | None:
        """The newest usable base at ``head`` or before it; what can never be used is removed.

        Whether its version lies in the history of ``head`` only the store can tell.
        """
        files = list(self.files())
        while (file := self.newest(files, collection_id, head)) is not None:
            files.remove(file)
            try:
                base = Base.open(file.path)
            except FileNotFoundError:
                continue  # replaced by another process meanwhile
            except OSError as error:
                self.tell(error)
            except (ValueError, KeyError, TypeError) as error:
                self._remove(file, f"it is damaged: {error}")
            else:
                wrong = self._wrong(base, file, head)
                if wrong is None:
                    return base
                self._remove(file, wrong)
        return None

    def write(self, collection_id: str, gallery: Gallery, *, beyond: int) -> Base | None:
        """Writes what ``gallery`` holds now; older files of it go. The base then lies in the file.

        None where another process is writing, or has written a version newer than ``beyond``.
        OSError where that cannot be done.
        """
        self._prepare()
        self._leave_room(gallery.nbytes)
        with self._alone() as alone:
            if not alone:
                return None
            now = replace(gallery.snapshot.base.head, version=gallery.snapshot.version)
            newest = self.newest(self.files(), collection_id, now)
            if newest is not None and newest.version > beyond:
                return None
            return self._write(collection_id, gallery)

    def vouch(self, collection_id: str, head: Head) -> bool:
        """Keeps the file of ``head`` though it is behind: nothing was removed since.

        False where it is gone: swept, or replaced by another process.
        """
        try:
            os.utime(self._place(collection_id, head))
        except FileNotFoundError:
            return False
        except OSError as error:
            self.tell(error)
        return True

    def discard(self, collection_id: str, head: Head, why: str) -> None:
        """Removes the file of ``head``."""
        file = self._parse(self._place(collection_id, head).name)
        assert file is not None
        self._remove(file, why)

    def tell(self, error: OSError) -> None:
        """Logs why files cannot be used; once, until one could be written again."""
        if not self._told:
            self._told = True
            log.warning("gallery files cannot be used: %s", error)

    def sweep(self, files: Sequence[GalleryFile], heads: Mapping[str, Head]) -> None:
        """Removes those of ``files`` that must not stay; ``heads`` were read after ``files``.

        That order tells a collection that is gone from one that was just made.
        """
        known = {_key(name, head.incarnation): head for name, head in heads.items()}
        passing = set()
        for file in files:
            head = known.get(file.key)
            if head is None:
                self._remove(file, "its collection is gone", logging.INFO)
            elif file.version > head.version:
                self._remove(file, "its collection has gone back to an earlier version")
            elif (why := self._doubt(file, head)) is not None:
                passing.add(file.path.name)
                if self._stale(file):
                    self._remove(file, why)
        self._doubted = {name: at for name, at in self._doubted.items() if name in passing}
        self._clear()

    def _clear(self) -> None:
        """Removes what processes that were killed had begun to write."""
        try:
            if not any(self._path.glob(f"*{_TEMPORARY}")):
                return
            with self._alone() as alone:
                for draft in self._path.glob(f"*{_TEMPORARY}") if alone else ():
                    draft.unlink(missing_ok=True)
        except OSError as error:
            self.tell(error)

    def _doubt(self, file: GalleryFile, head: Head) -> str | None:
        """Why a file that nobody vouches for must go; None where it may stay."""
        if file.version < head.version:
            return "it may hold what was removed from its collection"
        if file.shard.count != self._shard.count:
            return "it is of another number of shards, and nobody uses it"
        return None

    def _stale(self, file: GalleryFile) -> bool:
        """Whether it was seen in doubt, and nobody vouched for it, for long enough."""
        since = self._doubted.setdefault(file.path.name, time.monotonic())
        if time.monotonic() - since < STALE_AFTER_S:
            return False
        try:
            return abs(time.time() - file.path.stat().st_mtime) >= STALE_AFTER_S
        except OSError:
            return False  # gone, or no longer to be told apart

    def _serves(self, file: GalleryFile, collection_id: str, head: Head) -> bool:
        return (
            file.key == _key(collection_id, head.incarnation)
            and file.version <= head.version
            and file.shard == self._shard
            and file.storage == self._storage
        )

    def _wrong(self, base: Base, file: GalleryFile, head: Head) -> str | None:
        """Why a base does not belong under this name and head."""
        told = base.head
        if (told.incarnation, told.version) != (head.incarnation, file.version):
            return "it is of another collection or version than its name says"
        if (told.contract_id, told.dimension) != (head.contract_id, head.dimension):
            return "its embeddings are of another contract"
        if base.shard != self._shard or self._storage not in ("auto", base.storage):
            return "it is of another shard or storage than its name says"
        return None

    def _write(self, collection_id: str, gallery: Gallery) -> Base:
        records = gallery.merged_records()
        place = self._place(collection_id, records.head)
        draft = self._path / f"{secrets.token_hex(8)}{_TEMPORARY}"
        try:
            base = Base.build(records, self._storage, shard=self._shard, path=draft, threads=1)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
        _synchronise(self._path)
        written = self._parse(place.name)
        assert written is not None
        for file in self.files():
            if _succeeds(written, file):
                file.path.unlink(missing_ok=True)
        self._told = False
        return base

    def _leave_room(self, nbytes: int) -> None:
        """OSError unless as much again stays free: the database may lie on the same disk."""
        if shutil.disk_usage(self._path).free < 2 * nbytes:
            raise OSError(errno.ENOSPC, "too little space for a gallery file", str(self._path))

    def _prepare(self) -> None:
        """Makes the folder this user's alone; OSError where it is not, or cannot be made."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            why = "others may enter it; name a folder that does not exist yet"
            raise PermissionError(errno.EPERM, why, str(self._path))

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this is the one that writes now."""
        descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _place(self, collection_id: str, head: Head) -> Path:
        shard = f"{self._shard.index}of{self._shard.count}"
        name = f"{_key(collection_id, head.incarnation)}-{head.version}-{shard}-{self._storage}"
        return self._path / f"{name}.gallery"

    def _parse(self, name: str) -> GalleryFile | None:
        parts = _NAME.fullmatch(name)
        if parts is None:
            return None
        key, version, index, count, storage = parts.groups()
        shard = Shard(int(index), int(count))
        return GalleryFile(self._path / name, key, int(version), shard, storage)

    def _remove(self, file: GalleryFile, why: str, level: int = logging.WARNING) -> None:
        try:
            file.path.unlink()
            log.log(level, "gallery file %s is removed: %s", file.path.name, why)
        except FileNotFoundError:
            pass  # another process was quicker
        except OSError as error:
            self.tell(error)


def _key(collection_id: str, incarnation: str) -> str:
    return hashlib.sha256(f"{collection_id}\0{incarnation}".encode()).hexdigest()[:40]


def _succeeds(new: GalleryFile, old: GalleryFile) -> bool:
    same = (new.key, new.shard, new.storage) == (old.key, old.shard, old.storage)
    return same and new.version > old.version


def _synchronise(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
