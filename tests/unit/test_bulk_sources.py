"""What is read out of folders, tables and archives, and what is refused, with its place."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from facegraph.bulk.csvfiles import CsvSource
from facegraph.bulk.items import File, Item, Link, Source
from facegraph.bulk.opening import kind_of, open_path, open_upload
from facegraph.bulk.parquet import ParquetSource
from facegraph.bulk.patterns import Pattern
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.importing.report import Rejection

pytestmark = pytest.mark.unit

Told = tuple[str, str]


def told(source: Source) -> list[Told]:
    """Each item's place with whose it is, or with the code of its rejection."""
    return sorted(
        (one.where, one.person.id) if isinstance(one, Item) else (str(one.item), one.code)
        for one in source.items()
    )


@pytest.mark.parametrize(
    ("pattern", "path", "subject", "reason"),
    [
        ("{subject}/**", "ada/1.jpg", "ada", "a folder for each subject"),
        ("{subject}/**", "ada/2020/may/1.jpg", "ada", "however deep"),
        ("{subject}/**", "1.jpg", None, "nobody's folder"),
        ("{subject}_*", "ada_1.jpg", "ada", "up to the sign"),
        ("{subject}_*", "mary_ann_1.jpg", "mary_ann", "as long as it may be"),
        ("{subject}_*", "George_W_Bush_0001.jpg", "George_W_Bush", "so nobody is merged"),
        ("{subject}_*", "_1.jpg", None, "nobody has no name"),
        ("*_{subject}_*", "a_b_c_d.jpg", "b_c", "from both ends"),
        ("{subject}_*", "x/ada_1.jpg", None, "a subject has no slash"),
        ("**/{subject}_*", "x/y/ada_1.jpg", "ada", "any folders before"),
        ("*/{subject}/*", "2020/ada/1.jpg", "ada", "one folder before"),
        ("*/{subject}/*", "ada/1.jpg", None, "which must be there"),
        ("{subject}", "ada.b.jpg", "ada.b", "only the suffix is left out"),
        ("a+{subject}", "a+b.jpg", "b", "other signs are themselves"),
        ("{subject}[.]", "ab.jpg", None, "as in a regular expression"),
        ("{subject}/**", "Ada Lovelace/1.jpg", "Ada Lovelace", "any name"),
        ("**/{subject}/**", "x/2020/ada/1.jpg", None, "both folders would do"),
        ("**/{subject}/*", "x/2020/ada/1.jpg", "ada", "only the last folder will"),
        ("{subject}/*/**", "ada/2020/1.jpg", "ada", "several stars"),
        ("**{subject}**", "x/ada.jpg", None, "so would any part"),
        ("***{subject}", "x/ada.jpg", "ada", "up to the end"),
        ("{subject}/**", "/etc/1.jpg", None, "the folder has no name"),
        ("{subject}", "a\nb.jpg", "a\nb", "a line break is a sign as any"),
    ],
)
def test_whose_picture_a_path_is(pattern: str, path: str, subject: str | None, reason: str) -> None:
    assert Pattern(pattern).subject(path) == subject, reason


def test_no_pattern_takes_long() -> None:
    """Whatever a client sends: a matcher that tried one way after the other would not end."""
    path = "a" * 1000
    assert Pattern("*a*a*a*a*{subject}*a*a*b").subject(path) is None
    assert Pattern("**a**a**{subject}a*a").subject(f"{path}/{path}/b") is None
    assert Pattern("*a*a*a*{subject}*a*a*a*").subject(path) == "a" * 994


def zip_at(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path / "people.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path / "people.zip"


def folder_at(path: Path, *names: str) -> Path:
    for name in names:
        (path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "top" / name).write_bytes(b"x")
    return path / "top"


@pytest.mark.parametrize("make", [zip_at, folder_at])
@pytest.mark.parametrize(
    ("names", "pattern", "subjects", "reason"),
    [
        (("p/ada/1.jpg", "p/bob/1.jpg"), "{subject}/**", None, "all would be p"),
        (("p/ada/1.jpg", "p/bob/1.jpg", "x.jpg"), "{subject}/**", None, "one beside is nobody's"),
        (("p/ada/1.jpg", "p/bob/1.jpg"), "*/{subject}/**", {"ada", "bob"}, "as it was told"),
        (("p/1/1.jpg", "p/2/1.jpg"), "{subject}/*/**", {"p"}, "they are really one"),
        (("ada/1/1.jpg", "ada/2/1.jpg", "bob/1.jpg"), "{subject}/**", {"ada", "bob"}, "two"),
        (("ada/1.jpg", "ada/new/1.jpg"), "{subject}/**", {"ada"}, "one folder in it"),
    ],
)
def test_a_folder_around_everybody(
    tmp_path: Path,
    make: Callable[..., Path],
    names: tuple[str, ...],
    pattern: str,
    subjects: set[str] | None,
    reason: str,
) -> None:
    source = open_path(make(tmp_path, *names), pattern=pattern)
    if subjects is None:
        with pytest.raises(ConfigError, match=r"'p'.*\('ada', 'bob'\).*\*/\{subject\}/\*\*"):
            source.check()
    else:
        found = {one.person.id for one in source.items() if isinstance(one, Item)}
        assert found == subjects, reason


@pytest.mark.parametrize("pattern", ["", "*", "{subject}{subject}", "{subject}" + "*/" * 9])
def test_no_pattern(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"must have \{subject\} once"):
        Pattern(pattern)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "people"
    for name in ("ada/1.jpg", "ada/x/2.PNG", "bob/1.jpeg", "lonely.jpg", "ada/notes.txt",
                 "ada/.hidden.jpg", ".git/1.jpg"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "1.jpg").write_bytes(b"x")
    (root / "carl").symlink_to(tmp_path / "outside")
    return root


def test_a_folder(folder: Path) -> None:
    source = open_path(folder)
    assert told(source) == [
        ("ada/1.jpg", "ada"),
        ("ada/x/2.PNG", "ada"),
        ("bob/1.jpeg", "bob"),
        ("carl", "linked_folder"),
        ("lonely.jpg", "no_subject"),
    ]
    assert source.count() == 5
    (named,) = {one.person.name for one in source.items() if isinstance(one, Item)} - {"bob"}
    assert named == "ada"


def test_a_folder_whose_names_are_no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff")).mkdir()
    (folder / os.fsdecode(b"\xff/1.jpg")).write_bytes(b"x")
    (folder / os.fsdecode(b"bob/\xff.jpg")).write_bytes(b"x")
    assert [one for one in told(open_path(folder)) if "?" in one[0]] == [
        ("?/1.jpg", "invalid_id"),
        ("bob/?.jpg", "bob"),
    ]


def csv_of(tmp_path: Path, text: str | bytes) -> CsvSource:
    path = tmp_path / "people.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_path(path)
    assert isinstance(source, CsvSource)
    return source


def test_rows_of_a_csv(tmp_path: Path) -> None:
    text = (
        "\ufeffpath,url,subject_id,name,external_id,metadata\r\n"
        'a/1.jpg,,ada,"Ada, Countess",x-1,"{""born"": 1815}"\r\n'
        "\r\n"
        ",https://example.org/2.jpg,bob,,,\r\n"
    )
    one, two = csv_of(tmp_path, text).items()
    assert isinstance(one, Item)
    assert isinstance(two, Item)
    assert (one.where, one.content) == ("line 2: a/1.jpg", File(tmp_path / "a/1.jpg"))
    person = one.person
    assert (person.id, person.name, person.external_id) == ("ada", "Ada, Countess", "x-1")
    assert person.metadata == {"born": 1815}
    assert (two.where, two.content) == (
        "line 4: https://example.org/2.jpg",
        Link("https://example.org/2.jpg"),
    )
    assert (two.person.name, two.person.metadata) == (None, {})
    assert csv_of(tmp_path, text).count() == 2


@pytest.mark.parametrize(
    ("row", "code", "detail"),
    [
        ("a.jpg,", "invalid_id", "there is no subject_id"),
        ("a.jpg,a b", "invalid_id", "'a b' is no id"),
        (",ada", "invalid_row", "needs one of"),
        ("a.jpg", "invalid_row", "has 1 values, the header 2"),
        ("a.jpg,ada,x", "invalid_row", "has 3 values"),
    ],
)
def test_a_broken_row_alone_is_rejected(tmp_path: Path, row: str, code: str, detail: str) -> None:
    first, second = csv_of(tmp_path, f"path,subject_id\n{row}\nb.jpg,bob\n").items()
    assert isinstance(first, Rejection)
    assert (first.item, first.code) == ("line 2", code)
    assert detail in first.detail
    assert isinstance(second, Item)
    assert second.where == "line 3: b.jpg"


@pytest.mark.parametrize(
    ("metadata", "detail"),
    [
        ("[1]", "no JSON object"),
        ("{", "no JSON"),
        ('"{""a"": ""' + "x" * 17000 + '""}"', "metadata:"),
    ],
)
def test_broken_metadata(tmp_path: Path, metadata: str, detail: str) -> None:
    (one,) = csv_of(tmp_path, f"path,subject_id,metadata\na.jpg,ada,{metadata}\n").items()
    assert isinstance(one, Rejection)
    assert (one.code, one.id) == ("invalid_row", "ada")
    assert detail in one.detail


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", ConfigError, "no column subject_id"),
        ("path\n", ConfigError, "no column subject_id"),
        ("subject_id\n", ConfigError, "no column path or url"),
        ("path,subject\n", ConfigError, r"unknown column 'subject' \(did you mean subject_id\?\)"),
        ("path,path,subject_id\n", ConfigError, "'path' comes twice"),
        ("image,subject_id\n", ConfigError, "unknown column 'image'"),
        ('path,subject_id\na.jpg,ada\n"b.jpg,bob\n', InvalidRequest, "people.csv, line 3: no CSV"),
        (b"path,subject_id\na.jpg,\xff\n", InvalidRequest, "no UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_trusted(
    tmp_path: Path, text: str | bytes, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        list(csv_of(tmp_path, text).items())


def test_a_row_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegraph.bulk.csvfiles.MAX_ROW", 40)
    begin = "path,subject_id\n" + "a.jpg,ada\n" * 9
    assert len(told(csv_of(tmp_path, begin))) == 9
    for row in ("b" * 50, '"' + "b\n" * 20, '"b\n",' * 20):
        source = csv_of(tmp_path, begin + row)
        with pytest.raises(InvalidRequest, match="more than 40 characters"):
            list(source.items())
        assert source.count() >= 9


def parquet_of(path: Path, /, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet_with_paths_and_with_pictures(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "p.parquet",
        subject_id=["ada", "bob", None],
        path=["a.jpg", None, "c.jpg"],
        image=[None, b"picture", None],
        metadata=['{"born": 1815}', None, None],
    )
    source = open_path(path, root=tmp_path / "photos")
    ada, bob, nobody = source.items()
    assert isinstance(ada, Item)
    assert isinstance(bob, Item)
    assert (ada.where, ada.content) == (
        "p.parquet row 1: a.jpg",
        File(tmp_path / "photos" / "a.jpg"),
    )
    assert (bob.where, bob.content) == ("p.parquet row 2", b"picture")
    assert isinstance(nobody, Rejection)
    assert (nobody.item, nobody.code) == ("p.parquet row 3", "invalid_id")
    assert source.count() == 3


def test_a_folder_of_parquet_is_read_in_parts(tmp_path: Path) -> None:
    for name in ("b", "a"):
        parquet_of(tmp_path / f"{name}.parquet", subject_id=[name], image=[b"x"])
    source = open_path(tmp_path)
    assert told(source) == [("a.parquet row 1", "a"), ("b.parquet row 1", "b")]
    assert [told(part) for part in source.parts()] == [
        [("a.parquet row 1", "a")],
        [("b.parquet row 1", "b")],
    ]


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidRequest, match=r"p\.parquet"):
        list(ParquetSource(path).items())
    parquet_of(path, subject_id=["ada"], picture=[b"x"])
    with pytest.raises(ConfigError, match="unknown column 'picture'"):
        list(open_path(path).items())


def test_a_value_that_comes_often_is_held_once(tmp_path: Path) -> None:
    """All rows share one picture: as they are written, a few bytes each."""
    large = [b"x" * 2**20] * 100
    path = parquet_of(tmp_path / "p.parquet", subject_id=["ada"] * 100, image=large)
    source = open_path(path, max_bytes=2**20 - 1)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    for one in source.items():
        assert isinstance(one, Rejection)
        assert (one.id, one.code) == ("ada", "image_too_large")
        assert pool.bytes_allocated() - before < 8 * 2**20
    assert sum(isinstance(one, Item) for one in open_path(path).items()) == 100


def test_pictures_as_data_sets_keep_them(tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "1.jpg"}, {"bytes": b"2", "path": None}, None]
    path = parquet_of(tmp_path / "p.parquet", subject_id=["a", "b", "c"], image=images)
    one, two, none = open_path(path).items()
    assert isinstance(one, Item)
    assert isinstance(two, Item)
    assert (one.content, two.content) == (b"1", b"2")
    assert isinstance(none, Rejection)


def test_text_of_parquet_that_is_none(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.utf8(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    parquet.write_table(pa.table({"subject_id": text, "image": [b"x"]}), tmp_path / "p.parquet")
    with pytest.raises(InvalidRequest, match="no sound Parquet"):
        list(open_path(tmp_path / "p.parquet").items())


def test_a_table_that_is_a_link_out_of_the_folder(tmp_path: Path) -> None:
    parquet_of(tmp_path / "out" / "secret.parquet", subject_id=["eve"], image=[b"secret"])
    parquet_of(tmp_path / "in" / "p.parquet", subject_id=["ada"], image=[b"x"])
    (tmp_path / "in" / "link.parquet").symlink_to(tmp_path / "out" / "secret.parquet")
    source = open_path(tmp_path / "in", below=tmp_path / "in")
    assert told(source) == [("link.parquet", "outside_folder"), ("p.parquet row 1", "ada")]
    assert source.count() == 1
    source.check()


def zip_of(**members: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def test_a_zip_of_folders(tmp_path: Path) -> None:
    file = zip_of(**{"ada/1.jpg": b"1", "x.jpg": b"2", "ada/notes.txt": b"3", ".x/1.jpg": b"4",
                     "../../bob/1.jpg": b"5", "ada/large.jpg": b"6" * 11})  # fmt: skip
    source = open_upload(file, max_bytes=10)
    assert told(source) == [
        ("ada/1.jpg", "ada"),
        ("ada/large.jpg", "image_too_large"),
        ("x.jpg", "no_subject"),
    ]
    assert source.count() == 3


def test_a_zip_with_a_table() -> None:
    table = b"path,subject_id\na/1.jpg,ada\n/etc/passwd,bob\n../a/1.jpg,eve\n"
    file = zip_of(**{"people.csv": table, "a/1.jpg": b"picture"})
    ada, *others = open_upload(file).items()
    assert isinstance(ada, Item)
    assert (ada.where, ada.content) == ("line 2: a/1.jpg", b"picture")
    assert [(one.item, one.code) for one in others if isinstance(one, Rejection)] == [
        ("line 3", "no_file"),
        ("line 4", "no_file"),
    ]
    assert open_upload(file).count() == 3


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_ways_of_packing(method: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ada/1.jpg", b"x" * 100, method)
        archive.writestr("bob/1.jpg", b"x" * 100, zipfile.ZIP_DEFLATED)
    assert told(open_upload(file)) == [("ada/1.jpg", "unreadable"), ("bob/1.jpg", "bob")]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", b"subject_id,path\n", method)
    with pytest.raises(ConfigError, match="table is packed"):
        list(open_upload(file).items())


def test_any_damage_is_told_and_nothing_else_raised() -> None:
    """Every byte of three archives changed, one at a time."""
    sound = zip_of(**{"ada/1.jpg": b"A" * 20, "b\xf6/1.jpg": b"B" * 20})
    table = zip_of(**{"a.csv": b"subject_id,path\nada,1.jpg\n", "1.jpg": b"x"})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ada/1.jpg", bytes(range(256)))
    for data in (sound.getvalue(), table.getvalue(), packed.getvalue()):
        for at in range(2, len(data)):
            for value in (0, 0x0E, 0xFF):
                damaged = io.BytesIO(data[:at] + bytes([value]) + data[at + 1 :])
                with suppress(ConfigError, InvalidRequest):
                    list(open_upload(damaged).items())


def test_a_damaged_member_alone_is_rejected() -> None:
    file = zip_of(**{"ada/1.jpg": b"A" * 50, "bob/1.jpg": b"B" * 50})
    data = file.getvalue().replace(b"A" * 50, b"A" * 49 + b"C")
    assert told(open_upload(io.BytesIO(data))) == [
        ("ada/1.jpg", "unreadable"),
        ("bob/1.jpg", "bob"),
    ]


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"PK and nothing", InvalidRequest, "the zip is damaged"),
        (b"PAR1", InvalidRequest, "the table"),
        (b"path,subject_id\n/etc/passwd,ada\n", ConfigError, "unknown column 'path'"),
        (b"", ConfigError, "no column subject_id"),
        (zip_of(**{"a.csv": b"", "b.csv": b""}).getvalue(), ConfigError, "2 tables, not one"),
    ],
)
def test_an_upload_that_is_refused(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        list(open_upload(io.BytesIO(data)).items())


def test_a_zip_that_lists_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegraph.bulk.zips.MAX_DIRECTORY_BYTES", 60)
    with pytest.raises(ConfigError, match="list of members"):
        list(open_upload(zip_of(**{"ada/1.jpg": b"1", "ada/2.jpg": b"2"})).items())


def test_parquet_of_an_upload_with_a_huge_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.bulk.parquet.MAX_GROUP_BYTES", 10)
    path = parquet_of(tmp_path / "p.parquet", subject_id=["ada"], image=[b"x" * 100])
    assert told(open_path(path)) == [("p.parquet row 1", "ada")]
    with path.open("rb") as file, pytest.raises(ConfigError, match="smaller row groups"):
        list(open_upload(file).items())


def test_what_a_path_means(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file or folder"):
        open_path(tmp_path / "gone")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ConfigError, match=r"no folder, and no \.csv"):
        open_path(tmp_path / "x.txt")
    assert [kind_of(io.BytesIO(data)) for data in (b"PK\3\4", b"PAR1x", b"path", b"")] == [
        "zip",
        "parquet",
        "csv",
        "csv",
    ]
