"""``facegraph serve``: one line when ready, nothing left behind, nothing lost."""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from facegraph.supervisor import runtime
from tests.photos import ASTRONAUT
from tests.serve.copies import Copy, wait_until, write_config

pytestmark = pytest.mark.serve

MakeCopy = Callable[..., Copy]
FACES = ("ingress", "detector", "embedder", "matcher")
DEPLOYMENTS = (*FACES, "segmenter", "captioner", "recognizer", "jobs")


@pytest.fixture
def make_copy(copies_folder: Path, tmp_path: Path) -> Iterator[MakeCopy]:
    """Makes copies, not yet started, that are gone after the test."""
    made: list[Copy] = []

    def make(*, port: int | None = None, args: dict[str, str] | None = None) -> Copy:
        folder = copies_folder / f"{tmp_path.name}-{len(made)}"
        folder.mkdir(exist_ok=True)
        copy = Copy(folder, write_config(folder, {}, **(args or {})))
        copy.port = port or copy.port
        made.append(copy)
        return copy

    yield make
    for copy in made:
        if copy.process.poll() is None:
            copy.stop()


def test_the_one_line_names_address_pack_and_data(served: Copy) -> None:
    assert re.fullmatch(
        rf"Facegraph answers at {served.url} .*; "
        rf"face pack opencv, masks yolov5s-seg, captions inventory; data in {served.data_dir}\n",
        served.said(),
    )
    assert served.complained() == ""


def test_every_replica_of_the_file_runs(served: Copy) -> None:
    counts = {name: len(served.replicas(name)) for name in DEPLOYMENTS}
    beside = {"segmenter": 1, "captioner": 1, "recognizer": 1, "jobs": 1}
    assert counts == {"ingress": 1, "detector": 1, "embedder": 1, "matcher": 2} | beside


def test_only_replicas_listen_beyond_this_machine(served: Copy) -> None:
    beyond = {pid for pid, address, _ in _listeners(served) if not _is_loopback(address)}
    replicas = {pid for name in DEPLOYMENTS for pid in served.replicas(name)}
    assert beyond <= replicas


def test_a_replica_refuses_calls_without_the_token(served: Copy) -> None:
    (pid,) = served.replicas("embedder")
    (port,) = {port for p, a, port in _listeners(served) if p == pid and not _is_loopback(a)}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_stopped_and_started_again_it_has_lost_nothing(make_copy: MakeCopy, served: Copy) -> None:
    copy = make_copy()
    copy.start(deaf=True)
    with copy.client() as client:
        _enrol(client, "ann")
        version = _search(client)["version"]
    before = copy.processes()

    assert copy.stop(signal.SIGINT) == 0
    assert [process for process in before if process.is_running()] == []
    assert not (copy.data_dir / "postgres" / "data" / "postmaster.pid").exists()
    assert copy.complained() == ""

    copy.start()
    with copy.client() as client:
        found = _search(client)
    assert found["version"] == version
    assert [m["subject_id"] for m in found["faces"][0]["matches"]] == ["ann"]
    assert copy.stop(signal.SIGTERM) == 0
    assert httpx.get(f"{served.url}/readyz").status_code == 200, "the other copy goes on"


def test_nothing_outlives_a_killed_supervisor(make_copy: MakeCopy) -> None:
    copy = make_copy()
    copy.start()
    orphans = copy.processes()
    folders = _folders(orphans)
    copy.process.kill()
    copy.wait()
    wait_until(lambda: not any(p.is_running() for p in orphans), "the end of the orphans")

    assert len(folders) == 1
    runtime.remove_stale()
    assert not any(folder.exists() for folder in folders)

    copy.start()  # over the same data
    with copy.client() as client:
        assert client.get("/readyz").status_code == 200


def test_the_death_of_serve_run_is_told(make_copy: MakeCopy) -> None:
    copy = make_copy()
    copy.start()
    below = copy.processes()
    (serve_run,) = [p for p in below if "ray.serve.scripts" in p.cmdline()]
    serve_run.kill()
    assert copy.wait() == 1
    assert "facegraph: serve run ended with status -9; the log ends:" in copy.complained()
    assert str(copy.data_dir / "logs") in copy.complained()
    assert [process for process in below if process.is_running()] == []


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        ({"face_pack": "buffalo_s"}, 1, "facegraph models pull buffalo_s"),
        ({"face_pack": "nobody"}, 2, "nobody"),
        ({"database_url": "postgresql://127.0.0.1:1/none"}, 1, "127.0.0.1"),
        ({"accelerator": "cuda"}, 1, "Ray counts no GPU in this cluster"),
    ],
)
def test_what_keeps_it_from_starting_is_said_once(
    make_copy: MakeCopy, tmp_path: Path, args: dict[str, str], status: int, sentence: str
) -> None:
    if args.get("accelerator") == "cuda" and _has_gpu():
        pytest.skip("this machine has a GPU")
    copy = make_copy(args={"insightface_home": str(tmp_path), **args})
    copy.launch()
    assert copy.wait() == status
    assert sentence in copy.complained().splitlines()[-1]
    assert copy.said() == ""


def test_a_taken_port_is_told_before_anything_starts(make_copy: MakeCopy, served: Copy) -> None:
    copy = make_copy(port=served.port)
    copy.launch()
    assert copy.wait() == 2
    (line,) = copy.complained().splitlines()
    assert line.startswith(f"facegraph: cannot listen on 127.0.0.1:{served.port}")
    assert not copy.data_dir.exists()


def _enrol(client: httpx.Client, subject: str) -> None:
    answer = client.post(
        "/v1/collections/default/subjects",
        data={"id": subject},
        files={"image": ASTRONAUT.read_bytes()},
    )
    assert answer.status_code == 201, answer.text


def _search(client: httpx.Client) -> dict[str, list[dict[str, list[dict[str, str]]]]]:
    answer = client.post("/v1/collections/default/search", files={"image": ASTRONAUT.read_bytes()})
    assert answer.status_code == 200, answer.text
    found: dict[str, list[dict[str, list[dict[str, str]]]]] = answer.json()
    return found


def _listeners(copy: Copy) -> list[tuple[int, str, int]]:
    return [
        (process.pid, connection.laddr.ip, connection.laddr.port)
        for process in copy.processes()
        for connection in _connections(process)
        if connection.status == psutil.CONN_LISTEN
    ]


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("tcp"))
    except psutil.NoSuchProcess:  # a helper of Ray's that has ended since
        return []


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _folders(processes: list[psutil.Process]) -> set[Path]:
    """The runtime folders that command lines name."""
    pattern = re.compile(rf"{runtime.ROOT}/{runtime.PREFIX}[^/ ]+(?=/)")
    found = {m for p in processes for part in p.cmdline() for m in pattern.findall(part)}
    return {Path(folder) for folder in found}


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
