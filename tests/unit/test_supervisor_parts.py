"""The supervisor's parts, without Ray."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from facegraph.errors import ConfigError, StartupError
from facegraph.supervisor import configuration, runtime
from facegraph.supervisor.environment import ray_environment
from facegraph.supervisor.haproxy import error_page, mend
from facegraph.supervisor.journal import TRIES, Journal
from facegraph.supervisor.overrides import Overrides
from facegraph.supervisor.ports import BELOW_CONNECTIONS, free_ports, require_free

pytestmark = pytest.mark.unit

SERVE_CONFIG = """
http_options: {port: 8000}
applications:
- import_path: deployments.ingress:build
  args: {face_pack: edgeface_xs, resources: {matcher: {num_cpus: 1}}}
"""

HAPROXY_CONFIG = """\
global
    log 127.0.0.1:514 local0 info
    maxconn 4096
defaults
    log global
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
"""

MENDED = """\
global
    maxconn 4096
defaults
    option forwardfor
    log global
frontend prometheus
    bind 127.0.0.1:9101
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind 127.0.0.1:8404
"""


def test_haproxys_side_doors_are_closed() -> None:
    assert mend(HAPROXY_CONFIG, "127.0.0.1:8000") == MENDED
    assert mend(MENDED, "127.0.0.1:8000") == MENDED


def test_haproxys_error_page_is_a_problem_document() -> None:
    head, body = error_page().split("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(body)
    assert json.loads(body)["code"] == "overloaded"


def test_the_journal_passes_on_what_is_meant_for_the_operator(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "logs" / "serve.log")
    journal.sink.write(b"noise\n\x1b[36m(Replica pid=1)\x1b[0m facegraph: a hint\nfacegraph: ha")
    journal.sink.flush()
    assert journal.news() == ["facegraph: a hint"]
    journal.sink.write(b"lf a line\nfacegraph: a hint\n")
    journal.sink.flush()
    assert journal.news() == ["facegraph: half a line"]
    assert journal.tail(1) == "facegraph: a hint"
    journal.close()


def test_a_final_reason_ends_the_start_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "serve.log")
    journal.sink.write(b"(build pid=1) facegraph: cannot start: no such pack\n")
    journal.sink.flush()
    journal.news()
    with pytest.raises(StartupError, match=r"^no such pack$"):
        journal.raise_if_hopeless()
    journal.close()


def test_a_replicas_reason_ends_the_start_when_it_comes_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "serve.log")
    for _ in range(TRIES - 1):
        journal.sink.write(b"facegraph: a replica did not start: no file\n")
    journal.sink.flush()
    journal.news()
    journal.raise_if_hopeless()
    journal.sink.write(b"facegraph: a replica did not start: no file\n")
    journal.sink.flush()
    journal.news()
    with pytest.raises(StartupError, match=r"^no file$"):
        journal.raise_if_hopeless()
    journal.close()


def test_the_log_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "serve-8000.log"
    path.write_text("earlier")
    Journal(path).close()
    assert (tmp_path / "serve-8000.previous.log").read_text() == "earlier"


def test_the_folder_of_a_dead_copy_is_removed_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "ROOT", tmp_path)
    dead, alive, foreign = (tmp_path / f"{runtime.PREFIX}{n}" for n in ("dead", "alive", "foreign"))
    for folder in (dead, alive, foreign):
        folder.mkdir()
    me = {"pid": psutil.Process().pid, "started": psutil.Process().create_time()}
    (alive / runtime.OWNER).write_text(json.dumps(me))
    (dead / runtime.OWNER).write_text(json.dumps(me | {"started": 1.0}))  # the id was given again
    leftover = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", str(dead / "socket")]
    )
    runtime.remove_stale(tmp_path)
    assert leftover.wait(10) == -9
    assert (dead.exists(), alive.exists(), foreign.exists()) == (False, True, True)


def test_a_runtime_folder_leaves_room_for_socket_names() -> None:
    with runtime.runtime_folder() as folder:
        longest = folder / "h" / ("0" * 56) / "s.1234567.tmp"  # HAProxy's, under a Ray node id
        session = folder / "session_2026-11-21_04-33-34_811414_1234567" / "sockets/plasma_store"
        assert max(len(str(longest)), len(str(session))) <= 107
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_free_ports_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port in BELOW_CONNECTIONS for port in ports)


def test_a_taken_port_is_a_config_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} \(Address already in use\)"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)


def test_the_port_asked_for_stands_above_the_files(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(SERVE_CONFIG)
    launch = configuration.read(path, Overrides(port=8123))
    assert (launch.host, launch.port, launch.url) == ("127.0.0.1", 8123, "http://127.0.0.1:8123")
    assert launch.settings.face_pack == "edgeface_xs"
    again = configuration.read(configuration.write(launch, tmp_path))
    assert again.port == 8123
    assert again.document["applications"] == launch.document["applications"]


@pytest.mark.parametrize("text", ["", "[]", "applications: []", "applications: 3", "a: [", "- 1"])
def test_a_file_that_is_no_serve_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="facegraph check"):
        configuration.read(path)


def test_the_instance_joins_no_other_cluster_and_keeps_the_operators_choices(
    tmp_path: Path,
) -> None:
    inherited = {
        "RAY_ADDRESS": "10.0.0.1:6379",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_AUTH_TOKEN": "a token that others know",
        "HOME": "/home/someone",
    }
    made = ray_environment(inherited, tmp_path, "127.0.0.1:8000")
    assert "RAY_ADDRESS" not in made
    assert made["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert made["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert len(made["RAY_AUTH_TOKEN"]) == 64
    assert made["HOME"] == "/home/someone"


ADOPTING = """
import os, subprocess, time
from facegraph.supervisor import processes

processes.adopt_orphans()
own = subprocess.Popen(["sleep", "600"])
orphan = int(subprocess.check_output(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"]))
while os.path.exists(f"/proc/{orphan}"):  # a zombie exists too
    processes.reap_adopted({own.pid})
    time.sleep(0.01)
own.kill()
processes.reap_adopted({own.pid})
print(own.wait())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is a Linux feature")
def test_adopted_orphans_do_not_stay_as_zombies() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTING], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "-9\n"
