"""The text of a ``dataset.json``, entry by entry, in memory never more than its largest.

Each entry is decoded on its own: decoding a large file at once would hold up every other thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from facegraph.errors import InvalidRequest

RawEntry = tuple[str, Any, Any]
"""Where an entry stands, its label and its numbers, as they were sent."""

MAX_PIECE = 16 * 2**20
"""Characters of one entry, or of all that belongs to one label."""

_CHUNK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


def entries(file: TextIO) -> Iterator[RawEntry]:
    """The entries in either form, unchecked; InvalidRequest where the file is no JSON."""
    text = _Text(file)
    match text.sign():
        case "[":
            for at, _ in enumerate(text.items("]")):
                yield entry_of_list(at, text.value())
        case "{":
            for _ in text.items("}"):
                label = text.value()
                if not isinstance(label, str) or text.sign() != ":":
                    raise text.wrong()
                yield from entries_of_label(label, text.value())
        case _:
            raise InvalidRequest("the dataset must be a list or an object")
    if text.sign():
        raise text.wrong()


def entry_of_list(at: int, value: Any) -> RawEntry:
    """Entry ``at`` of the first form."""
    label, numbers = value if isinstance(value, list) and len(value) == 2 else (None, None)
    return f"entry {at}", label, numbers


def entries_of_label(label: str, images: Any) -> Iterator[RawEntry]:
    """The entries of one label of the second form."""
    if not isinstance(images, list):
        yield f"{label:.80}", label, None
        return
    for at, image in enumerate(images):
        numbers = image.get("embedding") if isinstance(image, dict) else None
        yield f"{label:.80}[{at}]", label, numbers


class _Text:
    """JSON text of which only what is being read is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._buffer = ""
        self._at = 0
        self._passed = 0
        self._decoder = json.JSONDecoder()

    def sign(self) -> str:
        """The next character that is no space, taken; "" at the end."""
        sign = self._peek()
        self._at += len(sign)
        return sign

    def items(self, end: str) -> Iterator[None]:
        """Stops before each item of a list or an object, until ``end`` is taken."""
        if self._peek() == end:
            self._at += 1
            return
        while True:
            yield
            sign = self.sign()
            if sign == end:
                return
            if sign != ",":
                raise self.wrong()

    def value(self) -> Any:
        """The next value, taken."""
        self._peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):
                if len(self._buffer) - self._at > MAX_PIECE:
                    raise InvalidRequest(
                        f"the dataset has an entry that is no JSON, or longer than {MAX_PIECE} "
                        f"characters, after {self._passed + self._at} characters"
                    ) from None
                if not self._more(size):
                    raise self.wrong() from None
                size *= 2
            else:
                self._at = end
                return value

    def wrong(self) -> InvalidRequest:
        return InvalidRequest(f"the dataset is no JSON after {self._passed + self._at} characters")

    def _peek(self) -> str:
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more(_CHUNK):
                return ""

    def _more(self, size: int) -> bool:
        """Reads on and drops what was taken; False at the end of the file."""
        try:
            read = self._file.read(size)
        except UnicodeDecodeError:
            raise InvalidRequest("the dataset is no UTF-8") from None
        self._passed += self._at
        self._buffer = self._buffer[self._at :] + read
        self._at = 0
        return bool(read)
