"""Faces in cameras, streams and video files, with networks that see colours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import ImageGrab

from facegraph import cli
from facegraph.commands import faces, processing
from facegraph.commands.processing import FaceModels
from facegraph.commands.windows import TkWindow, open_window
from facegraph.errors import InvalidVideo
from facegraph.types import ByteArray, Faces
from facegraph.video import live
from facegraph.video.reading import Frame, VideoInfo
from tests.fake_faces import (
    MODELS,
    FakeWindow,
    dataset,
    fake_detect,
    fake_embed,
    fake_faces,
    lines,
    scene,
    with_display,
)
from tests.rtsp_server import rtsp_server

__all__ = ["fake_faces"]

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("fake_faces")]


def film(path: str, frames: int, size: tuple[int, int] = (160, 90), fps: int = 25) -> str:
    """Blue moves to the right by two pixels a frame."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            rgb = scene(size, blue=(10 + 2 * index, 20, 40 + 2 * index, 50))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def developed(path: str) -> tuple[Fraction | None, list[tuple[float, ByteArray]]]:
    """The rate, and the frames with their times."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [
            (float(frame.time or 0), np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
            for frame in container.decode(stream)
        ]
        return stream.average_rate, frames


def test_a_video_without_a_display_becomes_an_annotated_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["detect", "-t", film("in.mp4", 12, (480, 270), fps=30)]) == 0
    said = capsys.readouterr()
    assert said.out == "annotated video: in-faces.mp4\n"
    rate, frames = developed("in-faces.mp4")
    assert rate == 30
    assert [round(time_s * 30) for time_s, _ in frames] == list(range(12))
    plain = scene((480, 270), blue=(32, 20, 62, 50))
    changed = np.abs(frames[11][1].astype(int) - plain).max(axis=2) > 60
    assert changed.shape == (270, 480)
    assert changed[48:51, 32:62].any(axis=0).mean() > 0.9, "the box's lower edge"
    assert changed[2:19, 32:62].any(), "the label above it"
    assert not changed[22:47, 36:58].any(), "nothing within"
    assert not changed[100:].any()
    assert not changed[:, 200:].any()


def test_odd_sides_are_rounded_up_and_times_kept(tmp_path: Path) -> None:
    writer = live.VideoWriter(tmp_path / "x.mkv", 25)
    rgb = scene((161, 91), red=(10, 20, 40, 50))
    for time_s in (5.0, 5.04, 5.5, 5.5, 5.2, 6.0):
        writer.write(rgb, time_s)
    writer.close()
    _, frames = developed("x.mkv")
    assert [picture.shape for _, picture in frames] == [(92, 162, 3)] * 6
    times = [time_s for time_s, _ in frames]
    assert times == pytest.approx([0, 0.04, 0.5, 0.5, 0.5, 1.0], abs=0.002)


def test_mpeg4_where_there_is_no_h264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ENCODERS", ("none", "mpeg4"))
    writer = live.VideoWriter(tmp_path / "x.mp4", 30_000 / 1001)
    for index in range(10):
        writer.write(scene(red=(10, 20, 40, 50)), index * 1001 / 30_000)
    writer.close()
    with av.open("x.mp4") as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    rate, frames = developed("x.mp4")
    assert rate == Fraction(30_000, 1001)
    assert abs(frames[5][1][35, 25].astype(int) - (255, 0, 0)).max() < 40


def test_a_video_is_written_over_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    source = film("in.mp4", 3)
    Path("out").mkdir()
    places = ["out", "out/", "new", "x.mkv", "x.mkv", "in.mp4"]
    for place in places:
        assert cli.main(["detect", "-t", source, "-o", place]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"annotated video: {path}"
        for path in (
            "out/in-faces.mp4",
            "out/in-faces-2.mp4",
            "new/in-faces.mp4",
            "x.mkv",
            "x-2.mkv",
            "in-2.mp4",
        )
    ]
    assert cli.main(["detect", "-t", source, "-o", "x.gif"]) == 2


@pytest.mark.parametrize(
    ("limits", "frames", "reason"),
    [
        ([], 10, "the whole file"),
        (["--max-frames", "4"], 4, "so many frames"),
        (["--seconds", "0.2"], 5, "frames at 0, 0.04 … 0.16 s"),
        (["--max-frames", "99", "--seconds", "9"], 10, "the file ends first"),
    ],
)
def test_limits(
    limits: list[str], frames: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film("in.mp4", 10)
    arguments = ["-p", "-d", dataset("Bob", "Ada"), "-t", "in.mp4", *limits]
    assert faces.main_processor(["recognition", *arguments]) == 0
    told = lines(capsys)
    assert [line["frame"] for line in told] == list(range(frames)), reason
    assert [line["time_s"] for line in told] == [round(n * 0.04, 3) for n in range(frames)]
    assert {line["faces"][0]["label"] for line in told} == {"Ada"}
    assert len(developed("in-faces.mp4")[1]) == frames


def test_with_a_display_a_video_is_shown_until_the_window_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    window = FakeWindow(patience=3)
    with_display(monkeypatch, window)
    assert cli.main(["detect", "-t", film("in.mp4", 10)]) == 0
    assert (len(window.shown), window.closed) == (3, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "shown", "written"), [(["-o", "x.mp4"], 0, 4), (["-s", "-o", "x.mp4"], 4, 4)]
)
def test_a_file_asked_for_is_written_beside_a_display(
    flags: list[str], shown: int, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = FakeWindow()
    with_display(monkeypatch, window)
    assert cli.main(["detect", "-t", film("in.mp4", 4), *flags]) == 0
    assert len(window.shown) == shown
    assert len(developed("x.mp4")[1]) == written


def test_ctrl_c_leaves_a_playable_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def detect(rgb: ByteArray) -> Faces:
        calls.append(rgb)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return fake_detect(rgb)

    models = FaceModels("fake", 3, 0.5, detect, fake_embed)
    monkeypatch.setattr(processing, "open_models", lambda *_, **__: models)
    assert cli.main(["detect", "-t", film("in.mp4", 10), "-o", "x.mp4"]) == 0
    said = capsys.readouterr()
    assert said.out == "annotated video: x.mp4\n"
    assert said.err.splitlines()[-1] == "stopped"
    assert len(developed("x.mp4")[1]) == 4


def test_a_damaged_file_gives_what_it_has_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(film("in.mkv", 60)).read_bytes()
    Path("cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    assert cli.main(["detect", "-t", "cut.mkv"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "facegraph: cut.mkv is damaged or incomplete: frames are missing"
    )
    assert 10 < len(developed("cut-faces.mp4")[1]) < 60


SOURCES = [
    # asked for → name, address, live, FFmpeg's format
    ("0", "camera 0", "/dev/video0", True, "v4l2"),
    ("/dev/video2", "camera 2", "/dev/video2", True, "v4l2"),
    ("rtsp://me:secret@host/x", "the stream", "rtsp://me:secret@host/x", True, None),
    ("RTSPS://host/x", "the stream", "RTSPS://host/x", True, None),
    ("film.mp4", "film.mp4", Path("film.mp4"), False, None),
    ("7.mp4", "7.mp4", Path("7.mp4"), False, None),
]


@pytest.mark.parametrize(("asked_for", "name", "address", "is_live", "format"), SOURCES)
def test_sources(
    asked_for: str,
    name: str,
    address: str | Path,
    is_live: bool,
    format: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    source = live.source_of(asked_for)
    assert (source.name, source.address, source.live, source.format) == (
        name,
        address,
        is_live,
        format,
    )


NOT_THERE = [
    ("999", "there is no camera 999: /dev/video999 does not exist"),
    ("nowhere.mp4", "nowhere.mp4 is no camera's number, no RTSP address and no file"),
    ("rtsp://127.0.0.1:9/x", "the stream: this cannot be opened as a video (Connection refused)"),
]


@pytest.mark.parametrize(("asked_for", "sentence"), NOT_THERE)
def test_what_cannot_be_opened_is_one_sentence(
    tmp_path: Path, asked_for: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["detect", "-t", asked_for]) == 1
    assert capsys.readouterr().err == f"facegraph: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


class FakeCamera:
    """All its frames are there before anyone looks; ``open`` takes what open_video takes."""

    def __init__(self, frames: int) -> None:
        self.info = VideoInfo(160, 90, 25, None, None)
        self.truncated = False
        self.opened: list[tuple[object, dict[str, Any]]] = []
        self._frames = frames

    @contextmanager
    def open(self, address: object, **how: Any) -> Iterator[FakeCamera]:
        self.opened.append((address, how))
        yield self

    def frames(self) -> Iterator[Frame]:
        for index in range(self._frames):
            yield Frame(index, index / 25, scene(red=(10, 20, 40, 50)))


def test_a_live_source_gives_the_newest_frame_and_says_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera = FakeCamera(5)
    monkeypatch.setattr(live, "open_video", camera.open)
    source = live.Source("camera 3", "camera-3", "/dev/video3", True, "v4l2")
    newest = live.Newest(source)
    with newest:
        newest._thread.join()
        frames = newest.frames()
        assert next(frames).index == 4, "0 to 3 were dropped"
        with pytest.raises(InvalidVideo, match="camera 3 sends no more frames"):
            next(frames)
    assert newest.dropped == 4
    assert camera.opened == [("/dev/video3", {"format": "v4l2", "options": {}})]


def test_what_goes_wrong_in_a_live_source_is_raised_where_its_frames_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frames(_: FakeCamera) -> Iterator[Frame]:
        yield Frame(0, 0.0, scene())
        raise InvalidVideo("the cable is out")

    monkeypatch.setattr(FakeCamera, "frames", frames)
    monkeypatch.setattr(live, "open_video", FakeCamera(0).open)
    with live.watch(live.Source("camera 0", "camera-0", "x", True)) as feed:
        seen = []
        with pytest.raises(InvalidVideo, match="the cable is out"):
            seen += list(feed.frames())


def test_an_rtsp_address_is_watched_until_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    film = [scene((320, 240), red=(10 + n, 60, 70 + n, 120)) for n in range(40)]
    with rtsp_server(film, fps=25) as address:
        assert cli.main(["detect", "-p", "-t", address]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "facegraph: the stream sends no more frames"
    *told, written = said.out.splitlines()
    assert written == "annotated video: stream-faces.mp4"
    seen = [json.loads(line) for line in told]
    indices = [line["frame"] for line in seen]
    assert indices == sorted(set(indices)), "in order, each at most once"
    assert indices[-1] == 39, "the newest frame is never dropped"
    for line in seen:
        left = line["faces"][0]["bbox"][0]
        assert abs(left - (10 + line["frame"])) <= 2
    assert len(developed("stream-faces.mp4")[1]) == len(seen)


def test_limits_end_a_live_source_well() -> None:
    film = [scene((320, 240), red=(10, 60, 70, 120))] * 40
    with rtsp_server(film, fps=25) as address:
        assert cli.main(["detect", "-t", address, "--max-frames", "1", "-o", "x.mp4"]) == 0
    assert len(developed("x.mp4")[1]) == 1


# A real window, in a process of its own: Tk never lets go of a display it has seen


@pytest.fixture
def display() -> Iterator[str]:
    """A display of the test's own."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("needs Xvfb")
    pytest.importorskip("tkinter", reason="needs a Python with Tk")
    ready, told = os.pipe()
    command = [server, "-displayfd", str(told), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[told], stderr=subprocess.DEVNULL) as process:
        os.close(told)
        try:
            with os.fdopen(ready) as numbers:
                yield f":{numbers.readline().strip()}"
        finally:
            process.terminate()


def run_with(display: str, function: Callable[..., object], *arguments: str) -> None:
    code = f"from {__name__} import {function.__name__} as run; run(*{list(arguments)})"
    root = Path(__file__).parents[2]
    environment = os.environ | {"DISPLAY": display}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def look_into_a_window(display: str) -> None:
    window = open_window("test")
    assert isinstance(window, TkWindow)
    root = window._root
    root.overrideredirect(True)  # without a window manager, it lies at the top left
    blue = scene((320, 200), blue=(0, 0, 320, 200))
    assert window.show(blue, 0) is True
    shown = np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))
    assert (shown[:200, :320] == (0, 0, 255)).all()
    assert window.show(scene((3000, 2000)), 0) is True
    assert (root.winfo_width(), root.winfo_height()) == (576, 384), "0.9 of the screen's width"

    def press(key: str) -> bool:
        root.focus_force()
        root.after(1, lambda: root.event_generate(key))
        return window.show(blue, 60)

    assert press("<space>") is True, "another key: the next picture"
    assert press("<q>") is False
    window._open = True
    assert press("<Escape>") is False
    window.close()


def test_a_real_window_shows_pictures_until_it_is_closed(display: str) -> None:
    run_with(display, look_into_a_window, display)


def watch_in_a_window(path: str) -> None:
    shown = []
    show = TkWindow.show

    def watched(window: TkWindow, rgb: ByteArray, seconds: float) -> bool:
        shown.append(rgb.shape)
        return show(window, rgb, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TkWindow, "show", watched)
        patch.setattr(processing, "open_models", lambda *_, **__: MODELS)
        assert cli.main(["detect", "-t", path]) == 0
    assert shown == [(90, 160, 3)] * 3


def test_a_real_window_plays_a_video(tmp_path: Path, display: str) -> None:
    run_with(display, watch_in_a_window, str(tmp_path / film("in.mp4", 3)))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"], "no file beside a window"


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter", reason="needs a Python with Tk")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert open_window("test") is None
