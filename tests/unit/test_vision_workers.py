"""The vision workers with fake engines: what is loaded when, and who fails with whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph.config import CaptionerTuning, SegmenterTuning, Settings
from facegraph.errors import InvalidImage, InvalidRequest, ModelMissing, ModelUnavailable
from facegraph.types import ByteArray, Caption, CaptionOptions, Segmentation, SegmentOptions
from facegraph.vision import captioning, jobs, segmenting
from facegraph.vision.captioning import CaptionerWorker
from facegraph.vision.segmenting import SegmenterWorker
from tests import photos

pytestmark = pytest.mark.unit

PICTURE = photos.encoded(np.zeros((8, 6, 3), np.uint8))
OPTIONS = SegmentOptions()


@dataclass(frozen=True)
class FakeModel:
    name: str


@dataclass
class FakeSegmenter:
    name: str
    best_batch: int = 8
    go_on: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        self.go_on.wait(10)
        self.batches.append(len(images))
        none = np.zeros((0, 4), np.float32)
        return [
            Segmentation(i.shape[1], i.shape[0], (), none[:, 0].copy(), none, (), self.name)
            for i in images
        ]

    def describe(self) -> dict[str, Any]:
        return {"kind": "fake"}


class Shelf:
    """The models that can be found and opened, and what was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = {"auto": "small", "small": "small", "other": "other", "third": "third"}
        self.opened: list[str] = []
        self.error: Exception | None = None
        self.engines: dict[str, FakeSegmenter] = {}
        monkeypatch.setattr(segmenting, "find_segmenter", self.find)
        monkeypatch.setattr(segmenting, "find_segmenter_named", self.find)
        monkeypatch.setattr(segmenting, "open_segmenter", self.open)

    def find(self, _: Settings, name: str) -> FakeModel:
        if name.startswith("bad"):
            raise InvalidRequest(f"no model {name}")
        if name not in self.there:
            raise ModelMissing(f"{name} is not installed")
        return FakeModel(self.there[name])

    def open(self, model: FakeModel, *_: Any, **__: Any) -> FakeSegmenter:
        self.opened.append(model.name)
        if self.error is not None:
            raise self.error
        engine = self.engines.setdefault(model.name, FakeSegmenter(model.name))
        engine.go_on.set()
        return engine


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(monkeypatch)


@pytest.fixture
def worker(shelf: Shelf) -> SegmenterWorker:
    return SegmenterWorker(Settings(), SegmenterTuning())


def loaded(worker: SegmenterWorker) -> list[str]:
    return [model["name"] for model in worker.describe()["loaded"]]


async def test_the_configured_model_is_loaded_once(shelf: Shelf, worker: SegmenterWorker) -> None:
    worker.warm_up()
    seen = await asyncio.gather(*(worker.segment(PICTURE, OPTIONS) for _ in range(3)))
    assert [(s.model, s.width, s.height) for s in seen] == [("small", 6, 8)] * 3
    assert shelf.opened == ["small"]
    assert (await worker.segment(PICTURE, OPTIONS, "small")).model == "small"
    assert shelf.opened == ["small"]


async def test_a_request_finishes_with_the_model_it_began_with(
    shelf: Shelf, worker: SegmenterWorker
) -> None:
    worker.warm_up()
    shelf.engines["small"].go_on.clear()
    under_way = asyncio.create_task(worker.segment(PICTURE, OPTIONS))
    await asyncio.sleep(0.05)
    switch = asyncio.create_task(worker.load("other"))
    waiting = asyncio.create_task(worker.segment(PICTURE, OPTIONS, None))
    after = asyncio.create_task(worker.segment(PICTURE, OPTIONS, "other"))
    await asyncio.sleep(0.05)
    shelf.engines["small"].go_on.set()
    await switch
    answers = await asyncio.gather(under_way, waiting, after)
    assert [a.model for a in answers] == ["small", "small", "other"]


async def test_two_models_stay_loaded(shelf: Shelf, worker: SegmenterWorker) -> None:
    for name in ("small", "other", "small", "third"):
        await worker.load(name)
    assert loaded(worker) == ["small", "third"]
    assert (await worker.segment(PICTURE, OPTIONS, "other")).model == "other"
    assert loaded(worker) == ["third", "other"]


async def test_a_bad_picture_or_model_fails_alone(shelf: Shelf, worker: SegmenterWorker) -> None:
    worker.warm_up()
    shelf.engines["small"].go_on.clear()
    first = asyncio.create_task(worker.segment(PICTURE, OPTIONS))  # the others become one batch
    await asyncio.sleep(0.05)
    calls: list[tuple[bytes, str | None]] = [
        (PICTURE, None),
        (b"garbage", None),
        (PICTURE, "bad"),
        (PICTURE, "absent"),
        (PICTURE, None),
    ]
    tasks = [asyncio.create_task(worker.segment(i, OPTIONS, m)) for i, m in calls]
    await asyncio.sleep(0.05)
    shelf.engines["small"].go_on.set()
    await first
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(o) for o in outcomes] == [
        Segmentation,
        InvalidImage,
        InvalidRequest,
        ModelUnavailable,
        Segmentation,
    ]
    assert shelf.engines["small"].batches == [1, 2]


async def test_a_missing_model_is_looked_for_again(
    shelf: Shelf, worker: SegmenterWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LOOK_AGAIN_S", 0.0)
    del shelf.there["auto"]
    worker.warm_up()  # starts all the same
    with pytest.raises(ModelUnavailable, match="auto is not installed"):
        await worker.segment(PICTURE, OPTIONS)
    assert worker.describe()["problem"] == "auto is not installed"
    worker.check()  # a restart would not help
    shelf.there["auto"] = "small"
    assert (await worker.segment(PICTURE, OPTIONS)).model == "small"
    assert worker.describe()["problem"] is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error"), ModelMissing("cut")])
async def test_a_model_that_does_not_load_is_not_read_for_every_request(
    shelf: Shelf, worker: SegmenterWorker, error: Exception
) -> None:
    shelf.error = error
    worker.warm_up()
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            await worker.segment(PICTURE, OPTIONS)
    assert shelf.opened == ["small"]


async def test_no_segmenter_at_all() -> None:
    worker = SegmenterWorker(Settings(segmenter="none"), SegmenterTuning())
    worker.warm_up()
    with pytest.raises(ModelUnavailable, match="segmenter: none"):
        await worker.segment(PICTURE, OPTIONS)


class FakeCaptioner:
    name = "fake"
    best_batch = 8

    def __init__(self) -> None:
        self.batches: list[tuple[int, CaptionOptions]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def caption(self, images: Sequence[ByteArray], options: CaptionOptions) -> list[str]:
        self.go_on.wait(10)
        self.batches.append((len(images), options))
        if self.error is not None:
            raise self.error
        return [f"{options.prompt}{image.shape[0]}" for image in images]

    def describe(self) -> dict[str, Any]:
        return {"kind": "fake"}


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    engine = FakeCaptioner()
    monkeypatch.setattr(captioning, "find_captioner", lambda *_: FakeModel("fake"))
    monkeypatch.setattr(captioning, "open_captioner", lambda *_, **__: engine)
    return engine


async def test_captions_with_equal_options_are_one_batch(captioner: FakeCaptioner) -> None:
    worker = CaptionerWorker(Settings(), CaptionerTuning())
    worker.warm_up()
    captioner.go_on.clear()
    one, other = CaptionOptions(prompt="a "), CaptionOptions(prompt="b ")
    tasks = [asyncio.create_task(worker.caption(PICTURE, one))]
    await asyncio.sleep(0.05)
    tasks += [asyncio.create_task(worker.caption(PICTURE, o)) for o in (one, other, one, other)]
    await asyncio.sleep(0.05)
    captioner.go_on.set()
    said = await asyncio.gather(*tasks)
    assert said == [Caption(f"{p} 8", "fake") for p in ("a", "a", "b", "a", "b")]
    assert captioner.batches == [(1, one), (2, one), (2, other)]


async def test_a_captioner_that_runs_out_of_memory_is_replaced(captioner: FakeCaptioner) -> None:
    worker = CaptionerWorker(Settings(), CaptionerTuning())
    captioner.error = ModelUnavailable("out of memory")
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="out of memory"):
            await worker.caption(PICTURE, CaptionOptions())
    worker.check()
    with pytest.raises(ModelUnavailable):
        await worker.caption(PICTURE, CaptionOptions())
    with pytest.raises(RuntimeError, match="3 times in a row"):
        worker.check()


async def test_inventory_until_a_model_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def find(_: Settings, name: str) -> FakeModel | None:
        looked.append(name)
        return FakeModel("fake") if len(looked) > 1 else None

    monkeypatch.setattr(captioning, "find_captioner", find)
    monkeypatch.setattr(captioning, "open_captioner", lambda *_, **__: FakeCaptioner())
    worker = CaptionerWorker(Settings(), CaptionerTuning())
    for _ in range(3):
        assert await worker.caption(PICTURE, CaptionOptions()) is None
    assert worker.describe()["loaded"] == [{"name": "inventory"}]
    assert looked == ["auto"]
    worker._look_again = 0.0
    assert await worker.caption(PICTURE, CaptionOptions()) == Caption("a picture of 8", "fake")
    assert worker.describe()["loaded"] == [{"name": "fake", "kind": "fake"}]


@pytest.mark.parametrize(
    ("configured", "said"), [("none", "captioner: none"), ("blip-base", "is not")]
)
async def test_no_captioner(tmp_path: Path, configured: str, said: str) -> None:
    worker = CaptionerWorker(Settings(captioner=configured, models_dir=tmp_path), CaptionerTuning())
    worker.warm_up()
    with pytest.raises(ModelUnavailable, match=said):
        await worker.caption(PICTURE, CaptionOptions())


async def test_inventory_by_name_never_looks(captioner: FakeCaptioner) -> None:
    worker = CaptionerWorker(Settings(captioner="inventory"), CaptionerTuning())
    assert await worker.caption(PICTURE, CaptionOptions()) is None
