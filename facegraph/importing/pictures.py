"""Which pictures of a folder belong to which old id.

``<id>.<suffix>``, ``<id>_<anything>.<suffix>``, and every file directly in a folder ``<id>``. A
file that fits several ids belongs to the longest: ``7_2.jpg`` is of the face ``7_2`` where there
is one, else of ``7``. Hidden files count for nothing.

Ids are only compared with names that the folder really has, never made into paths; a link that
leads out of the folder is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facegraph.errors import ConfigError
from facegraph.importing.report import Rejected


@dataclass(frozen=True, slots=True)
class Picture:
    """``name``: relative to the folder."""

    name: str
    path: Path


class PictureFolder:
    """The folder's names in memory; :meth:`claim` every id before asking for pictures."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder")
        self._root = folder.resolve()
        self._owners: dict[str, str | None] = {}
        self._folders: set[str] = set()
        self._fitting: dict[str, list[str]] = {}
        try:
            names = _names(self._root)
        except OSError as error:
            raise ConfigError(f"cannot read {folder}: {error.strerror}") from None
        for name in names:
            self._add(name)

    def _add(self, name: str) -> None:
        self._owners[name] = None
        ids = [name]
        if (self._root / name).is_dir():
            self._folders.add(name)
        else:
            stem = name.rpartition(".")[0]
            ids = [stem[:at] for at, sign in enumerate(stem) if sign == "_"]
            ids += [stem] if "." in name else []
        for old_id in ids:
            self._fitting.setdefault(old_id, []).append(name)

    def claim(self, old_id: str) -> None:
        """Makes ``old_id`` known, so that no shorter one is given its pictures."""
        for name in self._fitting.get(old_id, ()):
            owner = self._owners[name]
            if owner is None or len(owner) < len(old_id):
                self._owners[name] = old_id

    def pictures(self, old_id: str) -> list[Picture]:
        """The pictures of an id, by name."""
        found = []
        for name in sorted(self._fitting.get(old_id, ())):
            if self._owners[name] == old_id:
                found += self._inside(name) if name in self._folders else [self._picture(name)]
        return found

    @property
    def unclaimed(self) -> int:
        """How many files and folders fit no id."""
        return sum(owner is None for owner in self._owners.values())

    def read(self, picture: Picture, max_bytes: int) -> bytes:
        """The file's bytes; Rejected."""
        return read_below(self._root, picture.path, max_bytes)

    def _picture(self, *names: str) -> Picture:
        return Picture("/".join(names), self._root.joinpath(*names))

    def _inside(self, folder: str) -> list[Picture]:
        """The files of a folder; itself, to be refused, where it leads out or cannot be read."""
        here = self._picture(folder)
        real = here.path.resolve()
        if not real.is_relative_to(self._root):
            return [here]
        try:
            pictures = [self._picture(folder, name) for name in _names(real)]
        except OSError:
            return [here]
        return [picture for picture in pictures if not picture.path.is_dir()]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def read_below(root: Path | None, path: Path, max_bytes: int) -> bytes:
    """A file's bytes; Rejected, also for one that is not below ``root``, links resolved."""
    try:
        real = path.resolve(strict=True)
        if root is not None and not real.is_relative_to(root):
            raise Rejected("outside_folder", "a link that leads out of the folder")
        if not real.is_file():
            raise Rejected("no_file", "no file that can be read")
        with real.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:  # pathlib's for a link that leads to itself
        said = getattr(error, "strerror", None) or "cannot be read"
        raise Rejected("unreadable", said) from None
    if len(data) > max_bytes:
        raise Rejected("image_too_large", f"the file has more than {max_bytes} bytes")
    return data
