"""``facegraph detect``, ``recognize`` and ``encode``: faces in pictures and videos of this machine.

They take the flags of gnosis's ``processor detection|recognition`` and ``encoder``, which are
names of theirs, too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from facegraph.commands import processing
from facegraph.commands.live import look_at_video, open_source
from facegraph.commands.people import dataset_path, encode, people_in, people_under
from facegraph.commands.pictures import Annotated, look_at, pictures_of, warn
from facegraph.commands.processing import (
    FaceModels,
    Look,
    choose_devices,
    detection,
    load_dataset,
    recognition,
)
from facegraph.config import settings_from

N = TypeVar("N", int, float)

ACTIONS = {"detection": "detect", "recognition": "recognize"}
"""What ``processor`` is asked for → our command."""

FIRST_CAMERA = "0"

OLD_UNKNOWN = "Uknown"
"""Whom nobody knows, as ``processor`` spells it."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    detecting = subparsers.add_parser("detect", help="faces in pictures, a video or a camera")
    detecting.set_defaults(run=run_detect)
    recognizing = subparsers.add_parser("recognize", help="who is in pictures, a video, a camera")
    recognizing.set_defaults(run=run_recognize)
    _add_looking(detecting, "taken, not needed: as recognize has it", required=False)
    _add_looking(recognizing, "dataset.json with the people", required=True)
    recognizing.add_argument(
        "--threshold", type=_cosine, metavar="T", help="least cosine; default: the face pack's"
    )
    recognizing.add_argument(
        "--unknown", default="unknown", metavar="TEXT", help="what strangers are called"
    )
    encoding = subparsers.add_parser(
        "encode", help="people's pictures into a dataset.json for recognize"
    )
    encoding.set_defaults(run=run_encode)
    _add_encoding(encoding)
    for parser in (detecting, recognizing, encoding):
        _add_devices(parser)


def main_processor(arguments: Sequence[str] | None = None) -> int:
    """The console script ``processor``: gnosis's name of ``detect`` and ``recognize``."""
    from facegraph.cli import main

    given = list(sys.argv[1:] if arguments is None else arguments)
    at = next((at for at, word in enumerate(given) if word in ACTIONS), None)
    if at is None:
        print(
            "usage: processor detection|recognition [options]\n"
            "The options are those of `facegraph detect` and `facegraph recognize`."
        )
        return 0 if {"-h", "--help"} & set(given) else 2
    action = given.pop(at)
    strangers = ["--unknown", OLD_UNKNOWN] if action == "recognition" else []
    return main([ACTIONS[action], *strangers, *given])


def main_encoder(arguments: Sequence[str] | None = None) -> int:
    """The console script ``encoder``: gnosis's name of ``encode``."""
    from facegraph.cli import main

    return main(["encode", *(sys.argv[1:] if arguments is None else arguments)])


def run_detect(options: argparse.Namespace) -> int:
    return _run(options, lambda: detection(_models(options, embedding=False)))


def run_recognize(options: argparse.Namespace) -> int:
    def prepare() -> Look:
        models = _models(options, embedding=True)
        people = load_dataset(options.dataset, models)
        threshold = models.threshold if options.threshold is None else options.threshold
        return recognition(models, people, threshold, options.unknown)

    return _run(options, prepare)


def run_encode(options: argparse.Namespace) -> int:
    text = options.image
    if text is not None and text.lstrip().startswith("{"):
        people = people_in(text)
    else:
        people = people_under(Path(text or options.path))
    return encode(people, _models(options, embedding=True), dataset_path(options.output))


def _run(options: argparse.Namespace, prepare: Callable[[], Look]) -> int:
    """What was asked for is looked up first: models take a while to load."""
    if options.image is None:
        options.video_test = options.video_test or FIRST_CAMERA
        source = open_source(options)
        return look_at_video(options, source, prepare())
    paths = pictures_of(options.image)
    annotated = Annotated(options.output, show=options.show_img)
    try:
        printing = options.print_output or not (options.show_img or options.output)
        return look_at(paths, prepare(), annotated, print_output=printing, verbose=options.verbose)
    finally:
        annotated.close()


def _models(options: argparse.Namespace, *, embedding: bool) -> FaceModels:
    settings = settings_from()
    devices = choose_devices(options.det_dev, options.rek_dev, settings, os.environ, warn)
    models = processing.open_models(settings, devices, embedding=embedding)
    if options.verbose:
        warn(f"face pack {models.pack}: {', '.join(models.about)}")
    return models


def _add_looking(parser: argparse.ArgumentParser, dataset: str, *, required: bool) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "-i",
        "--image",
        nargs="+",
        action="extend",
        type=Path,
        metavar="PATH",
        help="pictures, or folders of pictures; without -i and -t: camera 0",
    )
    source.add_argument(
        "-t",
        "--video-test",
        "--video_test",
        nargs="?",
        const=FIRST_CAMERA,
        metavar="VIDEO",
        help="a camera's number (without one: 0), a video file or an RTSP address",
    )
    parser.add_argument("-d", "--dataset", type=Path, required=required, help=dataset)
    parser.add_argument(
        "-s",
        "--show-img",
        "--show_img",
        action="store_true",
        help="annotated pictures in a window, or in files where there is no display; q closes it",
    )
    parser.add_argument(
        "-p",
        "--print-output",
        "--print_output",
        action="store_true",
        help="one JSON line per picture or frame; pictures have it unless -s or -o is given",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="write annotated pictures into this folder, an annotated video into this folder or "
        "file (.mp4, .mov, .mkv); never over another file",
    )
    parser.add_argument("--max-frames", type=_count, metavar="N", help="of a video, at most")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="of a video, at most")


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-i",
        "--image",
        metavar="JSON",
        help='{"person1": ["a.jpg", …], …}, or a folder as for -p',
    )
    source.add_argument(
        "-p",
        "--path",
        metavar="FOLDER",
        help="a folder of people's folders; the first level names the person, however deep the "
        "pictures lie",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("dataset.json"),
        metavar="PATH",
        help="file to write, or folder for dataset.json (default: here); replaced when all is done",
    )


def _add_devices(parser: argparse.ArgumentParser) -> None:
    for short, name, what in (("-dd", "det", "finds faces"), ("-rd", "rek", "recognises them")):
        parser.add_argument(
            short,
            f"--{name}-dev",
            f"--{name}_dev",
            type=_device,
            metavar="N",
            help=f"what {what}: -1 the CPU, 0 and up that GPU; default: FACEGRAPH_ACCELERATOR",
        )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what is done")


def _device(text: str) -> int:
    return _bounded(int(text), -1, 255)


def _count(text: str) -> int:
    return _bounded(int(text), 1, 2**31)


def _seconds(text: str) -> float:
    return _bounded(float(text), 0, 1e9)


def _cosine(text: str) -> float:
    return _bounded(float(text), -1, 1)


def _bounded(value: N, least: float, most: float) -> N:
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must lie between {least} and {most:g}")
    return value
