"""This service over HTTP, a plain loop on the same models, and other servers, side by side.

    FACEGRAPH_TEST_ASSETS=… python -m benchmarks serve [--clients 1 4 16 64] [--pictures …]
        [--ways "same engine" "best engine"] [--peers insightface-rest=FOLDER …]
        [--seconds 3] [--rounds 5] [--malformed 100]

All are up together and take turns of a few seconds; who has no turn is stopped (SIGSTOP). Every
round begins with the loop, and a ratio is of a turn and the loop's before it; the table shows
medians of rounds, percentiles of all rounds' answers. Everybody has the same six people enrolled,
every answer is checked (how many faces, who), and only right ones count. One light client serves
them all, from the same cores: its CPU is shown. benchmarks/peers/ tells how to bring up a peer.

Without the test assets the service runs its default pack, and the loop this project's engines.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from benchmarks import malformed
from benchmarks.client import post, run, traffic
from benchmarks.loop import SHAPES, Loop, Shape, random_embeddings
from benchmarks.peers import PEERS, facegraph, peer
from benchmarks.peers.contender import SAMPLES, Contender
from benchmarks.pictures import KINDS, Picture, assets, kinds, portraits
from benchmarks.report import LEGEND, Measured, heading, picture_table, verdicts
from benchmarks.services import fill, free_port, running
from benchmarks.turns import Rounds, loop_turn, serve_turn
from facegraph.config import settings_from

CHOOSING_TURNS = 2
WARM_SECONDS = 2.0


def ask(
    port: int, paths: Sequence[Path], clients: int, seconds: float, target: str = facegraph.SEARCH
) -> list[float]:
    """Seconds each request took, of ``clients`` connections that send without pause."""
    requests = [post(target, path.read_bytes(), "image/jpeg") for path in paths]
    seen = run(traffic((port,), requests, clients, seconds))
    failed = [each.answer for each in seen.exchanges if each.answer.status != 200]
    if failed:
        raise SystemExit(f"{len(failed)} failed: {failed[0].status} {failed[0].body[:200]!r}")
    return [each.took_s for each in seen.exchanges]


@contextmanager
def service(*, fast: bool, more: Mapping[str, str] | None = None) -> Iterator[int]:
    """A service of its own with a filled gallery and ``more`` environment; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        models = {"FACEGRAPH_MODELS_DIR": str(settings_from().models_path)}
        environment = {**os.environ, **models, "FACEGRAPH_DATA_DIR": folder, **(more or {})}
        with running(port, fast=fast, environment=environment):
            fill(port, random_embeddings(SAMPLES, 128))
            yield port


def main() -> None:
    options = arguments()
    # Whatever ends this ends what it started, also what is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fg-bench-")))
        contenders: list[Contender] = []
        for starting in _starting(options, folder):
            contenders.append(stack.enter_context(starting))
            contenders[-1].group.freeze()
        loops = {
            shape: stack.enter_context(Loop(SAMPLES, portraits(), shape, assets()))
            for shape in SHAPES
        }
        print(heading("serve"), LEGEND, sep="\n", flush=True)
        measured: list[Measured] = []
        for picture in kinds(folder, options.pictures):
            measured.append(measure(picture, loops, contenders, options))
            print(picture_table(measured[-1]), flush=True)
        print(verdicts(measured), flush=True)
        if options.malformed:
            ours = contenders[len(options.ways) - 1]
            (picture,) = kinds(folder, options.pictures[:1])
            print(malformed.table(ours, picture, options.malformed, options.rounds), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--pictures", nargs="+", default=list(KINDS), choices=KINDS)
    ways = list(facegraph.WAYS)
    parser.add_argument("--ways", nargs="+", default=ways[:2], choices=ways, help="of this service")
    where = f"name=where, of {', '.join(PEERS)}; see benchmarks/peers/"
    parser.add_argument("--peers", nargs="*", default=[], help=where)
    parser.add_argument("--seconds", type=float, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--malformed", type=int, default=0, help="bad requests among good ones")
    return parser.parse_args()


def _starting(
    options: argparse.Namespace, folder: Path
) -> Iterator[AbstractContextManager[Contender]]:
    """Each contender as something to enter, which leaves it ready."""
    for way in options.ways:
        own = folder / way.replace(" ", "-")
        own.mkdir()
        yield facegraph.start(way, own)
    for given in options.peers:
        yield peer(given, folder)


def measure(
    picture: Picture,
    loops: Mapping[Shape, Loop],
    contenders: Sequence[Contender],
    options: argparse.Namespace,
) -> Measured:
    """All turns with one kind of picture."""
    measured = Measured(picture, {}, {})
    best = _best_shape(picture, loops, options.seconds)
    for contender in contenders:
        serve_turn(contender, picture, max(options.clients), WARM_SECONDS)
    for number in range(options.rounds):
        for clients in options.clients:
            base = loop_turn(loops[best], picture, options.seconds)
            measured.of_the_loop(best).add(base, base)
            # One image at a time may be quicker in the other shape: that is what p50 is held to.
            for shape in (set(loops) - {best}) if clients == 1 else ():
                measured.of_the_loop(shape).add(
                    loop_turn(loops[shape], picture, options.seconds), base
                )
            first = number % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                turn = serve_turn(contender, picture, clients, options.seconds)
                measured.of(contender.name, clients).add(turn, base)
    return measured


def _best_shape(picture: Picture, loops: Mapping[Shape, Loop], seconds: float) -> Shape:
    """The shape in which the loop gets through most."""
    turns = {shape: Rounds() for shape in loops}
    for _ in range(CHOOSING_TURNS):
        for shape, loop in loops.items():
            turn = loop_turn(loop, picture, seconds)
            turns[shape].add(turn, turn)
    return max(turns, key=lambda shape: turns[shape].rate)


if __name__ == "__main__":
    main()
