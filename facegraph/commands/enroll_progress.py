"""How far ``facegraph enroll`` is, and what it did."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from facegraph.bulk.items import Source
    from facegraph.bulk.report import BulkReport

LINE_EVERY_S = 10.0
FIRST = 3


def say_first(source: Source) -> None:
    """Whose the first pictures are, for whoever sees that the pattern is wrong."""
    from facegraph.bulk.items import Item

    for one in islice(source.items(), FIRST):
        if isinstance(one, Item):
            name = one.person.name
            known_as = f" ({name})" if name not in {None, one.person.id} else ""
            print(f"  {one.where} -> {one.person.id}{known_as}", flush=True)
        else:
            print(f"  {one.item} -> left out: {one.detail}", flush=True)


@asynccontextmanager
async def progress(report: BulkReport, source: Source) -> AsyncIterator[None]:
    """A bar on a terminal, else a line now and then; the total comes when it is counted."""
    from tqdm import tqdm

    with tqdm(total=None, unit="item", disable=None, dynamic_ncols=True) as bar:
        lines = _Lines(report) if bar.disable else None
        counting = asyncio.create_task(_count(source, bar, lines))

        def step() -> None:
            if lines is not None:
                lines.step()
                return
            bar.set_postfix(_rates(report, bar), refresh=False)
            bar.update()

        report.step = step
        try:
            yield
        finally:
            counting.cancel()


async def _count(source: Source, bar: tqdm[Any], lines: _Lines | None) -> None:
    from facegraph.errors import FacegraphError

    try:
        total = await asyncio.to_thread(source.count)
    except FacegraphError:
        return  # reading it says so
    bar.total = total
    if lines is not None:
        lines.total = total


def _rates(report: BulkReport, bar: tqdm[Any]) -> dict[str, Any]:
    seconds = max(bar.format_dict["elapsed"], 1e-3)
    return {
        "faces/s": f"{report.new_samples / seconds:.1f}",
        "rejected": report.rejected.total(),
    }


class _Lines:
    """For a log: how far it is, every ten seconds."""

    def __init__(self, report: BulkReport) -> None:
        self.total: int | None = None
        self._report = report
        self._began = self._said = time.monotonic()

    def step(self) -> None:
        now = time.monotonic()
        if now - self._said < LINE_EVERY_S:
            return
        self._said = now
        report, seconds = self._report, now - self._began
        pace = report.read / seconds
        rest = max(0, (self.total or 0) - report.read)  # the total is about
        left = f", {rest / pace:.0f} s left" if self.total else ""
        print(
            f"{report.read}{f' of {self.total}' if self.total else ''} items, {pace:.1f}/s, "
            f"{report.new_samples / seconds:.1f} faces/s, {report.rejected.total()} rejected{left}",
            flush=True,
        )


def say(report: BulkReport, began: float) -> None:
    seconds = time.monotonic() - began
    print(f"{report.read} read in {seconds:.1f} s, {report.read / max(seconds, 1e-3):.1f}/s")
    print(f"subjects: {report.new_subjects} new, {report.known_subjects} there already")
    print(f"enrolled: {report.new_samples}")
    print(f"skipped:  {report.known_samples} there already")
    print(f"rejected: {report.rejected.total()}", flush=True)
    for code, times in report.rejected.most_common():
        print(f"  {times:7} {code}")
    for one in report.first:
        print(f"rejected: {one.item}: {one.detail} ({one.code})", file=sys.stderr)
    if (more := report.rejected.total() - len(report.first)) > 0:
        print(f"… and {more} more; --rejected FILE has them all", file=sys.stderr)
    sys.stdout.flush()
