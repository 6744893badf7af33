"""The stages of one picture, in this process with one thread."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.loop import random_embeddings
from benchmarks.packs import pack_file
from benchmarks.pictures import Picture
from facegraph import images
from facegraph.api.metrics import Metrics
from facegraph.api.v1.search import search_answer
from facegraph.config import DetectorTuning, Settings, settings_from
from facegraph.faces import detection, embedding
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.gallery import Gallery, search
from facegraph.models.packs import FacePack, find_pack
from facegraph.service import Identification, Identified
from facegraph.types import Detection, GalleryRecords, Head, SubjectRecord

Stages = dict[str, float]
"""CPU milliseconds of each stage, without those that it calls."""

STAGES = (
    "decode",
    "resize",
    "detector's network",
    "post-process",
    "small and leaning faces",
    "align",
    "embedder's network",
    "search",
    "serialise",
    "rest",
)

GALLERY = 1000
WARM = 5


class Stopwatch:
    """Processor time by stage; a stage that is called within another stops that one's."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open = ["rest"]
        self._since = time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed

    def wrap_looking(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Of a generator that waits for the network: its own steps count, the waiting does not."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            looking, answers = function(*args, **kwargs), None
            while True:
                try:
                    with self.stage(name):
                        looks = looking.send(answers)
                except StopIteration as ended:
                    return ended.value
                answers = yield looks

        return timed

    def stop(self) -> None:
        """What comes after it belongs to no stage."""
        self._switch()


def stages(kind: Picture, folder: Path, assets: Path | None, rounds: int) -> Stages:
    """Of one picture of ``kind``, the mean of ``rounds``."""
    settings = _settings(folder, assets)
    one = _Request(find_pack(settings), settings)
    pictures = [path.read_bytes() for path in kind.paths]
    for turn in range(WARM):
        one.answer(pictures[turn % len(pictures)], Stopwatch())
    watch = Stopwatch()
    with one.watched(watch):
        for turn in range(rounds):
            one.answer(pictures[turn % len(pictures)], watch)
        watch.stop()
    return {name: seconds * 1000 / rounds for name, seconds in watch.seconds.items()}


class _Request:
    """A search, from the picture's bytes to the answer's, without HTTP, Ray and the database."""

    def __init__(self, pack: FacePack, settings: Settings) -> None:
        self._pack = pack
        opened: dict[str, Any] = {"engine": settings.engine, "engines_dir": settings.engines_path}
        self._detector = Detector(pack, DetectorTuning(), **opened)
        self._model = EmbeddingModel(pack, **opened)
        self._gallery = _gallery(pack)
        service: Any = SimpleNamespace(pack=pack)
        self._state: Any = SimpleNamespace(metrics=Metrics(), service=service)

    def answer(self, picture: bytes, watch: Stopwatch) -> bytes:
        found = self._detector.detect(picture, max_faces=100, crops=True)
        probes = self._model.embed(found.crops)
        with watch.stage("search"):
            matches = search(self._gallery.snapshot, probes, limit=5)
        with watch.stage("serialise"):
            return self._written(found, [Identified("unknown", each) for each in matches])

    def _written(self, found: Detection, probes: list[Identified]) -> bytes:
        identification = Identification(1, self._pack.threshold, tuple(probes))
        return json.dumps(search_answer(self._state, found, identification)).encode()

    @contextmanager
    def watched(self, watch: Stopwatch) -> Iterator[None]:
        """While every function of a stage reports to ``watch``."""
        functions: list[tuple[Any, str, str]] = [
            (images, "_decoded", "decode"),
            (detection, "scaled", "resize"),
            (detection, "shrink", "resize"),
            (detection, "draw", "resize"),
            (detection, "_in_picture", "post-process"),
            (detection, "_faces", "post-process"),
            (detection, "align", "align"),
            (type(self._detector._head), "blob", "detector's network"),
            (type(self._detector._head), "decode_many", "post-process"),
            (self._detector._engine, "run", "detector's network"),
            (embedding, "crop_blob", "embedder's network"),
            (self._model._engine, "run", "embedder's network"),
        ]
        with ExitStack() as patches:
            for owner, name, stage in functions:
                timed = watch.wrap(getattr(owner, name), stage)
                patches.enter_context(mock.patch.object(owner, name, timed))
            for name in ("refine", "straighten"):
                timed = watch.wrap_looking(getattr(detection, name), "small and leaning faces")
                patches.enter_context(mock.patch.object(detection, name, timed))
            yield


def _settings(folder: Path, assets: Path | None) -> Settings:
    given: dict[str, Any] = {"data_dir": str(folder / "library")}
    given["models_dir"] = str(settings_from().models_path)
    if assets is not None:
        given["face_pack"] = str(pack_file(folder, assets))
    return settings_from(given)


def _gallery(pack: FacePack) -> Gallery:
    """Random people, one sample each."""
    head = Head("profile", 1, 0, pack.contract.id, pack.contract.dimension)
    rows = random_embeddings(GALLERY, pack.contract.dimension)
    people = [SubjectRecord(f"p{number}", None, {}) for number in range(GALLERY)]
    samples = [(f"s{n}", f"p{n}", row) for n, row in enumerate(rows)]
    return Gallery.of(GalleryRecords.of(head, people, samples))
