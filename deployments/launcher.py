"""``facegraph check cluster.yaml``: what ``ray up`` would refuse, and what is left to fill in."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections.abc import Iterator

import jsonschema
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.located import Document, Finding

PLACEHOLDER = re.compile(r"ami-0+|192\.0\.2\.\d+")
"""What the shipped file has where only the operator knows what belongs there."""

NO_TYPES = ("available_node_types", "head_node_type", "head_node", "worker_nodes")
"""Sections that Ray refuses for machines of one's own, whose resources it counts itself."""


def is_launcher(document: Document) -> bool:
    """Whether it is one of Ray's launcher, and not a configuration of Serve."""
    return isinstance(document.get(("provider",)), dict) and document.get(("applications",)) is None


def findings(document: Document) -> Iterator[Finding]:
    """What Ray's own schema and validator say, and what is still to be filled in."""
    if document.get(("provider", "type")) == "local" and (
        types := [section for section in NO_TYPES if document.get((section,))]
    ):
        yield from (
            Finding(document.line((section,)), f"{section}: not for machines of your own")
            for section in types
        )
        return
    yield from _refused(document)
    yield from _placeholders(document)
    yield from _head(document)


def _refused(document: Document) -> Iterator[Finding]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it warns of mounts that only Docker minds
            validate_config(prepare_config(copy.deepcopy(document.value)))
    except jsonschema.ValidationError as error:
        place = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            place += tuple(re.findall(r"'(\w+)' w(?:as|ere) unexpected", error.message)[:1])
        yield Finding(document.line(place), error.message)
    except (ValueError, RuntimeError, AssertionError) as error:
        yield Finding(1, str(error))


def _placeholders(document: Document) -> Iterator[Finding]:
    lines: dict[str, int] = {}
    for place, line in document.lines.items():
        value = document.get(place)
        if isinstance(value, str) and PLACEHOLDER.fullmatch(value):
            lines.setdefault(value, line)
    for value, line in lines.items():
        yield Finding(line, f"{value} is a placeholder: name yours", warning=True)


def _head(document: Document) -> Iterator[Finding]:
    place = ("available_node_types", str(document.get(("head_node_type",))), "resources", "CPU")
    if document.get(place):
        yield Finding(
            document.line(place),
            "the head counts CPUs, so replicas run there, beside what the cluster lives on",
            warning=True,
        )
