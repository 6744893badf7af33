"""From items to outcomes: what is asked of the graph, how much at a time, what is told of it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph import tasks
from facegraph.bulk import sampling
from facegraph.bulk.attempts import Attempts, attempted
from facegraph.bulk.items import Fetch, File, Found, Item, Link, Source
from facegraph.bulk.known import KnownPhotos, photo_id
from facegraph.bulk.mapping import in_process
from facegraph.bulk.report import BulkReport, writer
from facegraph.bulk.sampling import Known, Outcome, Rules, Sampler
from facegraph.errors import (
    ConfigError,
    FacegraphError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    TimedOut,
)
from facegraph.importing.enrolling import Entry, Person
from facegraph.importing.report import Rejection
from facegraph.types import ByteArray, Detection, FloatArray
from tests.fake_graph import FakeGraph, embedding_of, picture

pytestmark = pytest.mark.unit

ADA = Person("ada", "Ada", {})


class FakeFaces:
    """FakeGraph's faces; counts how many pictures it has at a time."""

    def __init__(self) -> None:
        self._graph = FakeGraph(None, 8)  # type: ignore[arg-type]
        self.now = self.most = 0
        self.failures: list[Exception] = []

    async def detect(self, image: bytes, **asked: Any) -> Detection:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop()
            return await self._graph.detect(image, **asked)
        finally:
            self.now -= 1

    async def embed(self, crops: ByteArray) -> FloatArray:
        return await self._graph.embed(crops)


async def fetched(url: str, limit: int) -> bytes:
    if url.endswith("gone"):
        raise InvalidRequest("the image url answered 404")
    return picture(7)


def sampler(
    faces: FakeFaces | None = None,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    known: Sequence[str] = (),
    fetch: Fetch = fetched,
) -> Sampler:
    digests = [bytes.fromhex(name.removeprefix("photo-")) for name in known]
    return Sampler(faces or FakeFaces(), rules, KnownPhotos(digests), fetch)


def item(content: bytes | File | Link, person: Person = ADA) -> Item:
    return Item("here", person, content)


async def test_a_picture_becomes_a_sample_named_by_what_it_is() -> None:
    (made,) = await sampler().outcomes([item(picture(3))])
    assert isinstance(made, Entry)
    assert made.person == ADA
    assert made.sample_id == made.sample.id == photo_id("ada", picture(3))
    assert np.array_equal(made.sample.embedding, embedding_of(3, 8))
    assert made.sample.crop is None
    (kept,) = await sampler(rules=Rules(keep_crops=True)).outcomes([item(picture(3))])
    assert isinstance(kept, Entry)
    assert kept.sample.crop is not None
    assert kept.sample.crop[0, 0, 0] == 3


def test_ids_are_of_picture_and_subject() -> None:
    names = {photo_id(*of) for of in [("a", b"x"), ("a", b"y"), ("b", b"x"), ("a", b"x")]}
    assert len(names) == 3
    assert {len(name) for name in names} == {len("photo-") + 32}


@pytest.mark.parametrize(
    ("content", "rules", "code"),
    [
        (picture(), Rules(), "face_not_found"),
        (picture(1, 2), Rules(), "several_faces"),
        (picture(13), Rules(min_quality=0.5), "low_quality"),
        (b"no picture", Rules(), "invalid_image"),
        (picture(1), Rules(max_bytes=3), "image_too_large"),
        (File(Path("/nowhere/1.jpg")), Rules(), "unreadable"),
        (File(Path("/")), Rules(), "no_file"),
        (Link("https://example.org/gone"), Rules(), "url_failed"),
    ],
)
async def test_a_picture_that_gives_no_sample(
    content: bytes | File | Link, rules: Rules, code: str
) -> None:
    (outcome,) = await sampler(rules=rules).outcomes([item(content)])
    assert isinstance(outcome, Rejection)
    assert (outcome.id, outcome.item, outcome.code) == ("ada", "here", code)


@pytest.mark.parametrize(
    ("content", "rules"),
    [
        (picture(4, 5), Rules(face="largest")),
        (picture(4), Rules(min_quality=0.5)),
        (Link("https://example.org/1"), Rules()),
    ],
)
async def test_a_picture_that_gives_one(content: bytes | Link, rules: Rules) -> None:
    (outcome,) = await sampler(rules=rules).outcomes([item(content)])
    assert isinstance(outcome, Entry)
    person = 7 if isinstance(content, Link) else 4
    assert np.array_equal(outcome.sample.embedding, embedding_of(person, 8))


async def test_a_file_that_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.jpg").write_bytes(picture(1))
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    for path in ("in/link.jpg", "in/../out.jpg"):
        inside, anywhere = await sampler().outcomes(
            [item(File(tmp_path / path, tmp_path / "in")), item(File(tmp_path / path))]
        )
        assert isinstance(inside, Rejection)
        assert inside.code == "outside_folder"
        assert isinstance(anywhere, Entry)


async def test_what_is_known_is_not_looked_at() -> None:
    faces = FakeFaces()
    known = [photo_id("ada", picture(n)) for n in range(50)]
    items = [item(picture(n)) for n in (0, 49, 50)] + [item(picture(1), Person("bob", None, {}))]
    outcomes = await sampler(faces, known=known).outcomes(items)
    assert outcomes[:2] == [Known("ada"), Known("ada")]
    assert [type(one) for one in outcomes[2:]] == [Entry, Entry]


def test_no_name_is_mistaken_for_a_known_one() -> None:
    digests = [hashlib.sha256(bytes([n])).digest()[:16] for n in range(200)]
    digests += [b"\0" * 16, b"\1" + b"\0" * 15]
    known = KnownPhotos(digests)
    assert len(known) == 202
    assert all(f"photo-{digest.hex()}" in known for digest in digests)
    assert f"photo-{'00' * 15}01" not in known
    assert f"photo-{'ff' * 16}" not in known
    assert f"photo-{'ff' * 16}" not in KnownPhotos()


async def test_a_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "RETRY_FIRST_S", 0.0)
    faces = FakeFaces()
    faces.failures = [Overloaded("busy"), Overloaded("busy")]
    (outcome,) = await sampler(faces).outcomes([item(picture(1))])
    assert isinstance(outcome, Entry)
    faces.failures = [TimedOut("late")] * (sampling.RETRIES + 1)
    assert await sampler(faces).outcome(item(picture(1))) == Rejection(
        "ada", "here", "timeout", "late"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("cv2"), "internal"),
        (FacegraphError("something went wrong here"), "internal"),
        (ConfigError("a worker is not what it should be"), "internal"),
    ],
)
async def test_a_poisoned_picture_ends_nothing(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    faces = FakeFaces()
    faces.failures = [error]
    seen = [one async for some in in_process(FakeSource(100), sampler(faces), lambda: 4)
            for one in some]  # fmt: skip
    assert len(seen) == 100
    assert [one.code for one in seen if isinstance(one, Rejection) and one.code != "x"] == [code]
    assert "no sample was made of here" in caplog.text


@pytest.mark.parametrize(
    ("error", "raised"),
    [(RuntimeError("cv2"), FacegraphError), (ModelUnavailable("gone"), ModelUnavailable)],
)
async def test_many_failures_in_a_row_end_it(
    error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "RETRIES", 0)
    faces = FakeFaces()
    one = sampler(faces)
    for _ in range(3):  # a picture that can be looked at begins the count anew
        faces.failures = [error] * (sampling.MAX_FAILURES - 1)
        for _ in range(sampling.MAX_FAILURES - 1):
            assert isinstance(await one.outcome(item(picture(1))), Rejection)
        assert isinstance(await one.outcome(item(picture())), Rejection)
    faces.failures = [error] * sampling.MAX_FAILURES
    for _ in range(sampling.MAX_FAILURES - 1):
        await one.outcome(item(picture(1)))
    with pytest.raises(raised):
        await one.outcome(item(picture(1)))


class DeadlyFaces(FakeFaces):
    """Of one kind of picture nothing is heard any more."""

    def __init__(self) -> None:
        super().__init__()
        self.died = asyncio.Event()

    async def detect(self, image: bytes, **asked: Any) -> Detection:
        if b"deadly" in image:
            self.died.set()
            await asyncio.Event().wait()
        return await super().detect(image, **asked)


async def test_pictures_that_kill_their_worker_are_found_out() -> None:
    """Two in a block; all others of it are enrolled, by the fourth attempt."""
    attempts = Attempts()

    async def ask(method: str, *values: Any) -> Any:
        return getattr(attempts, method)(*values)

    block: list[Found] = [item(picture(n)) for n in range(6)]
    block[1] = item(b"deadly one")
    block[4] = item(b"deadly two")
    for _ in range(3):
        faces = DeadlyFaces()
        worker = asyncio.create_task(attempted(ask, sampler(faces), "block", block))
        await faces.died.wait()
        await tasks.end(worker)
    outcomes = await attempted(ask, sampler(DeadlyFaces()), "block", block)
    kinds = [one.code if isinstance(one, Rejection) else type(one) for one in outcomes]
    assert kinds == [Entry, "internal", Entry, Entry, "internal", Entry]
    assert attempts.begin("block") is None  # it was ended


class FakeSource:
    """``n`` pictures; tells how many were taken."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.taken = 0

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        for n in range(self.n):
            self.taken += 1
            yield Rejection(None, str(n), "x", "x") if n % 10 == 9 else item(picture(n))

    def check(self) -> None:
        pass

    def count(self) -> int:
        return self.n


async def test_everything_comes_once_and_little_is_in_work() -> None:
    faces, source = FakeFaces(), FakeSource(100)
    seen: list[Outcome] = []
    async for some in in_process(source, sampler(faces), lambda: 4):
        seen += some
        assert source.taken <= len(seen) + 4 + 4
    assert faces.most <= 7
    entries = [one for one in seen if isinstance(one, Entry)]
    assert {one.sample_id for one in entries} == {
        photo_id("ada", picture(n)) for n in range(100) if n % 10 != 9
    }
    assert (len(entries), len(seen)) == (90, 100)


async def test_whoever_stops_leaves_nothing_running() -> None:
    faces, source = FakeFaces(), FakeSource(1000)
    outcomes = in_process(source, sampler(faces), lambda: 4)
    await anext(outcomes)
    await outcomes.aclose()
    assert faces.now == 0
    assert source.taken < 20


REJECTIONS = (
    Rejection("ada", "a/ü.jpg", "several_faces", "2 faces, not one"),
    Rejection(None, "line 3", "invalid_row", "x" * 1000),
)


def test_rejections_as_lines_of_json() -> None:
    file = io.StringIO()
    report = BulkReport(write=writer(file, as_csv=False), keep=1)
    for one in REJECTIONS:
        report.reject(one)
    first, second = map(json.loads, file.getvalue().splitlines())
    assert first == {
        "item": "a/ü.jpg",
        "subject_id": "ada",
        "code": "several_faces",
        "detail": "2 faces, not one",
    }
    assert (second["subject_id"], len(second["detail"])) == (None, 300)
    assert report.answer()["rejected_items"] == [first]
    assert report.answer()["rejected_by_code"] == {"several_faces": 1, "invalid_row": 1}


def test_what_is_told_can_be_stored() -> None:
    report = BulkReport()
    report.reject(Rejection("a\0b", "line 2: x\0y", "invalid_id", "\ud800"))
    assert report.answer()["rejected_items"] == [
        {"item": "line 2: x?y", "subject_id": None, "code": "invalid_id", "detail": "?"}
    ]


def test_rejections_as_csv() -> None:
    file = io.StringIO(newline="")
    write = writer(file, as_csv=True)
    for one in REJECTIONS:
        write(one)
    lines = file.getvalue().splitlines()
    assert lines[:2] == [
        "item,subject_id,code,detail",
        'a/ü.jpg,ada,several_faces,"2 faces, not one"',
    ]
    assert len(lines) == 3
