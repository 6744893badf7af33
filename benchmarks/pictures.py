"""What the benchmarks look at: photos that the installed packages bring."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Picture:
    """A kind of picture; its files are sent in turn."""

    name: str
    paths: tuple[Path, ...]


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


def _package(name: str) -> Path:
    """The package's folder, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {name} is not installed")
    return Path(spec.origin).parent
