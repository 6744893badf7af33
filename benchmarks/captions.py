"""Captions a second without HTTP: transformers in a plain loop, and this project's captioner.

    .venv/bin/python -m benchmarks.captions [--folder FOLDER] [--threads 2] [--rounds 3]

Without a folder with a BLIP in transformers' layout it measures one of BLIP base's size with random
weights. Every caption is made to have the same number of tokens, so that weights do not matter.
A turn is a few seconds of one way; turns alternate, and the table shows the median.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.utils import logging as transformers_logging

from benchmarks.pictures import pictures
from facegraph.images import decode
from facegraph.models.places import Licence
from facegraph.models.vision_packs import CaptionerModel
from facegraph.types import CaptionOptions
from facegraph.vision.blip import BlipCaptioner

OPTIONS = CaptionOptions(min_length=20, max_length=20)
"""The API's defaults, but for the end of a caption, which never comes early."""

BATCHES = (1, 8)

Way = Callable[[Sequence[bytes]], object]
"""Captions compressed images, all in one batch."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Captions a second of one way at one batch size, in each round."""

    way: str
    batch: int
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def measure(
    folder: Path, *, threads: int, seconds: float = 5, rounds: int = 3, batches: Sequence[int] = ()
) -> list[Rate]:
    """Each way at each batch size, ``rounds`` turns of at least ``seconds``."""
    images = [path.read_bytes() for picture in pictures() for path in picture.paths]
    torch.set_num_threads(threads)
    ways = {
        "transformers, float32": plain(folder, torch.float32),
        "transformers, bfloat16": plain(folder, torch.bfloat16),
        "facegraph, float32": ours(folder, threads, "fp32"),
        "facegraph, bfloat16": ours(folder, threads, "bf16"),
    }
    turns: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            for batch in batches or BATCHES:
                work = [images[n % len(images)] for n in range(batch)]
                turns.setdefault((name, batch), []).append(_turn(way, work, seconds))
    return [Rate(name, batch, tuple(rates)) for (name, batch), rates in turns.items()]


def plain(folder: Path, dtype: torch.dtype) -> Way:
    """What a reader of transformers' documentation would write."""
    load: Any = BlipForConditionalGeneration.from_pretrained
    network = load(folder, dtype=dtype, local_files_only=True).eval()
    words: Any = BertTokenizer.from_pretrained(folder, local_files_only=True)
    processor: Any = BlipImageProcessorPil()

    def run(images: Sequence[bytes]) -> object:
        decoded = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        pixels = processor(decoded, return_tensors="pt").pixel_values.to(dtype)
        prompt = words([OPTIONS.prompt] * len(images), return_tensors="pt")
        with torch.inference_mode():
            rows = network.generate(
                pixel_values=pixels,
                input_ids=prompt.input_ids,
                num_beams=OPTIONS.num_beams,
                max_length=OPTIONS.max_length,
                min_length=OPTIONS.min_length,
            )
        return words.batch_decode(rows, skip_special_tokens=True)

    return run


def ours(folder: Path, threads: int, precision: Any) -> Way:
    model = CaptionerModel("blip", "blip", "base", folder, None, Licence("none", True))
    captioner = BlipCaptioner(model, threads=threads, precision=precision)

    def run(images: Sequence[bytes]) -> object:
        decoded = [decode(image, max_pixels=50_000_000) for image in images]
        return captioner.caption(decoded, OPTIONS)

    return run


@contextmanager
def random_base() -> Iterator[Path]:
    """A folder with a BLIP base of random weights, with a vocabulary of the right size."""
    with tempfile.TemporaryDirectory(prefix="fg-blip-") as name:
        folder = Path(name)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
        words += [f"word{n}" for n in range(30522 - len(words))]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        torch.manual_seed(0)
        text = {"num_attention_heads": 12, "sep_token_id": words.index("[SEP]")}
        network = BlipForConditionalGeneration(BlipConfig(text_config=text))
        network.save_pretrained(folder)
        yield folder


def _turn(way: Way, images: Sequence[bytes], seconds: float) -> float:
    captions, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        way(images)
        captions += len(images)
    return captions / took


def report(rates: Sequence[Rate]) -> None:
    base = {rate.batch: rate.median for rate in reversed(rates)}  # the first way's stays
    print("| what | batch | captions/s | lowest, highest | of the first |")
    print("| --- | --- | --- | --- | --- |")
    for rate in rates:
        spread = f"{min(rate.rates):.2f}, {max(rate.rates):.2f}"
        part = rate.median / base[rate.batch]
        print(f"| {rate.way} | {rate.batch} | {rate.median:.2f} | {spread} | {part:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=5, help="of a turn, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(f"{platform.platform()}, {options.threads} threads, {options.rounds} rounds\n")
    sizes = {"threads": options.threads, "seconds": options.seconds, "rounds": options.rounds}
    if options.folder:
        report(measure(options.folder, batches=options.batches, **sizes))
        return
    with random_base() as folder:
        report(measure(folder, batches=options.batches, **sizes))


if __name__ == "__main__":
    main()
