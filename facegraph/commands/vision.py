"""``facegraph segment`` and ``facegraph caption``: vision models on pictures of this machine."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from PIL import Image

from facegraph.api.schemas import segmentation_answer
from facegraph.commands.pictures import fresh_file
from facegraph.config import CaptionerTuning, SegmenterTuning, Settings, settings_from
from facegraph.errors import ImageTooLarge, InvalidRequest, Unprocessable
from facegraph.images import decode
from facegraph.service import INVENTORY
from facegraph.types import DEFAULT_CAPTION, DEFAULT_SEGMENT, ByteArray, SegmentOptions
from facegraph.vision.captioning import CaptionerWorker
from facegraph.vision.drawing import annotate
from facegraph.vision.inventory import sentence
from facegraph.vision.segmenting import SegmenterWorker


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    segmenting = subparsers.add_parser("segment", help="what is where in pictures, one JSON each")
    segmenting.add_argument("--model", help="segmenter pack; default: the `segmenter` setting")
    segmenting.add_argument("--top-k", type=int, default=DEFAULT_SEGMENT.top_k, metavar="N")
    segmenting.add_argument(
        "--score-threshold", type=float, default=DEFAULT_SEGMENT.score_threshold, metavar="S"
    )
    segmenting.add_argument(
        "--masks", choices=("rle", "png", "none"), default="none", help="default: none"
    )
    segmenting.add_argument(
        "--draw",
        type=Path,
        metavar="FOLDER",
        help="write each picture with its masks there, x.png as x.jpg or, where there is one "
        "already, as x-2.jpg, x-3.jpg …; `drawn` in the JSON says which",
    )
    segmenting.set_defaults(run=run_segment)

    captioning = subparsers.add_parser("caption", help="one sentence about each picture")
    captioning.add_argument("--model", help="captioner pack; default: the `captioner` setting")
    captioning.set_defaults(run=run_caption)
    for parser in (segmenting, captioning):
        parser.add_argument("images", nargs="+", type=Path, metavar="image")


def run_segment(options: argparse.Namespace) -> int:
    if not 1 <= options.top_k <= 100 or not 0 <= options.score_threshold <= 1:
        raise InvalidRequest("--top-k is 1 to 100, --score-threshold 0 to 1")
    asked = SegmentOptions(options.top_k, options.score_threshold)
    settings = _settings(segmenter=options.model)
    tuning = SegmenterTuning()
    worker = SegmenterWorker(settings, tuning)

    async def answer(path: Path, data: bytes) -> str:
        seen = await worker.segment(data, asked)
        said = {"file": str(path), **segmentation_answer(seen, options.masks)}
        if options.draw is not None:
            picture = annotate(decode(data, max_pixels=tuning.max_image_pixels), seen)
            said["drawn"] = str(_write(picture, options.draw, path.stem))
        return json.dumps(said)

    return _each(options.images, answer, worker.close)


def run_caption(options: argparse.Namespace) -> int:
    settings = _settings(captioner=options.model)
    captioner = CaptionerWorker(settings, CaptionerTuning())
    segmenter = SegmenterWorker(settings, SegmenterTuning())

    async def answer(path: Path, data: bytes) -> str:
        said = await captioner.caption(data, DEFAULT_CAPTION)
        text = said.text if said else sentence(await segmenter.segment(data, INVENTORY))
        return f"{path}: {text}"

    async def close() -> None:
        await captioner.close()
        await segmenter.close()

    return _each(options.images, answer, close)


def _settings(**chosen: str | None) -> Settings:
    return settings_from({name: value for name, value in chosen.items() if value is not None})


def _write(picture: ByteArray, folder: Path, stem: str) -> Path:
    """A JPEG in ``folder``, over no other file: the original may lie there, too."""
    path = fresh_file(folder, stem, ".jpg")
    Image.fromarray(picture).save(path, "JPEG", quality=92)
    return path


def _each(
    paths: list[Path],
    answer: Callable[[Path, bytes], Awaitable[str]],
    close: Callable[[], Awaitable[None]],
) -> int:
    """Prints the answer for each picture; 1 when one could not be read."""

    async def work() -> int:
        status = 0
        try:
            for path in paths:
                try:
                    data = await asyncio.to_thread(path.read_bytes)
                    print(await answer(path, data), flush=True)
                except (OSError, Unprocessable, ImageTooLarge) as error:
                    print(f"{path}: {getattr(error, 'strerror', None) or error}", flush=True)
                    status = 1
        finally:
            await close()
        return status

    return asyncio.run(work())
