"""What the benchmarks look at: photos that the installed packages and the test assets bring."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facegraph.types import ByteArray

TWELVE_MEGAPIXELS = (4000, 3000)
SENSOR_NOISE = 6.0
"""Standard deviation, of 255: an enlarged picture is smoother than any camera's."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A kind of picture; its files are sent in turn.

    people: those of the gallery who are in each file
    faces: how many are in each
    """

    name: str
    paths: tuple[Path, ...]
    people: tuple[frozenset[str], ...] = ()
    faces: int = 1


def pictures() -> tuple[Picture, ...]:
    """Portraits of one face, and a group photo of six."""
    return (
        Picture(
            "portraits",
            (
                _package("skimage") / "data" / "astronaut.png",
                _package("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg",
            ),
        ),
        Picture("six faces", (_package("insightface") / "data" / "images" / "t1.jpg",)),
    )


def assets() -> Path | None:
    """The folder of the test assets, where this machine has it."""
    named = os.environ.get("FACEGRAPH_TEST_ASSETS")
    return Path(named) if named else None


def portraits() -> dict[str, Path]:
    """Who is enrolled, with a portrait: six people of the assets, or two of packages."""
    folder = assets()
    if folder is not None:
        return {
            path.stem.lower(): path for path in sorted((folder / "faces/friends").glob("*.png"))
        }
    astronaut, hopper = pictures()[0].paths
    return {"collins": astronaut, "hopper": hopper}


KINDS = ("portraits-png", "portraits-jpeg", "six-jpeg", "six-png", "12mp-one", "12mp-six")


def kinds(folder: Path, wanted: Sequence[str] = KINDS) -> list[Picture]:
    """The pictures of the kinds ``wanted``; those that have to be made are put into ``folder``."""
    people = portraits()
    alone, originals = tuple(frozenset({name}) for name in people), tuple(people.values())
    six = pictures()[1].paths
    # The group photo shows the people of the assets' portraits.
    group = (frozenset(people) if assets() else frozenset(),)
    make = {
        "portraits-png": lambda: Picture("portraits-png", _as(originals, ".png", folder), alone),
        "portraits-jpeg": lambda: Picture("portraits-jpeg", _as(originals, ".jpg", folder), alone),
        "six-jpeg": lambda: Picture("six-jpeg", six, group, 6),
        "six-png": lambda: Picture("six-png", _as(six, ".png", folder), group, 6),
        "12mp-one": lambda: Picture("12mp-one", (_large(originals[0], folder, 0.4),), alone[:1]),
        "12mp-six": lambda: Picture("12mp-six", (_large(six[0], folder, 1.0),), group, 6),
    }
    return [make[name]() for name in wanted]


def _as(paths: Sequence[Path], suffix: str, folder: Path) -> tuple[Path, ...]:
    """The pictures in another format; those that are in it already as they are."""
    return tuple(
        path if path.suffix == suffix else _write(folder / (path.stem + suffix), _read(path))
        for path in paths
    )


def _large(path: Path, folder: Path, part: float) -> Path:
    """A photo of 12 megapixels, in which ``path`` takes up to ``part`` of each side."""
    picture = _read(path)
    width, height = TWELVE_MEGAPIXELS
    scale = part * min(width / picture.shape[1], height / picture.shape[0])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method))
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    bottom, right = height - top - picture.shape[0], width - left - picture.shape[1]
    whole = cv2.copyMakeBorder(
        picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(96, 112, 128)
    )
    noise = np.random.default_rng(0).normal(0, SENSOR_NOISE, whole.shape)
    noisy = np.clip(whole + noise, 0, 255).astype(np.uint8)
    return _write(folder / f"{path.stem}-12mp.jpg", noisy)


def _read(path: Path) -> ByteArray:
    """(h, w, 3) uint8 BGR."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


def _write(path: Path, picture: ByteArray) -> Path:
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), picture, options):
        raise SystemExit(f"cannot write {path}")
    return path


def _package(name: str) -> Path:
    """The package's folder, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {name} is not installed")
    return Path(spec.origin).parent
