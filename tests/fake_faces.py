"""Networks that see coloured squares, and a display, for the commands on pictures and videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facegraph.commands import live, pictures, processing
from facegraph.commands.processing import FaceModels
from facegraph.commands.windows import Window
from facegraph.types import ByteArray, Faces, FloatArray

PEOPLE = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
"""A square of such a colour is that person's face; green is nobody's embedding of the dataset."""

EMBEDDINGS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)

Box = tuple[int, int, int, int]


def scene(size: tuple[int, int] = (160, 90), **people: Box) -> ByteArray:
    """A grey picture of (width, height) with these people's squares at x1 y1 x2 y2."""
    rgb = np.full((size[1], size[0], 3), 128, np.uint8)
    for name, (left, top, right, bottom) in people.items():
        rgb[top:bottom, left:right] = PEOPLE[name]
    return rgb


def fake_detect(rgb: ByteArray) -> Faces:
    boxes = []
    for colour in PEOPLE.values():
        near = (np.abs(rgb.astype(int) - colour).max(axis=2) < 60).nonzero()
        if near[0].size:
            boxes.append((near[1].min(), near[0].min(), near[1].max() + 1, near[0].max() + 1))
    boxes.sort(key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
    n = len(boxes)
    return Faces(
        np.array(boxes, np.float32).reshape(n, 4),
        np.zeros((n, 5, 2), np.float32),
        np.full(n, 0.75, np.float32),
    )


def fake_embed(rgb: ByteArray, seen: Faces) -> FloatArray:
    rows = []
    for left, top, right, bottom in seen.boxes.astype(int):
        colour = rgb[(top + bottom) // 2, (left + right) // 2].astype(int)
        nearest = min(range(3), key=lambda row: abs(colour - list(PEOPLE.values())[row]).sum())
        rows.append(EMBEDDINGS[nearest])
    return np.array(rows, np.float32).reshape(-1, 3)


MODELS = FaceModels("fake", 3, 0.5, fake_detect, fake_embed, ("fake: CPU",))


@pytest.fixture
def fake_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; the networks see colours, and there is no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processing, "open_models", lambda *_, **__: MODELS)
    for module in (pictures, live):
        monkeypatch.setattr(module, "open_window", lambda _: None)
    return tmp_path


def save(path: str, rgb: ByteArray) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


def dataset(*labels: str) -> str:
    """The embeddings of red, blue, green under these labels."""
    rows = zip(labels, EMBEDDINGS, strict=False)
    Path("dataset.json").write_text(
        json.dumps([[label, ",".join(map(str, row))] for label, row in rows])
    )
    return "dataset.json"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]


class FakeWindow:
    """Counts what it shows; the person closes it after ``patience`` pictures."""

    def __init__(self, patience: int = 1000) -> None:
        self.shown: list[ByteArray] = []
        self.closed = 0
        self._patience = patience

    def show(self, rgb: ByteArray, seconds: float) -> bool:
        assert seconds >= 0
        self.shown.append(rgb)
        return len(self.shown) < self._patience

    def close(self) -> None:
        self.closed += 1


def with_display(monkeypatch: pytest.MonkeyPatch, window: Window) -> None:
    for module in (pictures, live):
        monkeypatch.setattr(module, "open_window", lambda _: window)
