"""The log of one copy, and the lines in it that are meant for the operator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import BinaryIO

from facegraph.errors import StartupError

SAYS = "facegraph: "
"""Begins every line that the deployments print for the operator."""

CANNOT_START = SAYS + "cannot start: "
"""Said once when the application cannot be built; nothing will try again."""

DID_NOT_START = SAYS + "a replica did not start: "
"""Said for each replica that fails in its constructor; Serve tries a few times."""

TRIES = 3
"""How often a replica may give the same reason before the start is given up."""


class Journal:
    """A log file that is written elsewhere and read here, line by line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(path.with_suffix(".previous.log"))
        self.path = path
        self.sink: BinaryIO = path.open("wb")
        self._source = path.open("rb")
        self._rest = b""
        self._reasons: Counter[str] = Counter()

    def close(self) -> None:
        self.sink.close()
        self._source.close()

    def news(self) -> list[str]:
        """The operator's lines since the last call, without Ray's prefix and repetitions."""
        *lines, self._rest = (self._rest + self._source.read()).split(b"\n")
        texts = (line.decode(errors="replace") for line in lines)
        said = [text[text.index(SAYS) :] for text in texts if SAYS in text]
        before = set(self._reasons)
        self._reasons.update(said)
        return [text for text in dict.fromkeys(said) if text not in before]

    def raise_if_hopeless(self) -> None:
        """StartupError once a reason was given that another try does not change."""
        for text, count in self._reasons.items():
            if text.startswith(CANNOT_START):
                raise StartupError(text.removeprefix(CANNOT_START))
            if text.startswith(DID_NOT_START) and count >= TRIES:
                raise StartupError(text.removeprefix(DID_NOT_START))

    def tail(self, lines: int = 20) -> str:
        """The last lines, for when nothing else says why."""
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])
