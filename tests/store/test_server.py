"""The embedded server: started once, stopped by the last one out, healed after any death."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from facegraph.errors import DatabaseError
from facegraph.store import EmbeddedServer
from facegraph.store.account import Account
from tests.store.workers import postmaster, side_by_side, start_server

pytestmark = pytest.mark.store

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends the server an account")


@pytest.fixture
def data_dir(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = short_tmp / f"{abs(hash(request.node.nodeid)):x}"
    yield folder
    if (folder / "postgres" / "data").exists():  # a test that failed left it running
        server = EmbeddedServer(folder)
        server.hold()
        server.release()
    shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_database_of_its_own_behind_a_socket_only(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    url = server.hold()
    assert ask(url, "SELECT current_database() || ' ' || current_user") == "facegraph facegraph"
    settings = {
        name: ask(url, f"SHOW {name}")
        for name in ("listen_addresses", "fsync", "synchronous_commit", "server_encoding")
    }
    assert settings == {
        "listen_addresses": "",
        "fsync": "on",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
    }
    assert ask(url, "SELECT lower('ÄÖÜ')") == "äöü"
    folder = Path(str(ask(url, "SHOW unix_socket_directories")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server.release()
    assert not answers(url)


def test_started_once_however_many_ask(data_dir: Path) -> None:
    found = side_by_side(start_server, [(str(data_dir),)] * 6)
    assert found == [found[0]] * 6
    assert ask(found[0][0], "SELECT 1") == 1


def test_the_last_one_out_stops_it(data_dir: Path) -> None:
    one, two = EmbeddedServer(data_dir), EmbeddedServer(data_dir)
    url = one.hold()
    assert (two.hold(), one.hold()) == (url, url)
    pid = postmaster(data_dir)
    one.release()
    one.release()
    assert answers(url)
    assert one.hold() == url
    assert postmaster(data_dir) == pid
    two.release()
    assert answers(url)
    one.release()
    assert not answers(url)


def test_who_does_not_hold_cannot_stop_it(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    url = server.ensure_running()
    server.release()
    assert answers(url)


def test_a_killed_user_neither_stops_it_nor_keeps_it(data_dir: Path) -> None:
    code = f"from tests.store.workers import hold_and_die; hold_and_die({str(data_dir)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    server = EmbeddedServer(data_dir)
    assert answers(server.url)
    pid = postmaster(data_dir)
    server.hold()
    assert postmaster(data_dir) == pid
    server.release()
    assert not answers(server.url)


def test_coming_and_going_side_by_side(data_dir: Path) -> None:
    """Between hold and release it answers, whoever else comes or goes."""
    failures: list[BaseException] = []

    def visit() -> None:
        server = EmbeddedServer(data_dir)
        try:
            for _ in range(4):
                url = server.hold()
                assert ask(url, "SELECT 1") == 1
                server.release()
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_healed_after_the_postmaster_is_killed(data_dir: Path) -> None:
    """At once, by the process that started it: zombies and orphans included."""
    server = EmbeddedServer(data_dir)
    url = server.hold()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    for n in range(3):
        with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("INSERT INTO kept VALUES (%s)", [n])
            os.kill(postmaster(data_dir), signal.SIGKILL)
            assert server.ensure_running() == url
        assert ask(url, "SELECT count(*) FROM kept") == n + 1
    server.release()


def test_healed_although_an_orphan_is_busy(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    url = server.hold()
    busy = psycopg.connect(url, autocommit=True)
    started = threading.Event()

    def work() -> None:
        started.set()
        with pytest.raises(psycopg.OperationalError):
            busy.execute(
                "SET statement_timeout = '2s'; SELECT sum(n) FROM generate_series(1, 1e9) n"
            )

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    time.sleep(0.3)
    os.kill(postmaster(data_dir), signal.SIGKILL)
    assert server.ensure_running() == url
    assert ask(url, "SELECT 1") == 1
    thread.join()
    busy.close()
    server.release()


def test_a_pid_of_another_process_is_no_server(data_dir: Path) -> None:
    """As after a restart of the machine or the container, where low pids come again."""
    server = EmbeddedServer(data_dir)
    url = server.hold()
    pid_file = data_dir / "postgres" / "data" / "postmaster.pid"
    words = pid_file.read_text()
    server.release()
    pid_file.write_text(words.replace(words.split("\n")[0], str(os.getpid()), 1))
    (data_dir / "postgres" / "socket" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    assert server.hold() == url
    assert answers(url)
    server.release()


def test_killed_while_it_is_made(data_dir: Path) -> None:
    """Whenever the maker is killed, the next one finds nothing or all of it."""
    code = (
        "import sys; from pathlib import Path; from facegraph.store import EmbeddedServer;"
        f"server = EmbeddedServer(Path({str(data_dir)!r})); print('go', flush=True); server.hold()"
    )
    for delay in (0.05, 0.2, 0.4, 0.6, 0.8, 1.0):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as maker:
            assert maker.stdout is not None
            maker.stdout.readline()
            time.sleep(delay)
            maker.kill()
    server = EmbeddedServer(data_dir)
    assert ask(server.hold(), "SELECT 1") == 1
    server.release()
    assert list((data_dir / "postgres").glob("new-*")) == []


def test_a_path_too_long_for_a_socket(short_tmp: Path, data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / ("x" * 100))
    url = server.hold()
    folder = Path(str(ask(url, "SHOW unix_socket_directories")))
    assert folder.parent.parent == Path("/tmp")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert folder.parent.stat().st_uid == os.geteuid()
    server.release()
    shutil.rmtree(folder.parent)


def test_a_foreign_folder_in_the_way_of_the_socket(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / ("y" * 100))
    folder = server._socket_dir.parent
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(DatabaseError, match="not this user's own"):
        server.hold()
    folder.rmdir()


def test_data_of_another_version(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    server.hold()
    server.release()
    version = data_dir / "postgres" / "data" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(DatabaseError, match="made by PostgreSQL 12 and this is 18"):
        server.hold()
    version.write_text("18\n")


def test_a_server_that_does_not_start_says_why(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    server.hold()
    server.release()
    control = data_dir / "postgres" / "data" / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    with pytest.raises(DatabaseError, match=r"does not start; its log ends:(.|\n)*pg_control"):
        server.hold()
    control.with_suffix(".away").rename(control)


@pytest.mark.parametrize("name", ['a"b', "a$b", "a`b", "a\\b", "a'b"])
def test_names_that_a_shell_would_read(short_tmp: Path, name: str) -> None:
    with pytest.raises(DatabaseError, match="must not contain"):
        EmbeddedServer(short_tmp / name)


def test_a_name_with_spaces_and_letters(short_tmp: Path, data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / "mein Ordner ü 100% & ;")
    assert ask(server.hold(), "SELECT 1") == 1
    server.release()


def test_a_folder_that_cannot_be_made(short_tmp: Path) -> None:
    file = short_tmp / "file"
    file.write_text("")
    with pytest.raises(DatabaseError, match="cannot use"):
        EmbeddedServer(file).hold()


def test_no_port_is_opened(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    server.hold()
    pid = postmaster(data_dir)
    inodes = {
        target[8:-1]
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(link.readlink())).startswith("socket:")
    }
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        assert inodes.isdisjoint(line.split()[9] for line in lines)
    server.release()


@as_root
def test_root_leaves_its_own_folders_closed(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    server = EmbeddedServer(data_dir)
    url = server.hold()
    pid = postmaster(data_dir)
    assert Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    for folder in (data_dir, data_dir / "postgres", *data_dir.parents):
        assert folder.stat().st_uid == 0
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    status = Path(f"/proc/{pid}/status").read_text()
    capabilities = dict(line.split(":\t") for line in status.splitlines() if line[:3] == "Cap")
    assert {int(bits, 16) for bits in capabilities.values()} <= {1 << 1, 1 << 2}
    assert "\nNoNewPrivs:\t1\n" in status
    server.release()
    assert not answers(url)


@as_root
def test_without_setpriv_the_closed_folder_is_named(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    data_dir.mkdir(mode=0o700)
    with pytest.raises(DatabaseError, match=r"cannot enter .*: install.*setpriv"):
        EmbeddedServer(data_dir).hold()
    monkeypatch.undo()


@as_root
def test_data_of_an_ordinary_user_stays_its_own(data_dir: Path) -> None:
    """Root runs the server as the data's owner, so that its owner can go on."""
    data_dir.mkdir()
    data = data_dir / "data"
    data.mkdir()
    os.chown(data, 12345, 23456)
    assert Account.of(data) == Account(12345, 23456)
