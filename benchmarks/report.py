"""The tables of ``benchmarks.serve`` as they go into RESULTS.md."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.gallery.report import Table, Value, environment, version
from benchmarks.loop import Shape
from benchmarks.pictures import Picture
from benchmarks.turns import Rounds, median

OURS = "Facegraph"
PACKAGES = ("ray", "onnxruntime", "openvino", "insightface", "opencv-python-headless", "numpy")
COLUMNS = (
    "what", "clients", "images/s", "p50 ms", "p99 ms", "of the loop", "CPU ms/image",
    "client's CPU ms/image", "wrong",
)  # fmt: skip

LEGEND = """\
Of the loop: images/s over those of the loop's turn just before, median of rounds. Percentiles are
of all rounds' answers. CPU: user and system time of all processes of a contender, over its answers.
Wrong: answers with another number of faces, other people or another status than right; they are in
no other column."""


@dataclass(slots=True)
class Measured:
    """All rounds with one kind of picture: of the loop by shape, of others by name and clients."""

    picture: Picture
    loop: dict[Shape, Rounds]
    served: dict[tuple[str, int], Rounds]

    def of_the_loop(self, shape: Shape) -> Rounds:
        return self.loop.setdefault(shape, Rounds())

    def of(self, name: str, clients: int) -> Rounds:
        return self.served.setdefault((name, clients), Rounds())

    def best(self, names: Iterable[str]) -> float:
        """The highest median rate of any of ``names`` with any number of clients."""
        rates = [each.rate for (name, _), each in self.served.items() if name in set(names)]
        return max(rates, default=math.nan)


def heading(command: str) -> str:
    """What figures are worth nothing without."""
    about = environment()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            f"`python -m benchmarks {command} {shlex.join(sys.argv[1:])}`; {about['date']}",
            f"{about['hardware']}; Python {platform.python_version()}, {versions}",
            "",
        ]
    )


def picture_table(measured: Measured) -> str:
    picture = measured.picture
    names = ", ".join(f"{path.name} ({path.stat().st_size / 1e3:.0f} kB)" for path in picture.paths)
    table = Table("", picture.name, COLUMNS, notes=[names])
    for shape, rounds in measured.loop.items():
        table.add(f"loop, {shape}", None, *_figures(rounds), None, len(rounds.wrong))
    for (name, clients), rounds in sorted(measured.served.items(), key=lambda item: item[0]):
        table.add(name, clients, *_figures(rounds), rounds.client_ms, len(rounds.wrong))
        table.notes += [f"\n{name}: {rounds.wrong[0]}"] if rounds.wrong else []
    return table.markdown()


def _figures(rounds: Rounds) -> tuple[Value, ...]:
    percentiles = (rounds.percentile_ms(50), rounds.percentile_ms(99))
    return (rounds.rate, *percentiles, median(rounds.of_loop), rounds.cpu_ms)


def verdicts(all_measured: Sequence[Measured]) -> str:
    """Each of our ways against the loop and the best peer, at the best number of clients."""
    columns = (
        "picture", "what", "of the loop", "p50, 1 client, of the loop's", "of the best peer",
        "CPU of the loop's",
    )  # fmt: skip
    table = Table("", "side by side", columns)
    for measured in all_measured:
        peers = {name for name, _ in measured.served if not name.startswith(OURS)}
        ours = dict.fromkeys(name for name, _ in measured.served if name.startswith(OURS))
        for name in ours:
            table.add(measured.picture.name, name, *_verdict(measured, name, peers))
    return table.markdown()


def _verdict(measured: Measured, name: str, peers: Collection[str]) -> tuple[Value, ...]:
    ways = {clients: each for (who, clients), each in measured.served.items() if who == name}
    loop_p50 = min(each.percentile_ms(50) for each in measured.loop.values())
    loop_cpu = min(each.cpu_ms for each in measured.loop.values())
    return (
        max(median(each.of_loop) for each in ways.values()),
        ways[1].percentile_ms(50) / loop_p50 if 1 in ways else None,
        measured.best([name]) / measured.best(peers) if peers else None,
        min(each.cpu_ms for each in ways.values()) / loop_cpu,
    )
