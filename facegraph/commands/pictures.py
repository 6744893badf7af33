"""Pictures of this machine: which ones are meant, and what becomes of the annotated ones."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from facegraph.bulk.items import SUFFIXES
from facegraph.commands.processing import Look, Seen
from facegraph.commands.windows import Window, open_window
from facegraph.config import DetectorTuning
from facegraph.errors import ConfigError, ImageTooLarge, InvalidRequest, Unprocessable
from facegraph.images import decode
from facegraph.types import ByteArray


def pictures_under(folder: Path) -> list[Path]:
    """All pictures in ``folder`` and below, in order; hidden files and folders are left alone."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def pictures_of(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those in the folders named; ConfigError where a folder has none."""
    found = []
    for path in paths:
        inside = pictures_under(path) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"there is no picture in {path}")
        found += inside
    return found


def read_picture(path: Path) -> ByteArray:
    """(h, w, 3) uint8 RGB, upright; InvalidImage, ImageTooLarge or OSError where it is none."""
    return decode(path.read_bytes(), max_pixels=DetectorTuning().max_image_pixels)


UNREADABLE = (OSError, Unprocessable, ImageTooLarge)
"""What :func:`read_picture` raises."""


def why(error: Exception) -> str:
    """In one line, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


def say(line: str) -> None:
    """On standard output, beside a progress bar too."""
    tqdm.write(line)
    sys.stdout.flush()


def warn(line: str) -> None:
    """On standard error, beside a progress bar too."""
    tqdm.write(line, file=sys.stderr)


def fresh_file(folder: Path, stem: str, suffix: str) -> Path:
    """A new, empty file: ``stem.suffix``, or ``stem-2.suffix`` … where there is one already.

    Raises InvalidRequest where none can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2))):
            path = folder / f"{name}{suffix}"
            with suppress(FileExistsError), path.open("xb"):
                return path
    except OSError as error:
        raise InvalidRequest(f"nothing can be written in {folder}: {error.strerror}") from None
    raise AssertionError("numbers do not end")


class Annotated:
    """Shows annotated pictures in a window and keeps them in files, as it was asked for.

    Where there is no display, a picture to be shown becomes a file in the working directory.
    """

    def __init__(self, folder: Path | None, *, show: bool) -> None:
        if folder is not None and folder.suffix.lower() in SUFFIXES:
            raise ConfigError(f"-o {folder}: for pictures this is a folder")
        self._folder = folder
        self._ending = ""
        self._window: Window | None = open_window("facegraph") if show else None
        if show and self._window is None:
            warn("no display: annotated pictures are written to files")
            if folder is None:
                self._folder, self._ending = Path(), "-faces"

    def take(self, path: Path, rgb: ByteArray, seen: Seen) -> Path | None:
        """The file that the annotated picture was written to, if to any."""
        if self._folder is None and self._window is None:
            return None
        picture = seen.draw(rgb)
        written = None
        if self._folder is not None:
            written = fresh_file(self._folder, path.stem + self._ending, ".jpg")
            Image.fromarray(picture).save(written, "JPEG", quality=92)
        if self._window is not None and not self._window.show(picture, math.inf):
            self.close()
        return written

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None


def look_at(
    paths: Sequence[Path], look: Look, annotated: Annotated, *, print_output: bool, verbose: bool
) -> int:
    """What is seen in each picture, as it was asked for; 1 when one could not be read."""
    status = 0
    for path in tqdm(paths, unit="picture", disable=None if len(paths) > 1 else True):
        try:
            rgb = read_picture(path)
        except UNREADABLE as error:
            warn(f"{path}: {why(error)}")
            status = 1
            continue
        seen = look(rgb)
        written = annotated.take(path, rgb, seen)
        if print_output:
            said: dict[str, Any] = {"file": str(path), "faces": seen.answer()}
            if written is not None:
                said["drawn"] = str(written)
            say(json.dumps(said, ensure_ascii=False))
        elif written is not None:
            say(f"{path}: {_count(seen)}, drawn in {written}")
        if verbose:
            warn(f"{path}: {rgb.shape[1]}×{rgb.shape[0]} pixels, {_count(seen)}")
    return status


def _count(seen: Seen) -> str:
    return "1 face" if len(seen.faces) == 1 else f"{len(seen.faces)} faces"
