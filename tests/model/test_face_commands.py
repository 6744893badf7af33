"""``facegraph encode``, ``recognize`` and ``detect`` on photos, with the default pack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from facegraph import cli
from facegraph.commands import faces, live, pictures
from facegraph.models.packs import FacePack
from facegraph.types import ByteArray
from facegraph.vision.drawing import colour_of
from tests.photos import ASTRONAUT, GROUP, NO_FACE, PORTRAIT, encoded, pixels, resized

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("opencv_pack")]

HOPPER = Path(str(resources.files("matplotlib")), "mpl-data", "sample_data", "grace_hopper.jpg")
"""512×600, one face."""

PEOPLE = {"Collins": ASTRONAUT, "Hanks": PORTRAIT, "Hopper": HOPPER}

SIZE = (640, 360)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``people/<name>/photos/…``; there is no display."""
    monkeypatch.chdir(tmp_path)
    for module in (pictures, live):
        monkeypatch.setattr(module, "open_window", lambda _: None)
    for name, photo in PEOPLE.items():
        home = tmp_path / "people" / name / "photos"
        home.mkdir(parents=True)
        shutil.copy(photo, home)
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]


def collage() -> ByteArray:
    """Hopper on the left, Collins in the middle, Hanks on the right; a stranger below."""
    canvas = np.full((1000, 1200, 3), 128, np.uint8)
    canvas[:469, :400] = resized(pixels(HOPPER), (400, 469))
    canvas[:400, 400:800] = resized(pixels(ASTRONAUT), (400, 400))
    canvas[100:300, 900:1100] = resized(pixels(PORTRAIT), (200, 200))
    canvas[600:900, 500:800] = pixels(GROUP)[230:530, 400:700]
    return canvas


def test_people_of_folders_are_recognised_in_a_collage(
    opencv_pack: FacePack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faces.main_encoder(["-p", "people", "-o", "dataset.json", "-dd", "-1"]) == 0
    assert "3 faces of 3 people are in dataset.json" in capsys.readouterr().out
    dataset = json.loads(Path("dataset.json").read_text())
    assert [label for label, _ in dataset] == ["Collins", "Hanks", "Hopper"]
    assert {text.count(",") + 1 for _, text in dataset} == {opencv_pack.contract.dimension}

    Path("collage.png").write_bytes(encoded(collage()))
    arguments = ["-d", "dataset.json", "-i", "collage.png"]
    assert cli.main(["recognize", *arguments]) == 0
    assert faces.main_processor(["recognition", "-p", *arguments]) == 0
    ours, old = lines(capsys)
    places = {face["label"]: face["bbox"] for face in ours["faces"]}
    assert set(places) == {"Collins", "Hanks", "Hopper", "unknown"}
    assert 0 < places["Hopper"][0] < places["Hopper"][2] < 400
    assert 400 < places["Collins"][0] < places["Collins"][2] < 800
    assert 880 < places["Hanks"][0] < places["Hanks"][2] < 1120
    assert places["unknown"][1] > 600
    known = [face["similarity"] for face in ours["faces"] if face["label"] != "unknown"]
    assert min(known) > 0.8
    assert sorted(face["label"] for face in old["faces"]) == sorted({*PEOPLE, "Uknown"})


def test_encoding_says_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(NO_FACE, "people/Hanks/cat.png")
    shutil.copy(GROUP, "people/Friends.jpg")
    Path("people/Friends").mkdir()
    shutil.copy(GROUP, "people/Friends/all.jpg")
    assert cli.main(["encode", "-p", "people"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "left out: people/Friends.jpg: it lies in no person's folder",
        "people/Friends/all.jpg: 6 faces, the largest is taken for Friends",
        "left out: people/Hanks/cat.png: no face",
    ]
    assert said.out.splitlines()[0].startswith("4 faces of 4 people")


def test_detection_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    for photo in (GROUP, NO_FACE, PORTRAIT):
        shutil.copy(photo, "in")
    assert cli.main(["detect", "-i", "in", "-p", "-o", "out", "-dd", "-1"]) == 0
    told = {Path(line["drawn"]).name: line["faces"] for line in lines(capsys)}
    assert {name: len(found) for name, found in told.items()} == {
        "Tom_Hanks_54745.jpg": 1,
        "chelsea.jpg": 0,
        "t1.jpg": 6,
    }
    assert [face["label"] for face in told["t1.jpg"]] == list(range(6))
    drawn = pixels(Path("out/t1.jpg"))
    assert drawn.shape == pixels(GROUP).shape
    left, _, right, bottom, score = told["t1.jpg"][0]["bbox"]
    assert 0.6 <= score <= 1
    edge = drawn[round(bottom) - 2, round(left) + 5 : round(right) - 5].astype(int)
    assert np.abs(np.median(edge, axis=0) - colour_of(0)).max() < 40


def film(path: str, frames: int) -> str:
    """The astronaut moves to the right by four pixels a frame."""
    photo = resized(pixels(ASTRONAUT), (320, 320))
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(frames):
            rgb = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
            left = 4 * (index % 80)
            rgb[20:340, left : left + 320] = photo
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def developed(path: str) -> list[ByteArray]:
    with av.open(path) as container:
        return [
            np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            for frame in container.decode(container.streams.video[0])
        ]


def test_a_video_is_annotated_frame_by_frame(capsys: pytest.CaptureFixture[str]) -> None:
    film("in.mp4", 24)
    assert cli.main(["encode", "-p", "people"]) == 0
    assert cli.main(["recognize", "-d", "dataset.json", "-t", "in.mp4", "-p"]) == 0
    told = lines(capsys)
    assert [line["frame"] for line in told] == list(range(24))
    assert {face["label"] for line in told for face in line["faces"]} == {"Collins"}
    plain, annotated = developed("in.mp4"), developed("in-faces.mp4")
    assert [frame.shape for frame in annotated] == [(SIZE[1], SIZE[0], 3)] * 24
    for line, before, after in zip(told, plain, annotated, strict=True):
        left, top, right, bottom = (round(side) for side in line["faces"][0]["bbox"][:4])
        assert abs(left - told[0]["faces"][0]["bbox"][0] - 4 * line["frame"]) < 8, "it moves along"
        changed = np.abs(after.astype(int) - before).max(axis=2) > 25
        edge = changed[bottom - 2 : bottom + 1, left:right].any(axis=0)
        assert edge.mean() > 0.8, "the box's lower edge"
        inside = changed[top + 5 : bottom - 5, left + 5 : right - 5]
        assert inside.mean() < 0.05
        assert changed[bottom + 5 :].mean() < 0.01


def _hear_sigint() -> None:
    """A shell's background commands, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_a_playable_file(folder: Path) -> None:
    """A person watches a long video, sees two frames and has enough."""
    film("in.mp4", 600)
    code = "import sys; from facegraph.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "detect", "-t", "in.mp4", "-p", "-o", "out.mkv"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_sigint,  # noqa: PLW1509 - no threads yet
    ) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["frame"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    assert seen == [0, 1]
    assert process.returncode == 0, errors
    assert "stopped" in errors
    assert rest.splitlines()[-1] == "annotated video: out.mkv"
    told = [line for line in rest.splitlines() if line[0] == "{"]
    assert len(told) + len(seen) - len(developed("out.mkv")) in (0, 1), "the last may be cut off"
    assert len(developed("out.mkv")) < 600
