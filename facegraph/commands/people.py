"""People from labelled pictures into a ``dataset.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from facegraph.bulk.items import SUFFIXES
from facegraph.commands.pictures import (
    UNREADABLE,
    pictures_under,
    read_picture,
    say,
    warn,
    why,
)
from facegraph.commands.processing import FaceModels
from facegraph.datasets import MAX_LABEL, write_dataset
from facegraph.errors import ConfigError, FaceNotFound, InvalidRequest
from facegraph.types import FloatArray

DATASET = "dataset.json"
"""The file's name where only a folder was given."""

Labelled = tuple[str, Path]
"""A person's name and one of their pictures."""


def people_under(folder: Path) -> list[Labelled]:
    """The pictures in ``folder``'s folders; the first level names the person, however deep.

    Raises ConfigError where there are none. Pictures in ``folder`` itself belong to nobody; a
    warning names them.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder")
    people = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            people += [(entry.name, path) for path in pictures_under(entry)]
        elif entry.suffix.lower() in SUFFIXES:
            warn(f"left out: {entry}: it lies in no person's folder")
    if not people:
        raise ConfigError(f"there is no person's folder with pictures in {folder}")
    return people


def people_in(text: str) -> list[Labelled]:
    """``{"person": ["a.jpg", …], …}``; ConfigError where it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"-i is no JSON: {error}") from None
    sound = isinstance(value, dict) and all(
        0 < len(label) <= MAX_LABEL
        and isinstance(files, list)
        and all(isinstance(file, str) and file for file in files)
        for label, files in value.items()
    )
    if not sound:
        raise ConfigError('-i must be like {"person1": ["a.jpg", "b.jpg"]}')
    people = [(label, Path(file)) for label, files in value.items() for file in files]
    if not people:
        raise ConfigError("-i names no picture")
    return people


def encode(people: Sequence[Labelled], models: FaceModels, output: Path) -> int:
    """Writes the embeddings of the pictures' largest faces; 1 when a picture gave none."""
    entries: list[tuple[str, FloatArray]] = []
    counts: Counter[str] = Counter()
    for label, path in tqdm(people, unit="picture", disable=None):
        try:
            embedding, faces = _largest(path, models)
        except UNREADABLE as error:
            warn(f"left out: {path}: {why(error)}")
            counts["no face" if isinstance(error, FaceNotFound) else "unreadable"] += 1
            continue
        if faces > 1:
            warn(f"{path}: {faces} faces, the largest is taken for {label}")
            counts["several faces"] += 1
        entries.append((label, embedding))
    if not entries:
        raise InvalidRequest(f"no picture gave a face; {output} is not written")
    _write(output, write_dataset(entries))
    taken = len({label for label, _ in entries})
    say(f"{len(entries)} faces of {taken} people are in {output} (face pack {models.pack})")
    for what, number in sorted(counts.items()):
        say(f"{what}: {number} of {len(people)} pictures")
    return 1 if len(entries) < len(people) else 0


def _largest(path: Path, models: FaceModels) -> tuple[FloatArray, int]:
    """(d,) of the largest face, and how many faces there are; FaceNotFound where there is none."""
    rgb = read_picture(path)
    faces = models.detect(rgb)
    if not len(faces):
        raise FaceNotFound("no face")
    [embedding] = models.embed(rgb, faces.take(slice(0, 1)))
    if not embedding.any():
        raise FaceNotFound("the face has no embedding")
    return embedding, len(faces)


def dataset_path(output: Path) -> Path:
    """A folder, or a name without a suffix, means a ``dataset.json`` in it."""
    return output if output.suffix and not output.is_dir() else output / DATASET


def _write(path: Path, text: str) -> None:
    from facegraph.models.installing import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
