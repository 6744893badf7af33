"""Masks and captions over HTTP against a plain loop over the same engine, in one run.

    .venv/bin/python -m benchmarks.vision [--masks 12] [--captions 30] [--rounds 3]

One engine thread each: the loop runs in this process, the service has one replica of each model,
as `serve_config.yaml` says. Turns of the loop, in batches of 1 and 8, and of 1 and 8 clients
alternate; a ratio is of turns that lie side by side, and the table shows the median round. Captions
come from a BLIP base of random weights, all of the same length; see benchmarks.captions, which
also measures transformers' own loop.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from benchmarks import captions
from benchmarks.pictures import pictures
from benchmarks.serve import ask, service
from facegraph.config import settings_from
from facegraph.images import decode
from facegraph.models.vision_packs import DEFAULT_SEGMENTER, find_segmenter
from facegraph.types import DEFAULT_SEGMENT
from facegraph.vision.opening import open_segmenter

SIZES = (1, 8)
"""Images in a batch of the loop, and clients of the service."""

MASKS = "/v1/segmentations"
CAPTIONS = f"/v1/captions?min_length={captions.OPTIONS.min_length}"

PACK = """
name = "random-blip"
[licence]
name = "none"
permissive = true
[captioner]
kind = "blip"
config = "base"
"""

Way = Callable[[Sequence[bytes]], object]


def segmenter() -> Way:
    """The default segmenter, called as the service calls it."""
    settings = settings_from()
    engine = open_segmenter(find_segmenter(settings, DEFAULT_SEGMENTER), settings)

    def run(images: Sequence[bytes]) -> object:
        decoded = [decode(image, max_pixels=50_000_000) for image in images]
        return engine.segment(decoded, [DEFAULT_SEGMENT] * len(images))

    return run


def pack_file(folder: Path) -> Path:
    """A pack file for the captioner in ``folder``."""
    path = folder / "random-blip.toml"
    files = sorted(file.name for file in folder.iterdir())
    path.write_text(PACK + "".join(f'[[files]]\nname = "{name}"\n' for name in files))
    return path


def table(name: str, way: Way, port: int, target: str, seconds: float, rounds: int) -> None:
    if not seconds:
        return
    paths = [path for picture in pictures() for path in picture.paths]
    images = [path.read_bytes() for path in paths]
    rates: dict[str, list[tuple[float, float]]] = {}
    ask(port, paths, max(SIZES), 2, target)  # warm
    for _ in range(rounds):
        base = loop(way, images, 1, seconds)
        rates.setdefault("loop, batch 1", []).append((base, 1.0))
        batch = loop(way, images, 8, seconds)
        rates.setdefault("loop, batch 8", []).append((batch, batch / base))
        for clients in SIZES:
            rate = len(ask(port, paths, clients, seconds, target)) / seconds
            rates.setdefault(f"HTTP, {clients} clients", []).append((rate, rate / base))
    print(f"\n{name}\n| what | images/s | of the loop, batch 1 |\n| --- | --- | --- |")
    for what, turns in rates.items():
        rate, part = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f"| {what} | {rate:.2f} | {part:.2f} |", flush=True)


def loop(way: Way, images: Sequence[bytes], batch: int, seconds: float) -> float:
    """Images a second in batches of ``batch``, for at least ``seconds``."""
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        way([images[(done + n) % len(images)] for n in range(batch)])
        done += batch
    return done / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for what, seconds in (("--masks", 12.0), ("--captions", 30.0)):
        parser.add_argument(what, type=float, default=seconds, help="seconds of a turn; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(f"{platform.platform()}, {os.cpu_count()} cores, {options.rounds} rounds")
    with captions.random_base() as folder:
        captioner = captions.ours(folder, 1, "auto")
        more = {"FACEGRAPH_CAPTIONER": str(pack_file(folder))}
        with service(fast=True, more=more) as port:
            sizes = (options.masks, options.rounds)
            table("masks, yolov5s-seg", segmenter(), port, MASKS, *sizes)
            sizes = (options.captions, options.rounds)
            table("captions, BLIP base", captioner, port, CAPTIONS, *sizes)


if __name__ == "__main__":
    main()
