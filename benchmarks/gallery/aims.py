"""What is aimed at, beside what was measured at the largest size."""

from __future__ import annotations

from benchmarks.gallery.loading import ANSWERED
from benchmarks.gallery.report import Report, Table, Value
from benchmarks.gallery.scanning import OURS

COLUMNS = ("aim", "bound", "measured", "reached")


def add(report: Report, samples: int, dimension: int) -> None:
    """Adds the table of those aims whose parts were run."""
    size = f"{samples:,} × {dimension}"
    table = Table("aims", f"{size}: aims", COLUMNS)
    engine = _find(report, "engine", f"{size}: one engine")
    clients = _find(report, "end-to-end", f"{size}: clients, end to end")
    churn = _find(report, "churn", f"{size}: searches during a merge")
    load = _find(report, "load", f"{size}: loading")
    if engine is not None:
        read = _value(engine, "1: of the read", OURS)
        _at_most(table, "one query by subject, of the int8 read", 1.5, read)
        _at_least(table, "top-1 as brute force", 0.9999, _value(engine, "top-1", OURS))
    if engine is not None and clients is not None:
        many = _value(clients, "answers/s", OURS, 64) / _value(engine, "1: probes/s", OURS)
        _at_least(table, "64 clients, of the rate of single queries", 10, many)
    if load is not None:
        _at_most(
            table,
            "loading, of the bare COPY",
            2,
            _value(load, "of the COPY", ANSWERED),
        )
    if churn is not None:
        _at_most(
            table, "one query during a merge, p50", 2, _value(churn, "p50 of quiet", "merging")
        )
    if table.rows:
        report.tables.append(table)


def _find(report: Report, part: str, title: str) -> Table | None:
    return next((table for table in report.of(part) if table.title.startswith(title)), None)


def _value(table: Table, column: str, *first: Value) -> float:
    """What stands in ``column`` of the row that begins with ``first``."""
    row = next(row for row in table.rows if tuple(row[: len(first)]) == first)
    value = row[list(table.columns).index(column)]
    assert isinstance(value, int | float)
    return float(value)


def _at_most(table: Table, aim: str, bound: float, value: float) -> None:
    _judge(table, aim, f"≤ {bound:g}", value, value <= bound)


def _at_least(table: Table, aim: str, bound: float, value: float) -> None:
    _judge(table, aim, f"≥ {bound:g}", value, value >= bound)


def _judge(table: Table, aim: str, bound: str, value: float, reached: bool) -> None:
    table.add(aim, bound, value, "yes" if reached else "no")
