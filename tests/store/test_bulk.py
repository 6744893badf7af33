"""Bulk enrolments into a real PostgreSQL: nobody twice, nobody lost, whatever is killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import psycopg
import pytest

from facegraph.bulk import enrolling, sampling
from facegraph.bulk.enrolling import enrol_outcomes
from facegraph.bulk.known import known_photos, photo_id
from facegraph.bulk.report import BulkReport
from facegraph.bulk.sampling import Outcome
from facegraph.cli import main
from facegraph.errors import ContractMismatch, StoreUnavailable
from facegraph.importing import enrolling as importing
from facegraph.importing.collections import named_contract
from facegraph.importing.enrolling import Entry, Person
from facegraph.importing.report import Report
from facegraph.store import Store
from facegraph.types import Contract
from tests import photos
from tests.fake_graph import picture
from tests.store.bulk_process import MortalFaces, enrolled
from tests.store.making import CONTRACT, sample

pytestmark = pytest.mark.store

ROOT = Path(__file__).parents[2]
PEOPLE, EACH = 30, 20
SAMPLES = PEOPLE * EACH


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 30 people, 20 each, and two that give nothing."""
    root = tmp_path_factory.mktemp("many")
    for person in range(PEOPLE):
        (root / f"p{person}").mkdir()
        for n in range(EACH):
            data = picture(person) if n == 0 else b"%d faces:%d." % (n, person)
            (root / f"p{person}" / f"{n}.jpg").write_bytes(data)
    (root / "p0" / "two.jpg").write_bytes(picture(1, 2))
    (root / "nobody.jpg").write_bytes(picture(1))
    return root


async def held(store: Store) -> set[tuple[str, str]]:
    """Every sample with whose it is; the counters agree with the rows."""
    found = set()
    for subject in (await store.list_subjects("default", limit=1000)).items:
        samples = (await store.list_samples("default", subject.id, limit=1000)).items
        assert subject.sample_count == len(samples)
        found |= {(subject.id, one.id) for one in samples}
    collection = await store.get_collection("default")
    assert collection.sample_count == len(found)
    return found


def wanted(many: Path) -> set[tuple[str, str]]:
    folders = [folder for folder in many.iterdir() if folder.is_dir()]
    files = [(f.name, path) for f in folders for path in f.iterdir() if path.stem != "two"]
    return {(subject, photo_id(subject, path.read_bytes())) for subject, path in files}


async def test_everybody_once(store: Store, many: Path) -> None:
    report = await enrolled(store, many, MortalFaces(CONTRACT.dimension))
    assert await held(store) == wanted(many)
    assert dict(report.rejected) == {"several_faces": 1, "no_subject": 1}
    assert (report.new_samples, report.known_samples) == (SAMPLES, 0)
    assert (report.new_subjects, report.known_subjects) == (PEOPLE, 0)
    assert (await store.get_subject("default", "p3")).name == "p3"

    faces = MortalFaces(CONTRACT.dimension)
    again = await enrolled(store, many, faces)
    assert (again.new_samples, again.known_samples) == (0, SAMPLES)
    assert (again.new_subjects, again.known_subjects) == (0, PEOPLE)
    assert dict(again.rejected) == dict(report.rejected)
    assert faces.asked_for == 1  # only the rejected one is looked at again
    assert await held(store) == wanted(many)


async def test_killed_it_goes_on_where_it_was(database_url: str, many: Path) -> None:
    async with Store.open(database_url) as store:
        await store.ensure_default(CONTRACT)
        done = 0
        for pictures in (250, 250):
            command = [sys.executable, "-m", "tests.store.bulk_process", database_url, str(many)]
            process = await asyncio.create_subprocess_exec(*command, str(pictures), cwd=ROOT)
            assert await process.wait() == -signal.SIGKILL
            kept = len(await held(store))
            assert kept % importing.BATCH == 0  # all of a transaction, or nothing
            assert kept > done
            done = kept
        faces = MortalFaces(CONTRACT.dimension)
        report = await enrolled(store, many, faces)
        assert await held(store) == wanted(many)
        assert (report.new_samples, report.known_samples) == (SAMPLES - done, done)
        assert faces.asked_for == SAMPLES - done + 1


async def test_a_picture_under_several_names_is_one_sample(store: Store, tmp_path: Path) -> None:
    for name in ("ada/1.jpg", "ada/copy.jpg", "ada/x/1.jpg", "bob/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    report = await enrolled(store, tmp_path, MortalFaces(CONTRACT.dimension))
    assert (report.new_samples, report.known_samples) == (2, 2)
    moved = shutil.move(tmp_path / "ada", tmp_path / "new" / "ada")
    report = await enrolled(store, Path(moved).parent, MortalFaces(CONTRACT.dimension))
    assert (report.new_samples, report.known_samples) == (0, 3)


async def test_two_at_the_same_time(store: Store, many: Path) -> None:
    reports = await asyncio.gather(
        *(enrolled(store, many, MortalFaces(CONTRACT.dimension)) for _ in range(2))
    )
    assert await held(store) == wanted(many)
    assert sum(report.new_samples for report in reports) == SAMPLES
    assert sum(report.new_subjects for report in reports) >= PEOPLE


async def test_a_subject_is_made_as_its_row_says_and_then_left(
    store: Store, tmp_path: Path
) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
    table = tmp_path / "t.csv"
    head = "path,subject_id,name,external_id,metadata\n"
    table.write_text(head + '1.jpg,ada,Ada,x-1,"{""born"": 1815}"\n')
    await enrolled(store, table, MortalFaces(CONTRACT.dimension))
    table.write_text(head + "1.jpg,ada,Eve,x-2,\n2.jpg,ada,Eve,x-2,\n")
    report = await enrolled(store, table, MortalFaces(CONTRACT.dimension))
    assert (report.new_samples, report.known_samples, report.known_subjects) == (1, 1, 1)
    ada = await store.get_subject("default", "ada")
    assert (ada.name, ada.external_id, dict(ada.metadata)) == ("Ada", "x-1", {"born": 1815})
    assert ada.sample_count == 2


async def batches(*some: Sequence[Outcome]) -> AsyncGenerator[Sequence[Outcome]]:
    for batch in some:
        yield batch


def entries(first: int, after: int) -> list[Entry]:
    people = [Person(f"s{n}", None, {}) for n in range(first, after)]
    names = [photo_id(person.id, b"") for person in people]
    return [
        Entry(person, name, sample(n, id=name))
        for n, (person, name) in enumerate(zip(people, names, strict=True))
    ]


async def test_another_contract_stops_it(store: Store) -> None:
    await enrol_outcomes(batches(entries(0, 1)), store, "default", CONTRACT, BulkReport())
    other = named_contract("theirs", CONTRACT.dimension)
    with pytest.raises(ContractMismatch):
        await enrol_outcomes(batches(entries(1, 2)), store, "default", other, BulkReport())
    assert len(await held(store)) == 1


async def test_a_database_that_is_away_for_a_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before the transaction, once after its commit: nothing is lost, nothing doubled."""
    monkeypatch.setattr(sampling, "RETRY_FIRST_S", 0.0)
    failing = iter(("before", "after"))

    async def fragile(
        store: Store, collection: str, some: Sequence[Entry], contract: Contract, report: Report
    ) -> None:
        when = next(failing, None)
        if when == "before":
            raise StoreUnavailable("away")
        await importing.enrol(store, collection, some, contract, report if not when else Report())
        if when == "after":
            raise StoreUnavailable("away")

    monkeypatch.setattr(enrolling, "enrol", fragile)
    report = BulkReport()
    await enrol_outcomes(batches(entries(0, 5)), store, "default", CONTRACT, report)
    assert len(await held(store)) == 5
    assert (report.new_samples, report.known_samples) == (0, 5)


async def test_what_waits_is_written_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "WRITE_WITHIN_S", -1.0)
    seen = []

    async def slowly() -> AsyncGenerator[Sequence[Outcome]]:
        for n in range(3):
            seen.append(len(await held(store)))
            yield entries(n, n + 1)

    await enrol_outcomes(slowly(), store, "default", CONTRACT, BulkReport())
    assert seen == [0, 1, 2]


async def test_only_pictures_are_known_photos(store: Store) -> None:
    await store.create_subject(
        "default", "x", samples=[sample(1), sample(2, id="photo-short")], contract=CONTRACT
    )
    assert len(await known_photos(store, "default")) == 0
    await enrol_outcomes(batches(entries(0, 3)), store, "default", CONTRACT, BulkReport())
    known = await known_photos(store, "default")
    assert len(known) == 3
    assert photo_id("s1", b"") in known
    assert photo_id("s1", b"x") not in known
    assert len(await known_photos(store, "nothing")) == 0


# The command


@pytest.fixture
def ours(make_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The settings name an empty database; the command leaves this process's priority alone."""
    url = make_database()
    monkeypatch.setenv("FACEGRAPH_DATABASE_URL", url)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("facegraph.commands.enroll._be_nice", lambda: None)
    return url


def test_the_command(ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real models of the default pack."""
    people = tmp_path / "people"
    for name, photo in [("ada/1.png", photos.ASTRONAUT), ("tom/1.png", photos.PORTRAIT),
                        ("tom/all.jpg", photos.GROUP), ("cat/1.png", photos.NO_FACE)]:  # fmt: skip
        (people / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, people / name)
    rejected = tmp_path / "rejected.csv"
    arguments = ["enroll", str(people), "--collection", "c", "--local", "--rejected", str(rejected)]
    for new, there in [(2, 0), (0, 2)]:
        assert main(arguments) == 1  # some were rejected
        said = capsys.readouterr()
        assert "into the collection 'c' by the face pack opencv, in this process" in said.out
        assert "  ada/1.png -> ada\n" in said.out
        assert f"subjects: {new} new, {there} there already" in said.out
        assert f"enrolled: {new}\nskipped:  {there} there already\nrejected: 2\n" in said.out
        assert "tom/all.jpg: 6 faces in the image" in said.err
        lines = rejected.read_text().splitlines()
        assert lines[0] == "item,subject_id,code,detail"
        assert sorted(line.split(",")[:3] for line in lines[1:]) == [
            ["cat/1.png", "cat", "face_not_found"],
            ["tom/all.jpg", "tom", "several_faces"],
        ]
    assert main([*arguments, "--face", "largest"]) == 1
    assert "enrolled: 1\nskipped:  2 there already\nrejected: 1\n" in capsys.readouterr().out
    shutil.rmtree(people / "cat")
    assert main([*arguments, "--face", "largest"]) == 0  # all there
    with psycopg.connect(ours) as connection:
        query = "SELECT subject_id, count(*) FROM facegraph.samples GROUP BY 1 ORDER BY 1"
        assert connection.execute(query).fetchall() == [("ada", 1), ("tom", 2)]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["/nowhere"], 2, "there is no file or folder"),
        ([str(ROOT / "README.md")], 2, "no folder, and no .csv"),
        ([str(ROOT / "tests"), "--pattern", "x"], 2, "must have {subject} once"),
        ([str(ROOT / "tests"), "--min-quality", "2"], 2, "from 0 to 1"),
        ([str(ROOT / "tests"), "--rejected", "/nowhere/r"], 2, "cannot write"),
        ([str(ROOT / "tests"), "--collection", "a/b"], 2, "no id"),
        ([str(ROOT / "tests"), "--local", "--address", "x"], 2, "not allowed with"),
    ],
)
def test_wrong_use(
    ours: str, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    try:
        found = main(["enroll", *arguments])
    except SystemExit as ended:
        found = int(str(ended.code))
    assert found == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["people.csv", "link.csv"])
def test_the_source_is_not_overwritten(
    ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    table = tmp_path / "people.csv"
    table.write_text("path,subject_id\n")
    (tmp_path / "link.csv").symlink_to(table)
    assert main(["enroll", str(table), "--rejected", str(tmp_path / name)]) == 2
    assert "is what is enrolled" in capsys.readouterr().err
    assert table.read_text() == "path,subject_id\n"


def test_nothing_is_overwritten_for_a_source_that_is_none(ours: str, tmp_path: Path) -> None:
    kept = tmp_path / "rejected.csv"
    kept.write_text("of the last time")
    for source in ("/nowhere", str(ROOT / "README.md")):
        assert main(["enroll", source, "--rejected", str(kept)]) == 2
    (tmp_path / "broken.csv").write_text("no,columns\n")
    assert main(["enroll", str(tmp_path / "broken.csv"), "--rejected", str(kept)]) == 2
    assert kept.read_text() == "of the last time"


def test_another_pack_s_collection_is_refused_at_once(
    ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def bind() -> None:
        async with Store.open(ours) as store:
            await store.create_collection("c", contract=named_contract("theirs", 4))

    asyncio.run(bind())
    assert main(["enroll", str(ROOT / "tests"), "--collection", "c", "--local"]) == 1
    said = capsys.readouterr()
    assert "is bound to the contract theirs" in said.err
    assert "read" not in said.out


def test_help_says_where_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["enroll", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for words in ("No service is needed", "--address", "RAY_ADDRESS", "Exit status"):
        assert words in said
