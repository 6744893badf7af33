"""A YAML document whose every part knows its line."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVED = re.compile(r"^( *)serveConfigV2: *\|.*\n((?:\1 +.*\n|\s*\n)+)", re.MULTILINE)
"""The Serve configuration inside a RayService of KubeRay."""

Steps = tuple[str | int, ...]
"""The way to a part: keys and indices from the root."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something wrong, or worth a warning, at a line of the document."""

    line: int
    message: str
    warning: bool = False


@dataclass(slots=True)
class Document:
    """``value`` is the plain data; ``lines`` has the line of each part, a key's for its value.

    ``served``: it lies inside a RayService.
    """

    value: Any
    lines: dict[Steps, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    served: bool = False

    def place(self, steps: Steps) -> Steps:
        """The part itself, or the nearest part around it that exists."""
        while steps not in self.lines:
            steps = steps[:-1]
        return steps

    def line(self, steps: Steps) -> int:
        """The line of that place."""
        return self.lines[self.place(steps)]

    def span(self, steps: Steps) -> range:
        """The lines from a part's first to the last one where something in it begins."""
        inside = [line for at, line in self.lines.items() if at[: len(steps)] == steps]
        return range(min(inside), max(inside) + 1)

    def get(self, steps: Steps, default: Any = None) -> Any:
        value = self.value
        for step in steps:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def items(self, steps: Steps) -> list[Steps]:
        """The way to each item, when the part is a list."""
        value = self.get(steps)
        return [(*steps, i) for i in range(len(value))] if isinstance(value, list) else []


def load(path: Path) -> Document:
    """The document, with a finding for each duplicate key, or for a file that is no YAML.

    Raises OSError.
    """
    text = path.read_text()
    served = _served(text)
    try:
        if served is not text:
            list(yaml.safe_load_all(text))  # what is around it is YAML, too
        node = yaml.compose(served, Loader=yaml.SafeLoader)
        if node is None:
            return Document(None, {(): 1}, [Finding(1, "the file is empty")])
        document = Document(_construct(node), served=served is not text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Document(None, {(): 1}, [Finding(line, f"not YAML: {error.problem}")])
    _locate(document, node, ())
    return document


def _served(text: str) -> str:
    """Only the Serve configuration, on the same lines, where the text is a RayService."""
    if (found := SERVED.search(text)) is None:
        return text
    return "\n" * text.count("\n", 0, found.start(2)) + textwrap.dedent(found[2])


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _locate(document: Document, node: yaml.Node, steps: Steps) -> None:
    document.lines.setdefault(steps, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(document, item, (*steps, index))
    elif isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                message = f"key {key.value!r} appears twice, first in line {seen[key.value]}"
                document.findings.append(Finding(line, message))
            seen[key.value] = document.lines[(*steps, key.value)] = line
            _locate(document, value, (*steps, key.value))
