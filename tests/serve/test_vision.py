"""Captions and masks as deployments: real models, switched and killed under traffic."""

from __future__ import annotations

import base64
import io
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from facegraph.config import Settings
from facegraph.types import CaptionOptions
from facegraph.vision.blip import BlipCaptioner
from tests import photos
from tests.blip_making import folder_model, make_tiny_blip
from tests.serve.copies import Copy, wait_until, write_config
from tests.yolact_reference import official_shapes, random_state

pytestmark = pytest.mark.serve

YOLACT = "yolact_resnet50_54_800000.pth"
BOMB = "yolact_im700_54_800000.pth"
INIT = "/instance-segmentation/init-engine"
MASKS = "/v1/segmentations?masks=none"
RESOURCES = {
    "ingress": {"num_cpus": 0.2},
    "detector": {"num_cpus": 0.2},
    "embedder": {"num_cpus": 0.2},
    "matcher": {"num_cpus": 0.2},
    "segmenter": {"num_cpus": 0.3},
    "captioner": {"num_cpus": 0.2},
}
CAPTIONER = """
name = "tiny"
[licence]
name = "MIT"
permissive = true
[captioner]
kind = "blip"
config = "base"
"""


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def tiny(copies_folder: Path) -> Path:
    """A tiny BLIP with a pack file of its own."""
    folder = copies_folder / "tiny"
    names = [file.name for file in make_tiny_blip(folder).files]
    (folder / "tiny.toml").write_text(
        CAPTIONER + "".join(f'[[files]]\nname = "{name}"\n' for name in sorted(names))
    )
    return folder


@pytest.fixture(scope="module")
def sighted(copies_folder: Path, tiny: Path) -> Iterator[Copy]:
    """A copy with two segmenters, a tiny BLIP, and a YOLACT of random weights to switch to."""
    folder = copies_folder / "sighted"
    models = folder / "models"
    models.mkdir(parents=True)
    for pack in ("opencv", "yolov5s-seg"):
        shutil.copytree(Settings().models_path / pack, models / pack)
    torch.save(random_state(official_shapes((3, 4, 6, 3))), models / YOLACT)
    (models / BOMB).write_bytes(pickle.dumps(_Bomb(folder / "exploded")))
    config = write_config(
        folder,
        {"segmenter": 2},
        captioner=str(tiny / "tiny.toml"),
        segmenter="yolov5s-seg",
        precision="fp32",
        resources=RESOURCES,
    )
    copy = Copy(folder, config, more={"FACEGRAPH_MODELS_DIR": str(models)})
    assert "masks yolov5s-seg, captions tiny" in copy.start()
    yield copy
    copy.stop()


@pytest.fixture
def http(sighted: Copy) -> Iterator[httpx.Client]:
    sighted.wait_ready()
    with sighted.client() as client:
        yield client


def sent(path: Path = photos.GROUP) -> dict[str, Any]:
    return {"content": path.read_bytes(), "headers": {"content-type": "image/jpeg"}}


def test_captions_are_blips_own(http: httpx.Client, tiny: Path) -> None:
    pictures = [photos.GROUP, photos.PORTRAIT, photos.ASTRONAUT, photos.NO_FACE]
    alone = BlipCaptioner(folder_model(tiny), precision="fp32")
    expected = [alone.caption([photos.pixels(p)], CaptionOptions(num_beams=3))[0] for p in pictures]

    def ask(path: Path) -> Any:
        return http.post("/v1/captions", **sent(path)).raise_for_status().json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, pictures * 3))
    assert {answer["model"] for answer in answers} == {"tiny"}
    assert [answer["caption"] for answer in answers] == expected * 3
    assert len(set(expected)) > 1


def test_six_faces_in_six_person_masks(http: httpx.Client) -> None:
    body = http.post("/v1/analyze", **sent()).raise_for_status().json()
    persons = [face["person"] for face in body["faces"]["faces"]]
    assert len(set(persons)) == photos.GROUP_FACES == len(persons)
    objects = body["segmentation"]["objects"]
    assert [objects[person]["label"] for person in persons] == ["person"] * 6
    assert body["segmentation"]["model"] == "yolov5s-seg"
    assert {face["decision"] for face in body["search"]["faces"]} == {"unknown"}


def test_redaction_of_a_real_picture(http: httpx.Client) -> None:
    answer = http.post("/v1/redact", **sent()).raise_for_status()
    assert answer.headers["x-facegraph-concealed"] == "6"
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (1280, 886)
    again = http.post("/v1/detect", content=answer.content, headers={"content-type": "image/jpeg"})
    assert again.raise_for_status().json()["faces"] == []


def models_of_replicas(http: httpx.Client) -> list[list[str]]:
    replicas = http.get("/v1/models").raise_for_status().json()["running"]["segmenter"]
    return [sorted(model["name"] for model in replica["loaded"]) for replica in replicas]


def test_a_switch_reaches_every_replica_and_outlives_them(
    sighted: Copy, http: httpx.Client
) -> None:
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with sighted.client() as client:
            while not stop.is_set():
                response = client.post(MASKS, **sent())
                answers.append((response.status_code, response.json().get("model")))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answers) >= 4, "answers before the switch")
        done = http.request("GET", INIT, json={"model": YOLACT})
        assert (done.status_code, done.text) == (200, "Loading model... Done.")
        assert models_of_replicas(http) == [["yolact_resnet50", "yolov5s-seg"]] * 2
        after = len(answers)
        wait_until(lambda: len(answers) >= after + 8, "answers after the switch")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert {model for _, model in answers} == {"yolov5s-seg", "yolact_resnet50"}
    assert [model for _, model in answers[-4:]] == ["yolact_resnet50"] * 4

    before = sighted.replicas("segmenter")
    for _ in before:
        sighted.kill("segmenter")
    wait_until(
        lambda: len(set(sighted.replicas("segmenter")) - set(before)) == 2, "two new segmenters"
    )
    wait_until(lambda: http.post(MASKS, **sent()).status_code == 200, "masks again")
    for _ in range(6):
        body = http.post(MASKS, **sent()).raise_for_status().json()
        assert body["model"] == "yolact_resnet50"

    assert http.post(INIT, json={"model": "yolov5s-seg"}).text == "Loading model... Done."
    assert http.post(MASKS, **sent()).json()["model"] == "yolov5s-seg"


@pytest.mark.parametrize(
    "name", ["../yolact", f"/etc/{YOLACT}", "no_such.pth", "", "yolact_base_54_800000.pth", "a\0b"]
)
def test_a_switch_to_nothing_changes_nothing(http: httpx.Client, name: str) -> None:
    done = http.post(INIT, json={"model": name})
    assert done.status_code == 400
    assert "Traceback" not in done.text
    assert http.post(MASKS, **sent()).raise_for_status().json()["model"] == "yolov5s-seg"


def test_a_pickle_bomb_is_refused_and_not_run(sighted: Copy, http: httpx.Client) -> None:
    done = http.post(INIT, json={"model": BOMB})
    assert done.status_code == 400
    assert "nothing in it was run" in done.text
    assert not (sighted.folder / "exploded").exists()
    assert http.post(MASKS, **sent()).raise_for_status().json()["model"] == "yolov5s-seg"


def test_the_old_paths(http: httpx.Client) -> None:
    uri = "data:image/jpg;base64, " + base64.b64encode(photos.GROUP.read_bytes()).decode()
    body = http.post("/image-captioning", json=[{"image": uri}]).raise_for_status().json()
    assert set(body) == {"caption", "question", "options"}
    body = http.post("/instance-segmentation/detect-objects", json={"image": uri}).json()
    people = [seen for seen in body["detected_objects"] if seen["Class"] == "person"]
    assert len(people) == 6
    with Image.open(io.BytesIO(base64.b64decode(body["mjpg"]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1280, 886))
        # The rectangle's middle has a colour; a corner of the picture is black.
        x, y, w, h = (people[0]["Rect"][side] for side in "xywh")
        assert max(picture.getpixel((x + w // 2, y + h // 2))) > 60  # type: ignore[arg-type]
        assert max(picture.getpixel((3, 3))) < 30  # type: ignore[arg-type]


@pytest.mark.parametrize(("victim", "path"), [("captioner", "captions"), ("segmenter", MASKS[4:])])
def test_killed_vision_never_touches_faces(
    sighted: Copy, http: httpx.Client, victim: str, path: str
) -> None:
    faces: list[int] = []
    seen: list[int] = []
    stop = threading.Event()

    def ask(where: str, answers: list[int]) -> Callable[[], None]:
        def run() -> None:
            with sighted.client() as client:
                while not stop.is_set():
                    response = client.post(where, **sent())
                    answers.append(response.status_code)
                    if response.status_code != 200:
                        assert response.json()["code"] == "model_unavailable", response.text

        return run

    threads = [
        threading.Thread(target=ask("/v1/detect", faces)),
        threading.Thread(target=ask(f"/v1/{path}".replace("/v1//", "/v1/"), seen)),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(faces) > 5 and len(seen) > 2, "answers before the kill")
        before = set(sighted.replicas(victim))
        for _ in before:
            sighted.kill(victim)
        assert http.get("/readyz").status_code == 200
        wait_until(lambda: bool(set(sighted.replicas(victim)) - before), f"a new {victim}")
        after = len(seen)
        wait_until(lambda: seen[after:].count(200) >= 3, f"the {victim}'s answers")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(faces) == {200}
    assert set(seen) <= {200, 503}
