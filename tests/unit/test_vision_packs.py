"""Which segmenter and which captioner a name means, from the operator and from a client."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import pickle
from pathlib import Path

import pytest

from facegraph.config import Settings
from facegraph.errors import ConfigError, InvalidRequest, ModelMissing, ModelUnavailable
from facegraph.models.packfile import SegmenterPackSpec, bundled_packs
from facegraph.models.places import locate, prepared_mark
from facegraph.models.vision_packs import (
    SegmenterModel,
    find_captioner,
    find_segmenter,
    find_segmenter_named,
)

pytestmark = pytest.mark.unit

OWN = """
name = "mine"
[licence]
name = "AGPL-3.0"
permissive = false
[segmenter]
kind = "yolo"
file = "mine-seg.onnx"
"""

YOLACT = "yolact_base_54_800000.pth"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(models: Path) -> Settings:
    return Settings(data_dir=models.parent, insightface_home=models.parent / "insightface")


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_own(models: Path, text: str = OWN) -> None:
    put(models / "packs" / "mine.toml", text.encode())
    put(models / "packs" / "mine-seg.onnx")


def put_yolov5(models: Path) -> None:
    """As `pull` leaves it; what is in the file does not matter here."""
    spec = locate("yolov5s-seg", Settings(data_dir=models.parent)).spec
    path = put(models / "yolov5s-seg" / "yolov5s-seg.prepared.onnx", b"graph")
    mark = prepared_mark(spec.files[0], hashlib.sha256(b"graph").hexdigest())
    put(path.with_name("installed.json"), json.dumps({path.name: mark}).encode())


def put_with_digest(models: Path, name: str) -> None:
    """The files of a bundled pack, whose digests nobody can forge: so these are damaged."""
    for file in locate(name, Settings(data_dir=models.parent)).spec.files:
        put(models / name / file.name)


@pytest.mark.parametrize("at", ["yolact_base", "."])
@pytest.mark.parametrize("name", ["yolact_base", YOLACT])
def test_a_checkpoint_in_its_packs_folder_or_in_the_models_folder(
    models: Path, settings: Settings, at: str, name: str
) -> None:
    path = put(models / at / YOLACT)
    model = find_segmenter(settings, name)
    assert (model.name, model.kind, model.config) == ("yolact_base", "yolact", "base")
    assert model.file.path == path
    assert model.file.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (model.licence.name, model.licence.permissive) == ("MIT", True)
    assert find_segmenter_named(settings, name) == model
    assert find_segmenter(settings, "auto") == model
    assert pickle.loads(pickle.dumps(model)) == model


def test_auto_takes_the_installed_pack_of_the_highest_rank(
    models: Path, settings: Settings
) -> None:
    with pytest.raises(
        ModelMissing, match="run: facegraph models pull yolov5s-seg --accept-license"
    ):
        find_segmenter(settings, "auto")
    chosen = []
    put_own(models)
    chosen.append(find_segmenter(settings, "auto").name)
    put_yolov5(models)
    chosen.append(find_segmenter(settings, "auto").name)
    for size in ("resnet50", "base", "im700"):
        put(models / f"yolact_{size}_54_800000.pth")
        chosen.append(find_segmenter(settings, "auto").name)
    assert chosen == ["mine", "yolov5s-seg", "yolact_resnet50", "yolact_base", "yolact_im700"]


def test_a_rank_of_ones_own(models: Path, settings: Settings) -> None:
    put(models / YOLACT)
    put_own(models, OWN.replace('name = "mine"', 'name = "mine"\nrank = 99'))
    assert find_segmenter(settings, "auto").name == "mine"


@pytest.mark.parametrize("has_package", [False, True])
def test_rfdetr_needs_its_package(
    models: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_package: bool,
) -> None:
    put(models / YOLACT)
    put_with_digest(models, "rfdetr-seg-nano")
    real = importlib.util.find_spec

    def fake_find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        if name == "rfdetr":
            return importlib.machinery.ModuleSpec(name, None) if has_package else None
        return real(name)

    monkeypatch.setattr(importlib.util, "find_spec", fake_find_spec)
    # The file put there is damaged, so it is looked at, and the next best is taken.
    assert find_segmenter(settings, "auto").name == "yolact_base"
    assert ("rf-detr-seg-nano.pt is damaged" in caplog.text) == has_package


def test_the_path_of_a_pack_file_is_for_the_operator(tmp_path: Path, settings: Settings) -> None:
    path = put(tmp_path / "elsewhere" / "mine.toml", OWN.encode())
    put(path.with_name("mine-seg.onnx"))
    model = find_segmenter(settings, str(path))
    assert (model.name, model.kind, model.config) == ("mine", "yolo", None)
    assert model.file.path == path.with_name("mine-seg.onnx")
    with pytest.raises(InvalidRequest, match="not a name of a model"):
        find_segmenter_named(settings, str(path))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("yolov5s-sge", "segmenter: there is no pack 'yolov5s-sge' .did you mean yolov5s-seg"),
        ("zzz", "segmenter: there is no pack 'zzz'; known: rfdetr-seg-medium, .*, yolov5s-seg"),
        ("opencv", "segmenter: opencv is a face pack; known: rfdetr-seg-medium"),
        ("blip-base", "segmenter: blip-base is a captioner pack"),
        ("/no/such.toml", "cannot be read"),
    ],
)
def test_names_that_are_no_segmenters(settings: Settings, name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_segmenter(settings, name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../yolact_base_54_800000.pth",
        "/etc/passwd",
        "yolact_base/../../x.pth",
        "models/yolact_base_54_800000.pth",
        "..\\yolact_base_54_800000.pth",
        "yolact_base_54_800000.pth\0",
        "yolact_base\0.toml",
        "packs/mine.toml",
        "mine.toml",
        "mine-seg.onnx\n",
        "auto",
        "opencv",
        "blip-base",
        "model_base.pth",
        "secret.pth",
        "yolact_plus_base_54_800000.pth",
        "installed.json",
        "y" * 129,
        "YOLACT_BASE",
        "ｙolact_base",
    ],
)
def test_a_client_names_known_models_only(models: Path, settings: Settings, name: str) -> None:
    """Whatever lies in the folders beside them."""
    put_own(models)
    put(models / "secret.pth")
    put(models / YOLACT)
    put(models.parent / YOLACT)
    with pytest.raises(InvalidRequest, match="known: rfdetr-seg-medium") as caught:
        find_segmenter_named(settings, name)
    assert str(models) not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_segmenter_named(settings, "zzz")
    for known in ("rfdetr-seg-nano", "yolov5s-seg", "yolact_base", YOLACT):
        assert known in str(caught.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("yolov5s-seg", "facegraph models pull yolov5s-seg --accept-license"),
        (YOLACT, "facegraph models pull yolact_base --from PATH"),
        ("rfdetr-seg-small", "facegraph models pull rfdetr-seg-small"),
    ],
)
def test_a_known_name_without_files(settings: Settings, name: str, command: str) -> None:
    with pytest.raises(ModelMissing, match=command):
        find_segmenter(settings, name)
    with pytest.raises(ModelUnavailable, match=command):
        find_segmenter_named(settings, name)


def test_a_pack_of_ones_own_is_a_known_name(models: Path, settings: Settings) -> None:
    put_own(models)
    assert find_segmenter_named(settings, "mine").file.path == models / "packs" / "mine-seg.onnx"
    assert find_segmenter_named(settings, "mine-seg.onnx").name == "mine"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_models_folder_is_not_for_clients(
    models: Path, settings: Settings, what: str
) -> None:
    outside = put(models.parent / "outside" / YOLACT)
    if what == "file":
        (models / YOLACT).symlink_to(outside)
    else:
        (models / "yolact_base").symlink_to(outside.parent)
    assert find_segmenter(settings, YOLACT).name == "yolact_base"
    with pytest.raises(InvalidRequest, match="lies outside the models folder"):
        find_segmenter_named(settings, YOLACT)


def test_a_link_within_the_models_folder(models: Path, settings: Settings) -> None:
    (models / YOLACT).symlink_to(put(models / "store" / "base.pth"))
    assert find_segmenter_named(settings, YOLACT).name == "yolact_base"


def test_a_models_folder_that_is_a_link(models: Path) -> None:
    put(models / YOLACT)
    link = models.parent / "link"
    link.symlink_to(models)
    assert find_segmenter_named(Settings(models_dir=link), YOLACT).name == "yolact_base"


def test_a_pack_file_may_lead_outside_for_the_operator_only(
    models: Path, settings: Settings
) -> None:
    outside = put(models.parent / "outside.onnx")
    put_own(models, OWN.replace("mine-seg.onnx", str(outside)))
    assert find_segmenter(settings, "mine").file.path == outside
    with pytest.raises(InvalidRequest, match="lies outside the models folder"):
        find_segmenter_named(settings, "mine")


def test_a_broken_pack_file_is_no_clients_fault(models: Path, settings: Settings) -> None:
    put(models / "packs" / "broken.toml", b"name = ")
    with pytest.raises(ModelUnavailable, match="is not TOML"):
        find_segmenter_named(settings, "yolov5s-seg")


def test_a_damaged_file(models: Path, settings: Settings) -> None:
    put_with_digest(models, "rfdetr-seg-nano")
    with pytest.raises(ModelMissing, match="is damaged"):
        find_segmenter(settings, "rfdetr-seg-nano")
    with pytest.raises(ModelUnavailable, match="is damaged"):
        find_segmenter_named(settings, "rfdetr-seg-nano")


def put_blip(models: Path, name: str) -> Path:
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        put(models / name / file)
    put(models / name / "tokenizer_config.json")
    put(models / name / "preprocessor_config.json")
    return put(models / name / "vocab.txt").parent


def test_captioners(models: Path, settings: Settings) -> None:
    assert find_captioner(settings, "auto") is None
    with pytest.raises(ModelMissing, match=r"run: facegraph models pull blip-base$"):
        find_captioner(settings, "blip-base")
    with pytest.raises(ConfigError, match="captioner: yolov5s-seg is a segmenter pack"):
        find_captioner(settings, "yolov5s-seg")
    folder = put_blip(models, "blip-large")  # a bundled pack without digests
    large = find_captioner(settings, "auto")
    assert large is not None
    assert (large.name, large.kind, large.config) == ("blip-large", "blip", "large")
    assert (large.folder, large.file) == (folder, None)
    assert [file.name for file in large.files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "preprocessor_config.json",
    ]
    assert large.licence.name == "BSD-3-Clause"
    assert find_captioner(settings, "blip-large") == large
    assert pickle.loads(pickle.dumps(large)) == large


def test_a_captioner_folder_that_lacks_a_file_is_not_installed(
    models: Path, settings: Settings
) -> None:
    (put_blip(models, "blip-large") / "vocab.txt").unlink()
    assert find_captioner(settings, "auto") is None
    with pytest.raises(ModelMissing, match=r"vocab\.txt is not in"):
        find_captioner(settings, "blip-large")


CAPTIONER = """
name = "{name}"
rank = {rank}
[licence]
name = "MIT"
permissive = true
[captioner]
kind = "blip"
config = "base"
"""


def test_the_authors_checkpoint(models: Path, settings: Settings) -> None:
    """Named by its pack or by itself; a folder in transformers' layout of lower rank waits."""
    text = CAPTIONER.format(name="old", rank=2) + 'file = "old_caption.pth"\n'
    put(models / "packs" / "old.toml", text.encode())
    put(models / "packs" / "own.toml", CAPTIONER.format(name="own", rank=1).encode())
    folder = put_blip(models, "own")
    own = find_captioner(settings, "auto")
    assert own is not None
    assert own.folder == folder
    path = put(models / "old" / "old_caption.pth")
    for name in ("auto", "old", "old_caption.pth"):
        old = find_captioner(settings, name)
        assert old is not None
        assert old.file is not None
        assert (old.name, old.folder, old.file.path) == ("old", None, path)
        assert old.files == (old.file,)


def test_every_segmenter_pack_has_a_checkpoint_name_of_its_own() -> None:
    names = [
        spec.segmenter.file
        for spec in bundled_packs().values()
        if isinstance(spec, SegmenterPackSpec)
    ]
    assert len(set(names)) == len(names) == 7


def test_the_models_are_values(models: Path, settings: Settings) -> None:
    put(models / YOLACT)
    model = find_segmenter(settings, YOLACT)
    assert model == SegmenterModel(model.name, model.kind, model.file, model.config, model.licence)
    assert hash(model) == hash(find_segmenter(settings, YOLACT))


def test_a_captioner_without_a_pack_file(models: Path, settings: Settings) -> None:
    put(models.parent / "my-blip-large" / "config.json", b"{}")
    put(models.parent / "my-blip-large" / "model.safetensors")
    found = find_captioner(settings, str(models.parent / "my-blip-large"))
    assert found is not None
    assert (found.name, found.config, found.folder) == (
        "my-blip-large",
        "large",
        models.parent / "my-blip-large",
    )
    assert [file.name for file in found.files] == ["config.json", "model.safetensors"]
    put(models.parent / "model_base.pth")
    found = find_captioner(settings, str(models.parent / "model_base.pth"))
    assert found is not None
    assert found.file is not None
    assert (found.name, found.folder, found.file.path) == (
        "model_base",
        None,
        models.parent / "model_base.pth",
    )
    with pytest.raises(ModelMissing, match=r"elsewhere\.pth is not in"):
        find_captioner(settings, str(models.parent / "elsewhere.pth"))


def test_a_captioner_by_its_hub_id(models: Path, settings: Settings) -> None:
    with pytest.raises(ModelMissing, match=r"models pull someone/my-blip --accept-license"):
        find_captioner(settings, "someone/my-blip")
    place = locate("someone/my-blip", settings)
    assert place.home == models / "someone--my-blip"
    assert [str(file.sources[0]) for file in place.spec.files][:2] == [
        "hub someone/my-blip at main, config.json",
        "hub someone/my-blip at main, model.safetensors",
    ]
    for file in place.spec.files:
        put(place.home / file.name)
    found = find_captioner(settings, "someone/my-blip")
    assert found is not None
    assert (found.name, found.folder) == ("someone--my-blip", place.home)
    known = locate("Salesforce/blip-image-captioning-base", settings)
    assert (known.spec.name, known.home) == ("blip-base", models / "blip-base")
