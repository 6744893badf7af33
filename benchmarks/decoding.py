"""CPU milliseconds of decoding, decoder by decoder, and of a whole detection before and after.

``before`` is Pillow for everything, with its copies, every pixel decoded. All run in this process,
one thread; each figure is the best of several turns.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from PIL import Image

from benchmarks.pictures import pictures
from facegraph import images
from facegraph.config import DetectorTuning, settings_from
from facegraph.faces.detection import Detector
from facegraph.models.packs import find_pack
from facegraph.types import ByteArray

MANY = 10**9
TURNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="*", type=Path, help="pictures of yours")
    paths = parser.parse_args().picture or [path for kind in pictures() for path in kind.paths]
    files = {path.name: path.read_bytes() for path in paths}
    for name, data in list(files.items()):
        files |= _variants(name, data)
    cv2.setNumThreads(1)
    _decoding(files)
    _detecting(files)


def _variants(name: str, data: bytes) -> dict[str, bytes]:
    """The same picture as PNG and BMP, and as JPEG of 12 megapixels."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = (12e6 / (image.width * image.height)) ** 0.5
    large = image.resize((round(image.width * side), round(image.height * side)))
    return {
        f"{name}, PNG": _saved(image, "PNG"),
        f"{name}, RGBA PNG": _saved(image.convert("RGBA"), "PNG"),
        f"{name}, BMP": _saved(image, "BMP"),
        f"{name}, 12 MP": _saved(large, "JPEG", quality=90),
    }


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _decoding(files: dict[str, bytes]) -> None:
    ways: dict[str, Callable[[bytes], object]] = {
        "before": _before,
        "Pillow": lambda data: Image.open(io.BytesIO(data)).load(),
        "OpenCV": lambda data: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        ),
        "ours": lambda data: images.decode(data, max_pixels=MANY),
        "ours, 1/2": lambda data: images.open_picture(data, max_pixels=MANY).at(0.5),
    }
    print(f"\n| decoding, CPU ms | {' | '.join(ways)} |\n| --- |{' ---: |' * len(ways)}")
    for name, data in files.items():
        print(f"| {name} | {' | '.join(f'{_ms(way, data):.2f}' for way in ways.values())} |")


def _detecting(files: dict[str, bytes]) -> None:
    settings = settings_from()
    detector = Detector(find_pack(settings), DetectorTuning(), accelerator="cpu")
    detector.warm_up()
    print(f"\n| detecting with {settings.face_pack}, CPU ms | before | with crops | boxes only |")
    print("| --- | ---: | ---: | ---: |")
    for name, data in files.items():
        with _as_before():
            before = _ms(lambda data: detector.detect(data, max_faces=100, crops=True), data)
        after = [
            _ms(lambda data, crops=crops: detector.detect(data, max_faces=100, crops=crops), data)  # type: ignore[misc]
            for crops in (True, False)
        ]
        print(f"| {name} | {before:.1f} | {after[0]:.1f} | {after[1]:.1f} |")


def _before(data: bytes) -> ByteArray:
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


@contextmanager
def _as_before() -> Iterator[None]:
    """Every picture through Pillow, in all its pixels."""

    def decode(image: object, data: bytes, factor: int) -> tuple[ByteArray, int]:
        return _before(data), 1

    with mock.patch.object(images, "decode_opened", decode):
        yield


def _ms(way: Callable[[bytes], object], data: bytes) -> float:
    took = []
    for _ in range(TURNS):
        began = time.process_time()
        way(data)
        took.append(time.process_time() - began)
    return 1000 * min(took)


if __name__ == "__main__":
    main()
