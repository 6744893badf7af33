"""Where the time goes, stage by stage: docs/performance.md and its picture come from here.

    FACEGRAPH_TEST_ASSETS=… python -m benchmarks profile [--clients 1 16] [--picture FILE.svg]

First the library alone, in this process with one thread: the CPU time of each stage of a picture,
every stage without those it calls. Then the service as shipped: what a lone request waits for, out
of its ``Server-Timing``, and the CPU time that each process takes for a picture while many clients
ask without pause. What a stage of the request takes more than in the library is the way there
and back.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.peers import facegraph
from benchmarks.pictures import Picture, assets, kinds
from benchmarks.profile import drawing, library, service
from benchmarks.report import heading

KINDS = ("portraits-jpeg", "portraits-png", "six-jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=8, help="of each turn of the service")
    parser.add_argument("--rounds", type=int, default=60, help="pictures of each kind, alone")
    parser.add_argument("--picture", type=Path, help="where to draw it, an SVG")
    options = parser.parse_args()
    print(heading("profile"))
    with tempfile.TemporaryDirectory(prefix="fg-profile-") as name:
        folder = Path(name)
        seen = [kind for kind in kinds(folder) if kind.name in KINDS]
        alone = {kind.name: _alone(kind, folder, options.rounds) for kind in seen}
        (folder / "service").mkdir()
        with facegraph.start("best engine", folder / "service") as contender:
            waits = {kind.name: service.waits(contender, kind) for kind in seen}
            shares = {
                (kind.name, clients): service.shares(contender, kind, clients, options.seconds)
                for kind in seen
                for clients in options.clients
            }
    _print(alone, waits, shares)
    if options.picture:
        drawing.draw(alone, shares, options.picture)


def _alone(kind: Picture, folder: Path, rounds: int) -> library.Stages:
    return library.stages(kind, folder, assets(), rounds)


def _print(
    alone: dict[str, library.Stages],
    waits: dict[str, service.Waits],
    shares: dict[tuple[str, int], service.Shares],
) -> None:
    print("\n### One picture in the library: CPU ms by stage, one thread\n")
    _table([*library.STAGES, "all"], {k: {**v, "all": sum(v.values())} for k, v in alone.items()})
    print("\n### One request, no other beside it: ms\n")
    _table(list(service.WAITS), waits)
    print("\n### The service under load: CPU ms a picture, by process\n")
    rows = {f"{kind}, {clients} clients": share for (kind, clients), share in shares.items()}
    _table([*service.ROLES, "all", "images/s"], rows)


def _table(columns: list[str], rows: dict[str, dict[str, float]]) -> None:
    print(f"| what | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{values.get(c, 0.0):.2f}' for c in columns)} |")


if __name__ == "__main__":
    main()
