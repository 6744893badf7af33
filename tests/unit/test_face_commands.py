"""``facegraph detect|recognize|encode`` and their old names, with networks that see colours."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facegraph import cli
from facegraph.commands import faces, processing
from facegraph.commands.processing import Devices, choose_devices
from facegraph.config import Settings
from facegraph.errors import ConfigError
from facegraph.vision.drawing import colour_of
from tests.fake_faces import (
    MODELS,
    FakeWindow,
    dataset,
    fake_faces,
    lines,
    save,
    scene,
    with_display,
)

__all__ = ["fake_faces"]

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("fake_faces")]

# Flags

PROCESSOR = [
    # what is typed, what it means
    (["-i", "a.jpg"], {"image": [Path("a.jpg")]}),
    (["--image", "a.jpg", "b"], {"image": [Path("a.jpg"), Path("b")]}),
    (["-i", "a.jpg", "-i", "b.jpg"], {"image": [Path("a.jpg"), Path("b.jpg")]}),
    ([], {"image": None, "video_test": None}),
    (["-t"], {"video_test": "0"}),
    (["-t", "1"], {"video_test": "1"}),
    (["--video_test", "x.mp4"], {"video_test": "x.mp4"}),
    (["--video-test", "rtsp://a/b"], {"video_test": "rtsp://a/b"}),
    (["-s"], {"show_img": True, "print_output": False, "verbose": False}),
    (["--show_img"], {"show_img": True}),
    (["--show-img"], {"show_img": True}),
    (["-p"], {"print_output": True, "show_img": False}),
    (["--print_output"], {"print_output": True}),
    (["--print-output"], {"print_output": True}),
    (["-v"], {"verbose": True}),
    (["--verbose"], {"verbose": True}),
    (["-dd", "-1", "-rd", "0"], {"det_dev": -1, "rek_dev": 0}),
    (["--det-dev", "2", "--rek-dev", "-1"], {"det_dev": 2, "rek_dev": -1}),
    (["--det_dev=1", "--rek_dev=3"], {"det_dev": 1, "rek_dev": 3}),
    ([], {"det_dev": None, "rek_dev": None, "output": None}),
    (["-o", "out"], {"output": Path("out")}),
    (["--max-frames", "9", "--seconds", "1.5"], {"max_frames": 9, "seconds": 1.5}),
]

ENCODER = [
    (
        ["-i", '{"a": ["b"]}'],
        {"image": '{"a": ["b"]}', "path": None, "output": Path("dataset.json")},
    ),
    (["-p", "people"], {"path": "people", "image": None}),
    (["-p", "x", "-o", "out.json", "-dd", "-1", "-rd", "1"], {"det_dev": -1, "rek_dev": 1}),
    (["-p", "x", "-o", "out.json"], {"output": Path("out.json")}),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, argparse.Namespace]]:
    """Which command was asked for, and how; nothing is run."""
    seen: list[tuple[str, argparse.Namespace]] = []

    def note(name: str) -> Callable[[argparse.Namespace], int]:
        return lambda options: seen.append((name, options)) or 0  # type: ignore[func-returns-value]

    for name in ("detect", "recognize", "encode"):
        monkeypatch.setattr(faces, f"run_{name}", note(name))
    return seen


@pytest.mark.parametrize(("typed", "meaning"), PROCESSOR)
@pytest.mark.parametrize("old", ["detection", "recognition"])
def test_flags_of_processor(
    asked: list[tuple[str, argparse.Namespace]],
    old: str,
    typed: list[str],
    meaning: Mapping[str, object],
) -> None:
    command = faces.ACTIONS[old]
    dataset = ["-d", "dataset.json"] if old == "recognition" else []
    assert faces.main_processor([old, *typed, *dataset]) == 0
    assert cli.main([command, *typed, *dataset]) == 0
    assert [name for name, _ in asked] == [command, command]
    for _, options in asked:
        assert {key: getattr(options, key) for key in meaning} == meaning


@pytest.mark.parametrize(("typed", "meaning"), ENCODER)
def test_flags_of_encoder(
    asked: list[tuple[str, argparse.Namespace]], typed: list[str], meaning: Mapping[str, object]
) -> None:
    assert faces.main_encoder(typed) == 0
    assert cli.main(["encode", *typed]) == 0
    assert [name for name, _ in asked] == ["encode", "encode"]
    for _, options in asked:
        assert {key: getattr(options, key) for key in meaning} == meaning


def test_strangers_have_the_old_name_under_the_old_name(
    asked: list[tuple[str, argparse.Namespace]],
) -> None:
    faces.main_processor(["recognition", "--dataset", "d.json"])
    cli.main(["recognize", "--dataset", "d.json"])
    assert [options.unknown for _, options in asked] == ["Uknown", "unknown"]
    assert [options.dataset for _, options in asked] == [Path("d.json"), Path("d.json")]


def test_detection_takes_a_dataset_it_does_not_need(
    asked: list[tuple[str, argparse.Namespace]],
) -> None:
    assert faces.main_processor(["-d", "d.json", "detection"]) == 0
    assert asked[0][0] == "detect"


WRONG = [
    # what is typed, why it is refused
    (["recognize", "-i", "a.jpg"], "recognition needs a dataset"),
    (["detect", "-i", "a.jpg", "-t", "0"], "pictures or a video"),
    (["detect", "-dd", "-2"], "-1 is the least device"),
    (["detect", "-dd", "gpu"], "devices are numbers"),
    (["detect", "--max-frames", "0"], "at least one frame"),
    (["detect", "--seconds", "nan"], "no time"),
    (["recognize", "-d", "x", "--threshold", "2"], "no cosine"),
    (["encode"], "no people"),
    (["encode", "-i", "{}", "-p", "x"], "one of the two"),
]


@pytest.mark.parametrize(("typed", "reason"), WRONG)
def test_what_is_asked_wrongly_ends_in_2(typed: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    assert ended.value.code == 2, reason


@pytest.mark.parametrize(("typed", "status"), [([], 2), (["detect"], 2), (["--help"], 0)])
def test_processor_says_how_it_is_used(
    typed: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faces.main_processor(typed) == status
    assert capsys.readouterr().out.startswith("usage: processor detection|recognition")


def test_the_console_scripts_lead_here() -> None:
    project = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())
    for name, function in (("processor", faces.main_processor), ("encoder", faces.main_encoder)):
        module, _, attribute = project["project"]["scripts"][name].partition(":")
        assert getattr(import_module(module), attribute) is function


DEVICES = [
    # -dd, -rd, CUDA_VISIBLE_DEVICES → what they run on, CUDA_VISIBLE_DEVICES, is anything said
    (None, None, None, ("auto", "auto"), None, False),
    (-1, -1, None, ("cpu", "cpu"), None, False),
    (-1, None, "0,1", ("cpu", "auto"), "0,1", False),
    (0, 0, None, ("cuda", "cuda"), "0", False),
    (1, -1, None, ("cuda", "cpu"), "1", False),
    (-1, 2, None, ("cpu", "cuda"), "2", False),
    (0, 1, None, ("cuda", "cuda"), "0", True),
    (1, 1, "4,5", ("cuda", "cuda"), "5", False),
]


@pytest.mark.parametrize(("det", "rek", "visible", "want", "shown", "said"), DEVICES)
def test_device_numbers(
    det: int | None,
    rek: int | None,
    visible: str | None,
    want: tuple[Any, Any],
    shown: str | None,
    said: bool,
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    warnings: list[str] = []
    assert choose_devices(det, rek, Settings(), environ, warnings.append) == Devices(*want)
    assert environ.get("CUDA_VISIBLE_DEVICES") == shown
    assert warnings == (["one process uses one GPU: both models run on GPU 0"] if said else [])


def test_a_hidden_gpu_is_refused() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    with pytest.raises(ConfigError, match="there is no GPU 1: CUDA_VISIBLE_DEVICES shows 1"):
        choose_devices(1, None, Settings(), environ, print)


# Pictures


def test_detect_prints_what_the_old_one_answered(capsys: pytest.CaptureFixture[str]) -> None:
    picture = save("a.png", scene(red=(10, 10, 30, 40), blue=(50, 10, 60, 20)))
    assert cli.main(["detect", "-i", picture]) == 0
    assert lines(capsys) == [
        {
            "file": "a.png",
            "faces": [
                {"label": 0, "bbox": [10, 10, 30, 40, 0.75]},
                {"label": 1, "bbox": [50, 10, 60, 20, 0.75]},
            ],
        }
    ]


def test_a_folder_gives_its_pictures_in_order_and_a_broken_one_fails_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("in/b.png", "in/deep/c.png", "in/.thumbs/x.png", "in/z.png"):
        save(name, scene(red=(10, 10, 30, 40)))
    Path("in/a.png").write_bytes(b"no picture")
    Path("in/notes.txt").write_text("no picture either")
    assert cli.main(["detect", "-i", "in", "nowhere.png"]) == 1
    said = capsys.readouterr()
    files = [json.loads(line)["file"] for line in said.out.splitlines()]
    assert files == ["in/b.png", "in/deep/c.png", "in/z.png"]
    first, second = said.err.splitlines()
    assert first.startswith("in/a.png: not an image of a known format")
    assert second == "nowhere.png: No such file or directory"


def test_a_folder_without_pictures_is_asked_wrongly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert cli.main(["detect", "-i", "empty"]) == 2
    assert capsys.readouterr().err == "facegraph: there is no picture in empty\n"


def test_annotated_pictures_go_into_a_folder_over_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rgb = scene((400, 300), red=(100, 100, 200, 200))
    for name in ("a/x.png", "b/x.png"):
        save(name, rgb)
    assert cli.main(["detect", "-i", "a", "b", "-o", "out", "-p"]) == 0
    assert [line["drawn"] for line in lines(capsys)] == ["out/x.jpg", "out/x-2.jpg"]
    with Image.open("out/x-2.jpg") as image:
        drawn = np.asarray(image)
    assert drawn.shape == rgb.shape
    changed = np.abs(drawn.astype(int) - rgb).max(axis=2) > 40
    assert changed[199, 100:200].mean() > 0.9, "the box's lower edge"
    assert not changed[220:].any(), "nothing below it"
    assert cli.main(["detect", "-i", "a", "-o", "out/x.jpg"]) == 2, "a folder, for pictures"


def test_a_folder_that_cannot_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    picture = save("a.png", scene())
    Path("out").write_text("a file")
    assert cli.main(["detect", "-i", picture, "-o", "out"]) == 1
    assert "facegraph: nothing can be written in out: File exists" in capsys.readouterr().err


def test_show_without_a_display_writes_beside_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [save(name, scene(red=(10, 10, 30, 40))) for name in ("p/a.png", "a-faces.jpg")]
    assert cli.main(["detect", "-s", "-i", *pictures]) == 0
    said = capsys.readouterr()
    assert said.err == "no display: annotated pictures are written to files\n"
    assert said.out.splitlines() == [
        "p/a.png: 1 face, drawn in a-faces-2.jpg",
        "a-faces.jpg: 1 face, drawn in a-faces-faces.jpg",
    ]


def test_show_with_a_display_opens_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    window = FakeWindow(patience=2)
    with_display(monkeypatch, window)
    pictures = [save(f"{n}.png", scene((200 + n, 90), red=(10, 10, 30, 40))) for n in range(3)]
    assert cli.main(["detect", "-s", "-p", "-i", *pictures]) == 0
    assert [picture.shape for picture in window.shown] == [(90, 200, 3), (90, 201, 3)]
    assert window.closed == 1, "q closes the window"
    assert len(lines(capsys)) == 3, "the rest is looked at all the same"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]


# People


def test_recognize_names_the_nearest_and_calls_strangers_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    everybody = scene(red=(0, 0, 30, 30), blue=(50, 0, 70, 20), green=(90, 0, 100, 10))
    arguments = ["-d", dataset("Ada", "Bob"), "-i", save("a.png", everybody)]
    assert cli.main(["recognize", *arguments]) == 0
    assert faces.main_processor(["recognition", "-p", *arguments]) == 0
    ours, old = lines(capsys)
    assert [face["label"] for face in ours["faces"]] == ["Ada", "Bob", "unknown"]
    assert [face["similarity"] for face in ours["faces"]] == [1, 1, 0]
    assert [face["label"] for face in old["faces"]] == ["Ada", "Bob", "Uknown"]
    assert old["faces"][1]["bbox"] == [50, 0, 70, 20, 0.75]


def test_the_threshold_is_inclusive(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-d", dataset("Ada"), "-i", save("a.png", scene(green=(0, 0, 9, 9)))]
    for threshold in ("0", "0.01"):
        assert cli.main(["recognize", "--threshold", threshold, *arguments]) == 0
    assert [line["faces"][0]["label"] for line in lines(capsys)] == ["Ada", "unknown"]


def test_the_other_form_of_a_dataset_and_an_empty_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.json").write_text('{"Ada": [{"img": 0, "embedding": [2, 0, 0]}]}')
    Path("empty.json").write_text("[]")
    picture = save("a.png", scene(red=(0, 0, 9, 9)))
    for name in ("other.json", "empty.json"):
        assert cli.main(["recognize", "-d", name, "-i", picture]) == 0
    told = [line["faces"][0] for line in lines(capsys)]
    assert [(face["label"], face["similarity"]) for face in told] == [("Ada", 1), ("unknown", None)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[["Ada", "1,2"]]',
            "x.json: dataset: entry 0 has 2 numbers, not 3. Face pack fake makes 3",
        ),
        ("nonsense", "facegraph: x.json: the dataset "),
        (None, "x.json: No such file or directory"),
    ],
)
def test_a_wrong_dataset_is_said(
    text: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("x.json").write_text(text)
    assert cli.main(["recognize", "-d", "x.json", "-i", save("a.png", scene())]) == 1
    assert sentence in capsys.readouterr().err


def rows(path: str) -> list[tuple[str, list[float]]]:
    return [
        (label, [float(n) for n in text.split(",")])
        for label, text in json.loads(Path(path).read_text())
    ]


def test_encode_takes_folders_of_folders(capsys: pytest.CaptureFixture[str]) -> None:
    save("people/Bob/2020/summer/1.png", scene(blue=(0, 0, 9, 9)))
    save("people/Ada/1.png", scene(red=(0, 0, 9, 9)))
    save("people/Ada/2.png", scene(red=(0, 0, 20, 20), blue=(30, 0, 35, 5)))
    assert cli.main(["encode", "-p", "people"]) == 0
    assert rows("dataset.json") == [
        ("Ada", [1, 0, 0]),
        ("Ada", [1, 0, 0]),
        ("Bob", [0, 1, 0]),
    ], "by person, then path; the first level names the person; the largest face counts"
    said = capsys.readouterr()
    assert said.err == "people/Ada/2.png: 2 faces, the largest is taken for Ada\n"
    assert said.out.splitlines() == [
        "3 faces of 2 people are in dataset.json (face pack fake)",
        "several faces: 1 of 3 pictures",
    ]


def test_encode_says_what_gave_no_face_and_ends_in_1(capsys: pytest.CaptureFixture[str]) -> None:
    save("people/Ada/1.png", scene(red=(0, 0, 9, 9)))
    save("people/Ada/2.png", scene())
    save("people/stray.png", scene(red=(0, 0, 9, 9)))
    Path("people/Ada/3.png").write_bytes(b"no picture")
    assert faces.main_encoder(["-p", "people", "-o", "new/out.json", "-dd", "-1"]) == 1
    assert rows("new/out.json") == [("Ada", [1, 0, 0])]
    said = capsys.readouterr()
    stray, none, broken = said.err.splitlines()
    assert stray == "left out: people/stray.png: it lies in no person's folder"
    assert none == "left out: people/Ada/2.png: no face"
    assert broken.startswith("left out: people/Ada/3.png: not an image")
    assert said.out.splitlines()[1:] == ["no face: 1 of 3 pictures", "unreadable: 1 of 3 pictures"]


def test_encoder_takes_people_as_json() -> None:
    people = {
        "Bob": [save("1.png", scene(blue=(0, 0, 9, 9)))],
        "Ada": [save("2.png", scene(red=(0, 0, 9, 9))), "1.png"],
    }
    Path("out").mkdir()
    assert faces.main_encoder(["-i", json.dumps(people), "-o", "out"]) == 0
    assert rows("out/dataset.json") == [
        ("Bob", [0, 1, 0]),
        ("Ada", [1, 0, 0]),
        ("Ada", [0, 1, 0]),
    ]


@pytest.mark.parametrize(
    "text", ['{"a": "b.jpg"}', '{"a": [1]}', '{"": ["b.jpg"]}', "{", "{}", '{"a": []}', "nowhere"]
)
def test_people_that_are_none_are_refused(text: str) -> None:
    assert faces.main_encoder(["-i", text]) == 2


def test_without_pictures_and_video_the_first_camera_is_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert faces.main_processor(["detection"]) == 1
    assert capsys.readouterr().err == (
        "facegraph: there is no camera 0: /dev/video0 does not exist\n"
    )


def test_an_old_dataset_survives_pictures_without_a_face(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = Path(dataset("Ada")).read_bytes()
    save("people/Ada/1.png", scene())
    assert cli.main(["encode", "-p", "people"]) == 1
    assert Path("dataset.json").read_bytes() == before
    assert "no picture gave a face; dataset.json is not written" in capsys.readouterr().err


def test_colours_are_those_of_the_drawings() -> None:
    """What other tests take for granted: the first box is drawn in the first colour."""
    seen = processing.detection(MODELS)(scene((400, 300), red=(100, 100, 200, 200)))
    drawn = seen.draw(scene((400, 300)))
    assert tuple(drawn[199, 150]) == colour_of(0)
    assert seen.answer() == [{"label": 0, "bbox": [100, 100, 200, 200, 0.75]}]
