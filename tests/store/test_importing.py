"""Importers and dataset files against a real PostgreSQL."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest

from facegraph.cli import main
from facegraph.commands.database import main_init_db
from facegraph.errors import ContractMismatch, DatabaseError, StoreUnavailable
from facegraph.importing import enrolling
from facegraph.importing.collections import (
    active_collection,
    contract_of_old,
    named_contract,
    own_collection,
)
from facegraph.importing.dataset_files import export_dataset, import_dataset
from facegraph.importing.from_pictures import import_pictures
from facegraph.importing.from_vectors import import_vectors
from facegraph.importing.old_tables import FRV2, SMARTAV, System, open_old
from facegraph.importing.pictures import PictureFolder
from facegraph.importing.report import Report
from facegraph.service import Service
from facegraph.store import Store
from facegraph.types import FloatArray, NewSample
from tests import photos
from tests.fake_graph import embedding_of, picture
from tests.store.making import CONTRACT, sample, vector
from tests.store.mirror import Mirror
from tests.store.old_tables import (
    FACES,
    FEATURES,
    KNOWN_SAMPLES,
    NEW_SAMPLES,
    REJECTED,
    VECTORS,
    fill_smartav,
    make_frv2,
    make_smartav,
)

pytestmark = pytest.mark.store

OLD = contract_of_old("smartav", 4)
C = "smartav-imported"


@pytest.fixture
def old_url(make_database: Callable[[], str]) -> str:
    """A database of smartav's with every awkward row."""
    url = make_database()
    make_smartav(url)
    fill_smartav(url, FACES, FEATURES)
    return url


@pytest.fixture
def ours(make_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The settings name an empty database."""
    url = make_database()
    monkeypatch.setenv("FACEGRAPH_DATABASE_URL", url)
    return url


async def bring(
    store: Store, url: str, system: System = SMARTAV, report: Report | None = None
) -> Report:
    report = report or Report()
    async with open_old(url, system) as old:
        contract = contract_of_old(system.name, await old.dimension())
        collection_id = f"{system.name}-imported"
        await own_collection(store, collection_id, contract, source=system.name)
        await import_vectors(old, store, collection_id, contract, report)
    return report


async def embeddings(store: Store, collection_id: str) -> dict[str, set[bytes]]:
    records = await store.load(collection_id)
    found: dict[str, set[bytes]] = {}
    for slot, row in zip(records.row_subjects, records.embeddings, strict=True):
        found.setdefault(records.subject_ids[slot], set()).add(row.tobytes())
    return found


def unit(numbers: list[float]) -> bytes:
    row = np.array(numbers)
    return bytes((row / np.linalg.norm(row)).astype(np.float32).tobytes())


# Old vectors, kept


async def test_awkward_rows(store: Store, old_url: str) -> None:
    report = await bring(store, old_url)
    assert dict(report.rejected) == REJECTED
    assert (report.new_samples, report.known_samples) == (NEW_SAMPLES, KNOWN_SAMPLES)
    assert (report.new_subjects, report.known_subjects) == (3, 0)
    assert report.read == NEW_SAMPLES + KNOWN_SAMPLES + sum(REJECTED.values())
    bob = "b64.Ym9iQGhvbWUveA"
    assert await embeddings(store, C) == {
        "ada": {unit(VECTORS["ada"]), unit(VECTORS["ada 2"])},
        bob: {unit(VECTORS["bob"])},
        "nulls": {unit([0, 0, 0, -1])},
    }
    subjects = (await store.list_subjects(C)).items
    assert [(one.id, one.name, dict(one.metadata)) for one in subjects] == [
        ("ada", "Ada", {"metadata": '{"born": 1815}', "action": "embedlink"}),
        (bob, "Bob", {"metadata": "", "action": ""}),
        ("nulls", "", {"metadata": None, "action": None}),
    ]


async def test_again_changes_nothing(store: Store, old_url: str) -> None:
    await bring(store, old_url)
    before = await store.get_collection(C)
    report = await bring(store, old_url)
    assert (report.new_samples, report.known_samples) == (0, NEW_SAMPLES + KNOWN_SAMPLES)
    assert (report.new_subjects, report.known_subjects) == (0, 3)
    assert await store.get_collection(C) == before


async def test_what_is_there_keeps_its_name_and_gets_what_it_lacks(
    store: Store, old_url: str
) -> None:
    await own_collection(store, C, OLD, source="smartav")
    await store.create_subject(C, "ada", name="Countess", contract=OLD)
    report = await bring(store, old_url)
    assert (report.new_subjects, report.known_subjects) == (2, 1)
    ada = await store.get_subject(C, "ada")
    assert (ada.name, dict(ada.metadata), ada.sample_count) == ("Countess", {}, 2)


@pytest.mark.parametrize(
    ("id_type", "text_type", "metadata", "kept", "reason"),
    [
        ("bigint", "text", "m", "m", "whole numbers for ids"),
        ("varchar(9)", "varchar(9)", "m", "m", "short texts"),
        ("char(9)", "text", "m", "m", "padded texts"),
        ("integer", "jsonb", '{"a": [1, null]}', {"a": [1, None]}, "JSON stays JSON"),
        ("integer", "json", '"m"', "m", "and a JSON text a text"),
    ],
)
async def test_column_types(
    store: Store,
    database_url: str,
    id_type: str,
    text_type: str,
    metadata: str,
    kept: object,
    reason: str,
) -> None:
    make_smartav(database_url, id=id_type, text=text_type)
    fill_smartav(database_url, [("7", "Ada", metadata, "x")], [("7", "[1, 2]"), ("8", "[1, 2]")])
    report = await bring(store, database_url)
    assert (report.new_samples, dict(report.rejected)) == (1, {"no_face_row": 1}), reason
    (ada,) = (await store.list_subjects(C)).items
    assert (ada.id, dict(ada.metadata)) == ("7", {"metadata": kept, "action": "x"})


async def test_frv2(store: Store, database_url: str) -> None:
    rows = [
        (1, "Ada", "m", "a", "[1, 0]"),
        (1, "Ada too", "", "", "[0, 1]"),
        (2, "Bob", None, None, None),
        (None, "Nobody", "", "", "[1, 1]"),
        (3, "Eve", "", "", "[1, 1, 1]"),
    ]
    make_frv2(database_url, rows, id="integer")
    report = await bring(store, database_url, FRV2)
    assert dict(report.rejected) == {"no_vector": 1, "no_id": 1, "invalid_vector": 1}
    assert (report.new_samples, report.new_subjects) == (2, 1)
    ada = await store.get_subject("frv2-imported", "1")
    assert (ada.name, dict(ada.metadata)) == ("Ada", {"metadata": "m", "action": "a"})
    held = await store.get_collection("frv2-imported")
    assert held.contract_id == contract_of_old("frv2", 2).id
    again = await bring(store, database_url, FRV2)
    assert (again.new_samples, again.known_samples) == (0, 2)


async def test_a_user_who_may_only_select(store: Store, old_url: str) -> None:
    with psycopg.connect(old_url) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON sample_faces TO reader")
    reader = psycopg.conninfo.make_conninfo(old_url, user="reader")
    try:
        with pytest.raises(DatabaseError, match="cannot be read: permission denied"):
            await bring(store, reader)
        with psycopg.connect(old_url) as connection:
            connection.execute("GRANT SELECT ON feature_vectors TO reader")
        assert (await bring(store, reader)).new_samples == NEW_SAMPLES
    finally:
        with psycopg.connect(old_url) as connection:
            connection.execute("DROP OWNED BY reader")
            connection.execute("DROP ROLE reader")


async def test_nothing_can_be_written_to_the_old_database(old_url: str) -> None:
    with pytest.raises(DatabaseError, match="read-only transaction"):
        async with open_old(old_url, SMARTAV) as old:
            await old._connection.execute("DELETE FROM sample_faces")


async def test_another_database_than_meant(store: Store, database_url: str) -> None:
    with pytest.raises(DatabaseError, match=r'smartav cannot be read: .*"feature_vectors"'):
        await bring(store, database_url)


async def test_an_empty_old_database(store: Store, database_url: str) -> None:
    make_smartav(database_url)
    assert (await bring(store, database_url)).read == 0
    assert (await store.get_collection(C)).dimension == 512


async def test_galleries_follow(
    store: Store, old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.importing.from_vectors.BATCH", 2)
    await own_collection(store, C, OLD, source="smartav")
    mirror = Mirror(await store.load(C))
    await bring(store, old_url)
    await mirror.catch_up(store, C)
    assert mirror.state() == Mirror(await store.load(C)).state()
    assert (mirror.loads, len(mirror.samples)) == (1, NEW_SAMPLES)
    held = await store.get_collection(C)
    assert (held.subject_count, held.sample_count) == (3, NEW_SAMPLES)


async def test_two_imports_at_once(store: Store, old_url: str) -> None:
    """Another import enrols between this one's look and its write."""
    entry = enrolling.Entry(enrolling.Person("ada", "Ada", {}), "one", sample(1, id="one"))
    other = enrolling.Entry(enrolling.Person("ada", "Ada", {}), "two", sample(2, id="two"))
    await enrolling.enrol(store, "default", [entry], CONTRACT, Report())

    async def nothing_yet(*_: object) -> set[str]:
        return set()

    report = Report()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolling, "known_samples", nothing_yet)
        await enrolling.enrol(store, "default", [entry, other], CONTRACT, report)
    assert (report.new_samples, report.known_samples, report.known_subjects) == (1, 1, 1)
    assert (await store.get_subject("default", "ada")).sample_count == 2


WAIT = """
CREATE FUNCTION facegraph.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT sample_count FROM facegraph.collections WHERE id = NEW.collection_id) > 0 THEN
        PERFORM pg_advisory_xact_lock(42);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wait BEFORE INSERT ON facegraph.samples EXECUTE FUNCTION facegraph.wait();
""".replace("EXECUTE", "FOR EACH ROW EXECUTE")
STATE = """
SELECT version, sample_count, (SELECT count(DISTINCT embedding) FROM facegraph.samples)
FROM facegraph.collections WHERE id = 'smartav-imported'
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"


def test_killed_and_run_again(database_url: str, ours: str) -> None:
    """Killed while the second batch is half written; the lock is what makes it hold there."""
    many = 3 * enrolling.BATCH
    make_smartav(database_url, id="integer")
    fill_smartav(
        database_url,
        [(n // 2, f"P{n // 2}", "", "") for n in range(0, many, 2)],
        [(n // 2, f"[1, {n}, 3, 4]") for n in range(many)],
    )
    assert main_init_db([]) == 0
    command = [sys.executable, "-m", "facegraph.cli", "import", "smartav", database_url]
    with psycopg.connect(ours, autocommit=True) as connection:
        connection.execute(WAIT)
        connection.execute("SELECT pg_advisory_lock(42)")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
            while connection.execute(WAITING).fetchone() == (0,):
                assert killed.poll() is None
            killed.send_signal(signal.SIGKILL)
        connection.execute("SELECT pg_advisory_unlock(42)")
        connection.execute("DROP TRIGGER wait ON facegraph.samples")
        assert connection.execute(STATE).fetchone() == (1, enrolling.BATCH, enrolling.BATCH)

        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"{many} read" in again.stdout
        assert f"{many - enrolling.BATCH} new, {enrolling.BATCH} there already" in again.stdout
        assert connection.execute(STATE).fetchone() == (3, many, many)
        subjects = "SELECT count(*) FROM facegraph.subjects WHERE sample_count = 2"
        assert connection.execute(subjects).fetchone() == (many // 2,)


# The collection of a contract of its own


async def test_the_active_packs_searches_are_refused(
    service: Service, client: httpx.AsyncClient, old_url: str
) -> None:
    await bring(service.store, old_url)
    answer = await client.post(
        f"/v1/collections/{C}/search", content=picture(1), headers={"content-type": "image/png"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "contract_mismatch")
    assert OLD.id in answer.json()["detail"]
    answer = await client.post(
        f"/v1/collections/{C}/subjects/ada/samples",
        content=picture(1),
        headers={"content-type": "image/png"},
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "contract_mismatch")
    listed = (await client.get("/v1/collections")).json()["collections"]
    (seen,) = [one for one in listed if one["id"] == C]
    assert seen["contract"] == OLD.id
    assert seen["contract"].startswith("smartav_arcface-")
    assert seen["name"] == "Imported from smartav"
    assert "are refused" in seen["description"]
    assert seen["metadata"] == {"imported_from": "smartav"}
    assert (seen["subject_count"], seen["sample_count"]) == (3, NEW_SAMPLES)


async def test_default_is_never_bound_to_an_old_contract(store: Store, database_url: str) -> None:
    with pytest.raises(ContractMismatch, match="'default' is bound"):
        await own_collection(store, "default", OLD, source="smartav")
    async with Store.open(database_url) as empty:
        with pytest.raises(ContractMismatch, match="for the active face pack"):
            await own_collection(empty, "default", OLD, source="smartav")


async def test_an_empty_collection_of_another_contract_is_left_alone(store: Store) -> None:
    await own_collection(store, C, OLD, source="smartav")
    with pytest.raises(ContractMismatch, match="name another collection"):
        await active_collection(store, C, CONTRACT)
    assert (await store.get_collection(C)).contract_id == OLD.id


# Pictures, embedded anew


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "nulls").mkdir(parents=True)
    for name, data in {
        "ada.png": picture(1),
        "ada_2.png": picture(2, 3),
        "ada_3.png": picture(1),  # the same again
        "ada_4.png": picture(),
        "ada_5.txt": b"notes",
        "nulls/first": picture(4),
        "stranger.png": picture(5),
    }.items():
        (folder / name).write_bytes(data)
    (folder / "bare.png").symlink_to("/etc/hostname")
    return folder


async def anew(service: Service, url: str, folder: Path, system: System = SMARTAV) -> Report:
    report = Report()
    async with open_old(url, system) as old:
        await import_pictures(old, PictureFolder(folder), service, "default", report)
    return report


async def test_pictures(
    service: Service, client: httpx.AsyncClient, old_url: str, pictures: Path
) -> None:
    report = await anew(service, old_url, pictures)
    assert dict(report.rejected) == {
        "face_not_found": 1,
        "invalid_image": 1,
        "outside_folder": 1,
        "no_picture": 2,  # bob, wrong
        "invalid_text": 1,
        "invalid_id": 1,
        "no_id": 1,
    }
    assert (report.new_samples, report.known_samples) == (3, 1)
    assert (report.new_subjects, report.known_subjects) == (2, 0)
    said = {(one.id, one.item, one.code) for one in report.first}
    assert ("ada", "ada_4.png", "face_not_found") in said
    assert ("ada", "ada_5.txt", "invalid_image") in said
    assert ("bare", "bare.png", "outside_folder") in said
    ada = await service.store.get_subject("default", "ada")
    assert dict(ada.metadata) == {"metadata": '{"born": 1815}', "action": "embedlink"}
    assert await embeddings(service.store, "default") == {
        "ada": {embedding_of(n, 128).tobytes() for n in (1, 2)},  # the largest of two faces
        "nulls": {embedding_of(4, 128).tobytes()},
    }
    answer = await client.post("/compat/smartav/face-recognition", json={"image": data_url(1)})
    assert [(one["id"], one["name"], one["metadata"]) for one in answer.json()] == [
        ("ada", "Ada", '{"born": 1815}')
    ]


def data_url(*people: int) -> str:
    return f"data:image/jpg;base64, {base64.b64encode(picture(*people)).decode()}"


async def test_pictures_again(
    service: Service, old_url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await anew(service, old_url, pictures)
    before = await service.store.head("default")
    (pictures / "bob@home").write_bytes(picture(9))  # no picture of "bob@home/x"
    (pictures / "wrong.png").write_bytes(picture(6))
    asked: list[bytes] = []
    embed = service.samples

    async def counted(images: list[bytes], face: object) -> object:
        asked.extend(images)
        return await embed(images, "largest")

    monkeypatch.setattr(Service, "samples", lambda _, images, face: counted(images, face))
    report = await anew(service, old_url, pictures)
    assert (report.new_samples, report.known_samples) == (1, 4)
    assert (report.new_subjects, report.known_subjects) == (1, 2)
    assert sorted(asked) == [picture(), picture(6), b"notes"]  # what is known is not embedded
    assert (await service.store.head("default")).version == before.version + 1


async def test_a_broken_service_ends_the_import(
    service: Service, old_url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> object:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Service, "samples", fail)
    with pytest.raises(StoreUnavailable, match="gone"):
        await anew(service, old_url, pictures)


async def test_frv2_pictures(service: Service, database_url: str, pictures: Path) -> None:
    rows = [("ada", "Ada", "m", "a", None), ("ada", "Ada B", "", "", "[1]")]
    make_frv2(database_url, rows)
    report = await anew(service, database_url, pictures, FRV2)
    assert (report.new_samples, report.known_samples) == (2, 1)
    assert (await service.store.get_subject("default", "ada")).name == "Ada"


# dataset.json


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
async def people(store: Store) -> Store:
    """Four subjects, two of one name; embeddings that nothing divides evenly."""
    random = np.random.default_rng(7)
    for subject_id, name, n in [("1", "Ada", 3), ("2", "Bob", 1), ("3", "Ada", 2), ("4", None, 1)]:
        rows = random.normal(size=(n, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        new = [NewSample(row.astype(np.float32)) for row in rows]
        await store.create_subject("default", subject_id, name=name, samples=new, contract=CONTRACT)
    await store.create_subject("default", "5", name="Nothing", contract=CONTRACT)
    return store


async def test_out_and_in_again(people: Store, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    exported = await export_dataset(people, "default", path)
    assert (exported.subjects, exported.samples, exported.contract_id) == (4, 7, CONTRACT.id)
    assert exported.renamed == {"1": "Ada (1)", "3": "Ada (3)"}
    written = json.loads(path.read_text())
    labels = ["Ada (1)"] * 3 + ["Bob"] + ["Ada (3)"] * 2 + ["4"]
    assert [label for label, _ in written] == labels
    assert path.stat().st_mode & 0o777 == 0o600
    assert files_in(tmp_path) == ["d.json"]

    await active_collection(people, "fresh", CONTRACT)
    for new, known in [(7, 0), (0, 7)]:
        report = Report()
        await import_dataset(path, people, "fresh", CONTRACT, report)
        assert (report.new_samples, report.known_samples, report.rejected.total()) == (
            new,
            known,
            0,
        )
    before, after = await embeddings(people, "default"), await embeddings(people, "fresh")
    names = {"1": "b64.QWRhICgxKQ", "2": "Bob", "3": "b64.QWRhICgzKQ", "4": "4"}
    assert after == {names[subject_id]: rows for subject_id, rows in before.items()}
    assert (await people.get_subject("fresh", names["1"])).name == "Ada (1)"


async def test_the_same_search_results(service: Service, tmp_path: Path) -> None:
    store, contract = service.store, service.contract
    for person in range(5):
        rows = [NewSample(noisy(person, n)) for n in range(3)]
        await store.create_subject(
            "default", f"p{person}", name=f"p{person}", samples=rows, contract=contract
        )
    await export_dataset(store, "default", tmp_path / "d.json")
    await active_collection(store, "fresh", contract)
    await import_dataset(tmp_path / "d.json", store, "fresh", contract, Report())
    probes = np.stack([noisy(person, 9) for person in range(6)])
    found = [
        [
            (probe.decision, [(match.name, match.similarity) for match in probe.matches])
            for probe in (await service.identify(name, probes, include_below=True)).probes
        ]
        for name in ("default", "fresh")
    ]
    assert found[0] == found[1]
    assert [decision for decision, _ in found[0]] == ["match"] * 5 + ["unknown"]


def noisy(person: int, n: int) -> FloatArray:
    row = embedding_of(person, 128) + 0.03 * np.random.default_rng([person, n]).normal(size=128)
    return np.asarray(row / np.linalg.norm(row), np.float32)


async def test_entries_that_cannot_be_kept(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(
        json.dumps(
            [
                ["Ada", "1,0,0,0"],
                ["Ada", "1,0"],
                [7, "1,0,0,0"],
                ["\0", "1,0,0,0"],
                ["Ada", "2,0,0,0"],
            ]
        )
    )
    file = (tmp_path / "report").open("w+")
    report = Report(file)
    await import_dataset(path, store, "default", CONTRACT, report)
    assert (report.new_samples, report.known_samples) == (1, 1)  # 2,0,0,0 is the same direction
    assert [(one.id, one.item) for one in report.first] == [
        ("Ada", "entry 1"),
        (None, "entry 2"),
        ("\0", "entry 3"),
    ]
    assert report.rejected == {"invalid_entry": 3}
    assert await embeddings(store, "default") == {"Ada": {vector(1).tobytes()}}
    file.close()


async def test_an_export_that_fails_leaves_what_was_there(
    people: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.json"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match=r"cannot write .*No space left"):
        await export_dataset(people, "default", path)
    assert path.read_text() == "before"
    assert files_in(tmp_path) == ["d.json"]


async def test_embeddings_of_another_contract(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('[["Ada", "1,0"]]')
    foreign = named_contract("theirs", 2)
    held = await own_collection(store, "theirs", foreign, source="dataset.json")
    await import_dataset(path, store, "theirs", foreign, Report())
    assert (held.contract_id, held.dimension) == ("theirs", 2)
    with pytest.raises(ContractMismatch):
        await own_collection(store, "theirs", named_contract("theirs", 3), source="dataset.json")


# The command


def test_the_command_with_pictures(
    ours: str, old_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real models of the default pack."""
    shutil.copy(photos.ASTRONAUT, tmp_path / "ada.png")
    shutil.copy(photos.PORTRAIT, tmp_path / "nulls_1.png")
    shutil.copy(photos.NO_FACE, tmp_path / "nulls_2.png")
    arguments = ["import", "smartav", old_url, "--images", str(tmp_path)]
    for subjects, samples in [((2, 0), (2, 0)), ((0, 2), (0, 2))]:
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert "embedded anew" in said.out
        assert "by the face pack opencv" in said.out
        assert "subjects: {} new, {} there already".format(*subjects) in said.out
        assert "samples:  {} new, {} there already".format(*samples) in said.out
        assert "'nulls' 'nulls_2.png': no face in the image (face_not_found)" in said.err
        assert counted(ours) == {"default": 2}


def counted(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        query = "SELECT id, sample_count FROM facegraph.collections ORDER BY id"
        return dict(connection.execute(query).fetchall())


def test_the_command(
    old_url: str, ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = psycopg.conninfo.make_conninfo(old_url, password="topsecret")
    report = tmp_path / "report.jsonl"
    assert main(["import", "smartav", url, "--report", str(report)]) == 1  # some were rejected
    said = capsys.readouterr()
    assert f"kept as they are, 4 numbers each, in the collection '{C}' under" in said.out
    assert OLD.id in said.out
    rejected = sum(REJECTED.values())
    counts = said.out.splitlines()[2:]
    assert counts == [
        f"{NEW_SAMPLES + KNOWN_SAMPLES + rejected} read",
        "subjects: 3 new, 0 there already",
        f"samples:  {NEW_SAMPLES} new, {KNOWN_SAMPLES} there already",
        f"rejected: {rejected}",
        *(f"  {times:7} {code}" for code, times in by_number(REJECTED, counts)),
    ]
    assert "rejected: 'gone' 'vector': the vector belongs to no face (no_face_row)" in said.err
    assert "topsecret" not in said.out + said.err
    assert len(report.read_text().splitlines()) == rejected
    assert counted(ours) == {C: NEW_SAMPLES}

    dataset = tmp_path / "d.json"
    assert main(["export", "dataset", str(dataset), "--collection", C]) == 0
    assert f"4 embeddings of 3 subjects, contract {OLD.id}" in capsys.readouterr().out
    arguments = ["import", "dataset", str(dataset)]
    assert main([*arguments, "--contract", OLD.id]) == 0
    assert f"4 entries are taken for embeddings of the contract {OLD.id}" in capsys.readouterr().out
    assert counted(ours) == {"dataset-imported": 4, C: 4}
    assert main([*arguments, "--contract", "active"]) == 1
    said = capsys.readouterr()
    assert "the contract sface-" in said.out
    assert "has 4 numbers, not 128" in said.err
    assert counted(ours) == {"dataset-imported": 4, "default": 0, C: 4}


def by_number(rejected: dict[str, int], lines: list[str]) -> list[tuple[str, int]]:
    """Most frequent first; among equals as printed."""
    order = [line.split()[-1] for line in lines]
    return sorted(rejected.items(), key=lambda item: (-item[1], order.index(item[0])))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["smartav", "postgresql://u:top/secret@h/d"], 2, "percent-encoded"),
        (["smartav", "postgresql://u:topsecret@127.0.0.1:1/d"], 1, "refused"),
        (["smartav", "postgresql://h/d", "--images", "/nowhere"], 2, "is no folder"),
        (["smartav", "postgresql://h/d", "--report", "/nowhere/r"], 2, "cannot write"),
        (["dataset", "/nowhere/d.json", "--contract", "active"], 2, "cannot read"),
        (["dataset", "d.json"], 2, "--contract"),  # what made it is not guessed
        (["smartav", "postgresql://h/d", "--collection", "a/b"], 2, "no id"),
        (["dataset", "d.json", "--limit", "0"], 2, "at least 1"),
        (["frv2"], 2, "url"),
    ],
)
def test_wrong_use(
    ours: str, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    try:
        found = main(["import", *arguments])
    except SystemExit as ended:
        found = int(str(ended.code))
    printed = capsys.readouterr()
    assert found == status
    assert said in printed.err
    assert "secret" not in printed.out + printed.err


def test_an_export_of_nothing(
    ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.json"
    assert main(["export", "dataset", str(path), "--collection", "gone"]) == 1
    assert "there is no collection 'gone'" in capsys.readouterr().err
    assert not path.exists()
