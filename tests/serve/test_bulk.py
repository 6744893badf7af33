"""Bulk enrolment by Ray Data, and by a job of a running service."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest

from deployments.bulk_reading import BYTES_PER_BLOCK, ITEMS_PER_BLOCK, blocks, pickled, unpickled
from deployments.bulk_worker import BulkWorker, Given
from facegraph.bulk.items import Found, Item
from facegraph.bulk.sampling import Rules
from facegraph.config import settings_from
from facegraph.errors import ConfigError
from facegraph.importing.enrolling import Person
from tests import photos
from tests.serve.copies import ROOT, Copy, environment, wait_until

pytestmark = pytest.mark.serve


def item(n: int, content: bytes = b"x") -> Found:
    return Item(str(n), Person("ada", None, {}), content)


def test_blocks_are_small() -> None:
    few = [len(block) for block in blocks(iter([item(n) for n in range(40)]))]
    assert few == [ITEMS_PER_BLOCK, ITEMS_PER_BLOCK, 40 - 2 * ITEMS_PER_BLOCK]
    large = b"x" * (BYTES_PER_BLOCK // 2)
    assert [len(block) for block in blocks(iter([item(n, large) for n in range(5)]))] == [2, 2, 1]


def test_what_travels_comes_as_it_went() -> None:
    sent = [[item(1), item(2, b"\0" * 1000)], []]
    (one, two), none = unpickled(pickled(sent))
    assert (one.where, one.person, two.content) == ("1", Person("ada", None, {}), b"\0" * 1000)
    assert none == []


def test_a_worker_with_other_models_refuses() -> None:
    """Else its embeddings would be enrolled as those of the driver's pack."""
    worker = BulkWorker(Given(settings_from(), Rules(), "another", [], None))
    with pytest.raises(ConfigError, match="not another: its models are other files"):
        worker(pickled([[item(1)]]))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two people, and two that give nothing; all files differ."""
    root = tmp_path_factory.mktemp("people")
    for subject, photo in [("ada", photos.ASTRONAUT), ("tom", photos.PORTRAIT)]:
        (root / subject).mkdir()
        for n in range(20):
            (root / subject / f"{n}.png").write_bytes(photo.read_bytes() + b"%d" % n)
    shutil.copy(photos.GROUP, root / "ada" / "all.jpg")
    shutil.copy(photos.NO_FACE, root / "tom" / "cat.png")
    return root


def run(people: Path, database: dict[str, str], *options: str) -> str:
    """What ``facegraph enroll`` says; its status is 1, for two pictures are rejected."""
    command = [sys.executable, "-m", "facegraph.cli", "enroll", str(people), *options]
    kept = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=kept | database, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr
    return done.stdout


def enrolled(url: str, collection: str) -> list[tuple[str, str]]:
    query = "SELECT subject_id, id FROM facegraph.samples WHERE collection_id = %s ORDER BY 1, 2"
    with psycopg.connect(url) as connection:
        return connection.execute(query, [collection]).fetchall()


def test_by_ray_as_in_one_process(people: Path, make_database: Callable[[], str]) -> None:
    url = make_database()
    database = {"FACEGRAPH_DATABASE_URL": url}
    ray = ["--address", "local", "--workers", "2"]
    said = run(people, database, "--collection", "ray", *ray)
    assert "on a Ray instance of its own, up to 2 workers; 0 pictures are there already" in said
    assert "enrolled: 40\nskipped:  0 there already\nrejected: 2\n" in said
    run(people, database, "--collection", "here", "--local")
    assert enrolled(url, "ray") == enrolled(url, "here")
    assert len(enrolled(url, "ray")) == 40
    (people / "ada" / "new.png").write_bytes(photos.ASTRONAUT.read_bytes() + b"new")
    said = run(people, database, "--collection", "ray", *ray)
    assert "enrolled: 1\nskipped:  40 there already\nrejected: 2\n" in said


def test_a_job_and_the_command_beside_the_service(
    served: Copy, http: httpx.Client, people: Path
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in people.glob("*/*"):
            archive.write(path, path.relative_to(people))
    http.post("/v1/collections", json={"id": "bulk"}).raise_for_status()
    answer = http.post(
        "/v1/jobs/enroll",
        params={"collection": "bulk"},
        content=file.getvalue(),
        headers={"content-type": "application/zip"},
    )
    assert answer.status_code == 202, answer.text
    job = answer.headers["location"]
    wait_until(lambda: http.get(job).json()["state"] in {"done", "failed"}, "the job")
    result = http.get(job).json()["result"]
    pictures = len(list(people.glob("*/*")))
    assert (result["read"], result["enrolled"], result["rejected"]) == (pictures, pictures - 2, 2)
    assert result["rejected_by_code"] == {"several_faces": 1, "face_not_found": 1}
    found = http.post(
        "/v1/collections/bulk/search",
        content=photos.PORTRAIT.read_bytes(),
        headers={"content-type": "image/png"},
    ).json()
    assert found["faces"][0]["decision"] == "match"
    assert found["faces"][0]["matches"][0]["subject_id"] == "tom"

    said = run(people, environment(served.data_dir), "--collection", "bulk")
    assert f"skipped:  {pictures - 2} there already" in said
