"""The folder of one running copy: Ray's sockets and session, HAProxy's files, the resolved config.

It lies under ``/tmp`` whatever ``TMPDIR`` says: unix socket paths end at 107 bytes, and Ray and
HAProxy append up to 80.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path("/tmp")  # noqa: S108 - the folders in it are private and made by mkdtemp
PREFIX = "facegraph-"
OWNER = "owner.json"


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new private folder, gone afterwards; folders of dead copies go first."""
    remove_stale()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ROOT))
    try:
        (folder / OWNER).write_text(json.dumps(_identity(psutil.Process())))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(root: Path = ROOT) -> None:
    """Ends what dead copies of this user left behind, and removes their folders."""
    for folder in root.glob(PREFIX + "*"):
        if _owned(folder) and not _owner_alive(folder):
            _end_users_of(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _owned(folder: Path) -> bool:
    return (
        not folder.is_symlink()
        and (folder / OWNER).is_file()
        and folder.stat().st_uid == os.getuid()
    )


def _owner_alive(folder: Path) -> bool:
    """Whether the process that made the folder lives; its start time tells it from a later one
    with the same id."""
    try:
        said = json.loads((folder / OWNER).read_text())
        return bool(_identity(psutil.Process(said["pid"])) == said)
    except (psutil.NoSuchProcess, ValueError, KeyError, FileNotFoundError):
        return False


def _identity(process: psutil.Process) -> dict[str, float]:
    return {"pid": process.pid, "started": process.create_time()}


def _end_users_of(folder: Path) -> None:
    """Kills processes that name this folder, with its random part, on their command line."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        command = process.info["cmdline"] or []
        mine = process.info["uids"] and process.info["uids"].real == os.getuid()
        if mine and any(str(folder) in part for part in command):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
