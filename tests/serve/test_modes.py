"""The same service under the fast path and under Ray's default flags."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from facegraph.supervisor.ports import free_ports
from tests.photos import ASTRONAUT
from tests.serve.copies import DEADLINE_S, ROOT, Copy, environment, wait_until, write_config

pytestmark = pytest.mark.serve


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to run the service: where it answers, and what it told the operator."""

    name: str
    url: str
    pid: int
    log: Path


@pytest.fixture(scope="module")
def plain(copies_folder: Path) -> Iterator[Mode]:
    """``serve run`` with nothing set but what keeps this machine's Ray instances apart."""
    folder = copies_folder / "plain"
    folder.mkdir()
    (port,) = free_ports(1)
    config = write_config(folder, {})
    config.write_text(config.read_text().replace("port: 8000", f"port: {port}"))
    apart = {
        "RAY_TMPDIR": str(folder),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    log = folder / "serve.log"
    serve = Path(sys.executable).with_name("serve")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [serve, "run", "--address", "local", config],
            cwd=ROOT,
            env=environment(folder / "data", **apart),
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_sigint,  # noqa: PLW1509 - no threads yet
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _ready(url), "serve run")
        assert process.poll() is None, log.read_text()
        yield Mode("plain", url, process.pid, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)


@pytest.fixture(params=["fast", "plain"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each way in turn."""
    if request.param == "plain":
        plain: Mode = request.getfixturevalue("plain")
        return plain
    copy: Copy = request.getfixturevalue("served")
    return Mode("fast", copy.url, copy.process.pid, copy.data_dir / "logs")


def test_enrolled_then_found(mode: Mode) -> None:
    subject = f"astronaut-{mode.name}"
    with httpx.Client(base_url=mode.url, timeout=60) as client:
        client.post("/v1/collections", json={"id": mode.name}).raise_for_status()
        enrolled = client.post(
            f"/v1/collections/{mode.name}/subjects",
            data={"id": subject},
            files={"image": ASTRONAUT.read_bytes()},
        )
        found = client.post(
            f"/v1/collections/{mode.name}/search", files={"image": ASTRONAUT.read_bytes()}
        )
    assert enrolled.status_code == 201, enrolled.text
    assert [match["subject_id"] for match in found.json()["faces"][0]["matches"]] == [subject]


def test_a_photo_over_four_mebibytes_travels(mode: Mode) -> None:
    photo = _noisy_photo()
    assert 5 * 2**20 < len(photo) < 16 * 2**20
    answer = httpx.post(f"{mode.url}/v1/detect", files={"image": photo}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"] == {"width": 1600, "height": 1200}


@pytest.mark.parametrize("sent", ["my-id-7", None])
def test_one_request_id_the_same_everywhere(mode: Mode, sent: str | None) -> None:
    headers = {"x-request-id": sent} if sent else {}
    answer = httpx.get(f"{mode.url}/v1/nowhere", headers=headers)
    (told,) = answer.headers.get_list("x-request-id")
    assert answer.json()["request_id"] == told
    assert sent in {None, told}


def test_an_error_of_another_process_is_the_clients_problem_document(mode: Mode) -> None:
    answer = httpx.post(f"{mode.url}/v1/detect", files={"image": b"no image"}, timeout=60)
    assert answer.status_code in {415, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text


def test_the_graph_describes_each_replica(mode: Mode) -> None:
    running = httpx.get(f"{mode.url}/v1/system", timeout=30).json()["running"]
    assert {name: len({r["replica"] for r in running[name]}) for name in running} == {
        "detector": 1,
        "embedder": 1,
        "matcher": 2 if mode.name == "fast" else 1,
        "segmenter": 1,
        "captioner": 1,
        "recognizer": 1,
        "jobs": 1,
    }


def test_a_killed_detector_is_replaced_and_the_request_answered(mode: Mode) -> None:
    os.kill(_replica(mode, "detector"), signal.SIGKILL)
    answer = httpx.post(
        f"{mode.url}/v1/detect", files={"image": ASTRONAUT.read_bytes()}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["faces"]) == 1


def test_plain_serve_run_says_in_one_line_what_it_lacks(plain: Mode) -> None:
    lines = [line for line in plain.log.read_text().splitlines() if "fast HTTP path" in line]
    assert len(lines) == 1
    assert "RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in lines[0]
    assert "`make serve` sets it" in lines[0]


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _replica(mode: Mode, deployment: str) -> int:
    title = f"ray::ServeReplica:facegraph:{deployment}"
    (pid,) = [
        process.pid
        for process in psutil.Process(mode.pid).children(recursive=True)
        if title in " ".join(process.cmdline())
    ]
    return pid


def _noisy_photo() -> bytes:
    """A PNG that does not compress: 1600×1200 of noise."""
    noise = np.random.default_rng(7).integers(0, 256, (1200, 1600, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    return out.getvalue()


def _hear_sigint() -> None:
    """A suite that runs in the background has SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
