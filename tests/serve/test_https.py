"""A gnosis server's environment brings up HTTPS, and nothing else, on its address."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from facegraph.supervisor.ports import free_ports
from facegraph.supervisor.tls import Tls
from tests.certificates import self_signed
from tests.photos import ASTRONAUT
from tests.serve.copies import DEADLINE_S, ROOT, environment, wait_until, write_config

pytestmark = pytest.mark.serve

ADDRESS = "127.0.0.2"
"""Loopback too, and not where Ray and the replicas listen."""


@dataclass(frozen=True, slots=True)
class Secure:
    """The running copy: its certificate, its address, its process, its two outputs."""

    tls: Tls
    port: int
    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            verify=ssl.create_default_context(cafile=str(self.tls.certificate)),
            timeout=60,
        )


@pytest.fixture(scope="module")
def secure(copies_folder: Path) -> Iterator[Secure]:
    folder = copies_folder / "https"
    tls = self_signed(folder, ADDRESS)
    (port,) = free_ports(1)
    old_names = {
        "SERVER_IP": ADDRESS,
        "SERVER_PORT": str(port),
        "SERVER_SSL_CONTEXT": str(tls.certificate),
        "SERVER_SSL_KEYFILE": str(tls.key),
        "DETECTOR_LOAD_DEVICE": "-1",
        "RECOGNIZER_LOAD_DEVICE": "-1",
        "LOGGER_LEVEL": "ERROR",
        "ENV": "production",
    }
    out, err = folder / "out", folder / "err"
    with out.open("wb") as said, err.open("wb") as complained:
        process = subprocess.Popen(
            [sys.executable, "-m", "facegraph.cli", "serve", "--config", write_config(folder, {})],
            cwd=ROOT,
            env=environment(folder / "data", **old_names),
            stdout=said,
            stderr=complained,
            start_new_session=True,
        )
    try:
        wait_until(lambda: out.read_text() != "" or process.poll() is not None, "the ready line")
        assert process.poll() is None, err.read_text()
        yield Secure(tls, port, process, out, err)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def test_the_one_line_names_the_https_address(secure: Secure) -> None:
    assert secure.out.read_text().startswith(
        f"Facegraph answers at {secure.url} (documentation: {secure.url}/docs); "
    )


def test_each_old_name_is_accounted_for_in_one_line(secure: Secure) -> None:
    assert secure.err.read_text().splitlines() == [
        f"facegraph: SERVER_IP={ADDRESS} is taken as --host",
        f"facegraph: SERVER_PORT={secure.port} is taken as --port",
        f"facegraph: SERVER_SSL_CONTEXT={secure.tls.certificate} is taken as --tls-certificate",
        f"facegraph: SERVER_SSL_KEYFILE={secure.tls.key} is taken as --tls-key",
        "facegraph: DETECTOR_LOAD_DEVICE=-1 is taken as accelerator: cpu",
        "facegraph: RECOGNIZER_LOAD_DEVICE=-1 is taken as accelerator: cpu",
        "facegraph: LOGGER_LEVEL=ERROR is taken as log_level: ERROR",
        "facegraph: ENV=production changes nothing: there is one way to run",
    ]


def test_a_face_is_detected_over_https(secure: Secure) -> None:
    with secure.client() as client:
        ours = client.post("/v1/detect", files={"image": ASTRONAUT.read_bytes()})
        old = client.post("/detector/image", files={"file": ASTRONAUT.read_bytes()})
    assert len(ours.json()["faces"]) == 1, ours.text
    assert [face["label"] for face in old.json()["faces"]] == [0], old.text


def test_plain_http_gets_no_answer(secure: Secure) -> None:
    with socket.create_connection((ADDRESS, secure.port), timeout=10) as raw:
        raw.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(4096) == b""
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{ADDRESS}:{secure.port}/readyz", timeout=10)


def test_tls_before_1_2_is_refused(secure: Secure) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((ADDRESS, secure.port), timeout=10) as raw,
        pytest.raises(ssl.SSLError, match=r"alert protocol version"),
    ):
        old.wrap_socket(raw)


def test_a_redirect_stays_on_https(secure: Secure) -> None:
    with secure.client() as client:
        answer = client.get("/v1/system/")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith(f"{secure.url}/v1/system")


def test_nothing_else_listens_on_the_address(secure: Secure) -> None:
    below = psutil.Process(secure.process.pid).children(recursive=True)
    doors = {
        (process.name(), connection.laddr.port)
        for process in below
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip == ADDRESS
    }
    assert doors == {("haproxy", secure.port)}


def test_the_key_lies_in_a_private_file(secure: Secure) -> None:
    (haproxy, *_) = _named(secure, "haproxy")
    command = haproxy.cmdline()
    configuration = Path(command[command.index("-f") + 1]).read_text()
    (pem,) = {Path(found) for found in re.findall(r" ssl crt (\S+) ", configuration)}
    assert pem.stat().st_mode & 0o777 == 0o600
    assert pem.parent.stat().st_mode & 0o777 == 0o700


def test_a_reload_of_haproxy_stays_on_https(secure: Secure) -> None:
    (ingress,) = _named(secure, "ray::ServeReplica:facegraph:ingress")
    ingress.kill()
    ingress.wait(DEADLINE_S)
    with secure.client() as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "another ingress")
    test_plain_http_gets_no_answer(secure)


def _named(secure: Secure, title: str) -> list[psutil.Process]:
    below = psutil.Process(secure.process.pid).children(recursive=True)
    return [p for p in below if p.name() == title or " ".join(p.cmdline()).startswith(title)]
