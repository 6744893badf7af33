"""A folder of pictures, whose paths say whose they are."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from facegraph.bulk.items import SUFFIXES, File, Found, Item, Source, check_begin
from facegraph.bulk.patterns import MAX_PATH, PATTERN, Pattern, check_layout
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing.dataset_files import subject_of
from facegraph.importing.enrolling import Person
from facegraph.importing.report import Rejection


def item_at(pattern: Pattern, path: str, content: bytes | File) -> Found:
    """The picture at ``path`` as an item, or why it is none."""
    if len(path) > MAX_PATH:
        return _left_out(path, "no_subject", f"its path has more than {MAX_PATH} characters")
    name = pattern.subject(path)
    if name is None:
        return _left_out(path, "no_subject", f"does not fit {pattern.text}")
    try:
        return Item(shown(path), Person(subject_of(name), name, {}), content)
    except (InvalidRequest, UnicodeEncodeError):
        return _left_out(path, "invalid_id", "its subject can be no id or name")


def _left_out(path: str, code: str, detail: str) -> Rejection:
    return Rejection(None, shown(path), code, detail)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Every picture of a folder and below it, hidden ones and other files left alone.

    below: the folder that no link may lead out of; None: links to files are followed anywhere
    """

    folder: Path
    pattern: str = PATTERN
    below: Path | None = None

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        pattern = Pattern(self.pattern)
        check_layout(self.pattern, (path for path, linked in self._pictures() if not linked))
        for path, is_folder in self._pictures():
            if is_folder:
                yield _left_out(path, "linked_folder", "a link to a folder, which is not followed")
            else:
                yield item_at(pattern, path, File(self.folder / path, self.below))

    def check(self) -> None:
        check_begin(self)

    def count(self) -> int:
        return sum(1 for _ in self._pictures())

    def _pictures(self) -> Iterator[tuple[str, bool]]:
        """Paths relative to the folder, with whether that is a linked folder."""
        waiting = deque([""])
        while waiting:
            here = waiting.popleft()
            try:
                with os.scandir(self.folder / here) as entries:
                    for entry in entries:
                        path = f"{here}{entry.name}"
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(f"{path}/")
                        elif entry.is_dir():
                            yield path, True
                        elif Path(entry.name).suffix.lower() in SUFFIXES:
                            yield path, False
            except OSError as error:
                place = shown(here) or "the folder"
                raise ConfigError(f"cannot read {place}: {error.strerror}") from None


def shown(path: str) -> str:
    """A path as text that can be written: names of files may be no UTF-8."""
    return path.encode(errors="replace").decode()
