"""Labelled pictures as the input of a job: one zip, which lists them with their labels."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from facegraph.bulk.items import Found, Item, Source, check_begin
from facegraph.errors import InvalidRequest
from facegraph.importing.enrolling import Person
from facegraph.recognizers.options import MAX_LABEL

UNKNOWN = "unknown"
"""What stands in an answer where nobody is told, so nobody may be called that."""

_LIST = "labels.json"
_IN_MEMORY = 256 * 1024
_NUMBERED = re.compile(r"(.+)_\d+")
MAX_WHERE = 300


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPicture:
    """``where`` tells the client which one it is; ``data``: its compressed bytes."""

    label: str
    where: str
    data: bytes


def check_label(label: str) -> str:
    """``label``; InvalidRequest for one that cannot be kept or would be misunderstood."""
    if not label or label != label.strip() or len(label) > MAX_LABEL or not label.isprintable():
        raise InvalidRequest(
            f"a label has 1 to {MAX_LABEL} printable characters, no blank at its ends"
        )
    if label.casefold() == UNKNOWN:
        raise InvalidRequest(f"nobody may be labelled {label!r}: answers say so of strangers")
    return label


def label_of(filename: str) -> str | None:
    """Whose picture a file is by its name: its folder's, or what comes before ``_<n>``."""
    path = PurePosixPath(filename.replace("\\", "/"))
    if folder := path.parent.name:
        return folder
    numbered = _NUMBERED.fullmatch(path.stem)
    return numbered[1] if numbered else None


def write_pictures(pictures: Iterable[LabelledPicture]) -> BinaryIO:
    """A file for the job's input, on disk where it is large; it blocks. Close it."""
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes
    listed = []
    with zipfile.ZipFile(cast(BinaryIO, file), "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(str(number), picture.data)
            listed.append([picture.label, picture.where[:MAX_WHERE]])
        archive.writestr(_LIST, json.dumps(listed))
    file.seek(0)
    return cast(BinaryIO, file)


@dataclass(frozen=True, slots=True)
class PictureSource:
    """What :func:`write_pictures` wrote; an item's person has the label as id."""

    file: BinaryIO

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        with zipfile.ZipFile(self.file) as archive:
            for number, (label, where) in enumerate(json.loads(archive.read(_LIST))):
                yield Item(where, Person(label, None, {}), archive.read(str(number)))

    def check(self) -> None:
        check_begin(self)

    def count(self) -> int:
        with zipfile.ZipFile(self.file) as archive:
            return len(archive.namelist()) - 1
