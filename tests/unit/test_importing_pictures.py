"""Which pictures belong to which old id, and what is never opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from facegraph.errors import ConfigError
from facegraph.importing.pictures import PictureFolder
from facegraph.importing.report import Rejected

pytestmark = pytest.mark.unit

FILES = (
    "7.jpg", "7_1.png", "7_b_c.png", "7_2.jpg", "70.jpg", "a.b.jpg", "a.jpg", "_x.png", "no-suffix",
    ".hidden.jpg", "8/one.jpg", "8/two", "8/.hidden", "8/deep/three.jpg", "x_y/one.jpg", "Zoë.jpg",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "secret.jpg").write_text("secret")
    return root


def found(folder: Path, ids: Sequence[str], wanted: str) -> list[str]:
    pictures = PictureFolder(folder)
    for old_id in ids:
        pictures.claim(old_id)
    return [picture.name for picture in pictures.pictures(wanted)]


@pytest.mark.parametrize(
    ("ids", "wanted", "names", "reason"),
    [
        (["7"], "7", ["7.jpg", "7_1.png", "7_2.jpg", "7_b_c.png"], "its name, or it and a _"),
        (["7", "7_2"], "7", ["7.jpg", "7_1.png", "7_b_c.png"], "another id has a longer claim"),
        (["7_2", "7"], "7_2", ["7_2.jpg"], "whichever comes first"),
        (["7", "7_b"], "7_b", ["7_b_c.png"], "a longer claim by its beginning"),
        (["70"], "70", ["70.jpg"], "no mere beginning"),
        (["a"], "a", ["a.jpg"], "one suffix only"),
        (["a.b"], "a.b", ["a.b.jpg"], "an id with a dot"),
        (["8"], "8", ["8/one.jpg", "8/two"], "a folder's files, none deeper, none hidden"),
        (["x"], "x", [], "a folder is for its whole name"),
        (["x_y"], "x_y", ["x_y/one.jpg"], "which may have a _"),
        (["Zoë"], "Zoë", ["Zoë.jpg"], "any letters"),
        (["zoë"], "zoë", [], "exactly so written"),
        ([""], "", ["_x.png"], "an empty id"),
        (["no-suffix"], "no-suffix", [], "a picture has a suffix"),
        ([".hidden"], ".hidden", [], "hidden files are nobody's"),
        (["../secret"], "../secret", [], "ids make no paths"),
        (["8/one"], "8/one", [], "not inwards either"),
        (["."], ".", [], "nor to the folder itself"),
        (["*"], "*", [], "an id is no pattern"),
        (["\0"], "\0", [], "nor need it be a possible name"),
    ],
)
def test_whose(folder: Path, ids: list[str], wanted: str, names: list[str], reason: str) -> None:
    assert found(folder, ids, wanted) == names, reason


def test_what_belongs_to_nobody_is_counted(folder: Path) -> None:
    pictures = PictureFolder(folder)
    pictures.claim("7")
    pictures.claim("8")
    assert pictures.unclaimed == 7  # 70, a.b, a, _x, no-suffix, x_y, Zoë


def read(folder: Path, old_id: str, max_bytes: int = 100) -> bytes:
    pictures = PictureFolder(folder)
    pictures.claim(old_id)
    (picture,) = pictures.pictures(old_id)
    return pictures.read(picture, max_bytes)


def test_read(folder: Path) -> None:
    assert read(folder, "70", max_bytes=6) == b"70.jpg"
    (folder / "link.jpg").symlink_to("8/one.jpg")
    assert read(folder, "link") == b"8/one.jpg"
    (folder / "linked").symlink_to("x_y")
    assert read(folder, "linked") == b"x_y/one.jpg"


def test_too_large(folder: Path) -> None:
    with pytest.raises(Rejected, match="image_too_large"):
        read(folder, "70", max_bytes=5)


@pytest.mark.parametrize(
    ("target", "code", "reason"),
    [
        ("../secret.jpg", "outside_folder", "a link that leads out"),
        ("/etc/hostname", "outside_folder", "wherever it leads"),
        ("gone.jpg", "unreadable", "a link to nothing"),
        ("leads.jpg", "unreadable", "a link to itself"),
        ("fifo", "no_file", "what would never end"),
    ],
)
def test_links_refused(folder: Path, target: str, code: str, reason: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "leads.jpg").symlink_to(target)
    with pytest.raises(Rejected) as raised:
        read(folder, "leads")
    assert raised.value.code == code, reason


def test_a_folder_that_leads_out_is_not_listed(folder: Path) -> None:
    (folder / "out").symlink_to("..")
    assert found(folder, ["out"], "out") == ["out"]
    with pytest.raises(Rejected, match="outside_folder"):
        read(folder, "out")


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert read(tmp_path / "link", "70") == b"70.jpg"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        PictureFolder(tmp_path / "gone")
