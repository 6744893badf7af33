"""``facegraph segment`` with a segmenter that needs no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facegraph.cli import main
from facegraph.types import ByteArray, Segmentation, SegmentOptions
from facegraph.vision import segmenting
from facegraph.vision.masks import encode

pytestmark = pytest.mark.unit


class FakeSegmenter:
    """Sees one dog, which fills the picture."""

    name, best_batch = "fake", 1

    def segment(
        self, images: Sequence[ByteArray], options: Sequence[SegmentOptions]
    ) -> list[Segmentation]:
        return [self._dog(*image.shape[:2]) for image in images]

    def describe(self) -> dict[str, Any]:
        return {}

    def _dog(self, height: int, width: int) -> Segmentation:
        mask = encode(np.ones((height, width), np.uint8), 0, 0, width, height)
        scores, box = np.array([0.5], np.float32), np.array([[0, 0, width, height]], np.float32)
        return Segmentation(width, height, ("dog",), scores, box, (mask,), self.name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; the segmenter is the fake one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmenting, "find_segmenter", lambda *_: SimpleNamespace(name="fake"))
    monkeypatch.setattr(segmenting, "open_segmenter", lambda *_, **__: FakeSegmenter())
    return tmp_path


def picture(path: str, width: int) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 40), "teal").save(path)
    return path


def segment(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["segment", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def width(path: str) -> int:
    with Image.open(path) as image:
        assert image.format == "JPEG"
        return image.width


def test_equal_names_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [picture("a/x.jpg", 50), picture("b/x.png", 60), picture("c/x-2.png", 70)]
    said = segment(capsys, *pictures, "--draw", "out/drawn")
    assert [line["file"] for line in said] == pictures
    drawn = ["out/drawn/x.jpg", "out/drawn/x-2.jpg", "out/drawn/x-2-2.jpg"]
    assert [line["drawn"] for line in said] == drawn
    assert [width(path) for path in drawn] == [50, 60, 70]


def test_no_file_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Not the pictures themselves, nor what was drawn before."""
    original = Path(picture("x.jpg", 50))
    before = original.read_bytes()
    again = [segment(capsys, "x.jpg", "--draw", ".")[0]["drawn"] for _ in range(2)]
    assert again == ["x-2.jpg", "x-3.jpg"]
    assert original.read_bytes() == before
    assert [width(path) for path in again] == [50, 50]


def test_nothing_is_drawn_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [said] = segment(capsys, picture("x.png", 50))
    assert "drawn" not in said
    assert [path.name for path in folder.iterdir()] == ["x.png"]


def test_the_help_tells_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    assert "x.png as x.jpg or, where there is one already, as x-2.jpg" in " ".join(
        capsys.readouterr().out.split()
    )
