"""The gallery beside its peers: what searches, memory, loading and freshness cost, in one run.

    .venv/bin/python -m benchmarks gallery [--quick] [--samples 10000 100000 1000000]
        [--dimension 128 512] [--parts engine end-to-end …] [--engines "FAISS flat" …]

The peers are no dependencies; without them their rows are left out. The latest that were measured:

    .venv/bin/python -m pip install -r benchmarks/requirements.txt

Ours is always grouped by subject and exact; what peers answer is shown both ways. All take turns
of a moment, each beside a turn of ours and beside the bare reading of the int8 matrix, because
machines change their pace: ratios are of turns that lie side by side, figures are medians.
Everything has all cores; ``taskset -c 0`` gives it one.

A service that runs is measured over HTTP as well, in the dimension of its model:

    .venv/bin/python -m benchmarks gallery --parts end-to-end --http http://127.0.0.1:8000
        --database-url postgresql://…
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gallery import (
    aims,
    churn,
    freshness,
    http_clients,
    loading,
    memory,
    merging,
    scanning,
    serving,
)
from benchmarks.gallery.cell import Cell, Options
from benchmarks.gallery.database import Databases
from benchmarks.gallery.report import Report

PARTS = {
    "engine": (scanning.run,),
    "end-to-end": (serving.run,),
    "memory": (memory.run,),
    "load": (loading.run,),
    "freshness": (freshness.run,),
    "churn": (merging.run, churn.run),
}

ENGINES = tuple(peer.name for peer in scanning.PEERS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report, also of a run that was interrupted."""
    options = parse(arguments)
    report = Report(("aims", *PARTS))
    try:
        measure(options, report)
        aims.add(report, max(options.samples), max(options.dimension))
    finally:
        print(report.markdown(), flush=True)
        if options.json is not None:
            report.write_json(options.json)


def measure(options: argparse.Namespace, report: Report) -> None:
    """One size after the other, so that only one is in memory."""
    chosen = Options(options.engines, options.seconds, options.rounds)
    with Databases() as databases:
        for dimension in options.dimension:
            for samples in sorted(options.samples):
                last = samples == max(options.samples)
                largest = last and dimension == max(options.dimension)
                cell = Cell(samples, dimension, last, largest, chosen, report, databases)
                try:
                    for part in options.parts:
                        for run in PARTS[part]:
                            run(cell)
                    if options.http is not None:
                        http_clients.run(cell, options.http, options.database_url)
                finally:
                    cell.close()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gallery", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES, metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--seconds", type=float, default=0.15, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a minute: 10,000 × 128")
    parser.add_argument("--json", type=Path, help="where to write the same as JSON")
    parser.add_argument("--http", help="URL of a service that runs")
    parser.add_argument("--database-url", help="of that service's database, to fill a collection")
    options = parser.parse_args(arguments)
    if options.quick:
        options.samples, options.dimension = [10_000], [128]
        options.seconds, options.rounds = 0.05, 2
    return options


if __name__ == "__main__":
    main()
