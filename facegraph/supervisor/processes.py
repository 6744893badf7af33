"""Child processes that cannot outlive this one, and an end for all that they started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent dies (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: BinaryIO
) -> subprocess.Popen[bytes]:
    """Starts ``command`` in a session of its own, both outputs into ``log``.

    A session of its own keeps the terminal's Ctrl-C from it: the supervisor decides the order of
    the end. The kernel kills it when this process dies (Linux), and Ray's processes with it.
    """
    parent = os.getpid()
    libc = _libc() if sys.platform == "linux" else None

    def prepare() -> None:
        # A shell's `command &` ignores SIGINT, and a child would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
    )


def reap_adopted(own: Collection[int]) -> None:
    """Takes note of adopted processes that have ended, so that none stays as a zombie.

    ``own`` are children whose status somebody else waits for; it stops at such a one.
    """
    while (ended := _peek()) is not None and ended not in own:
        os.waitpid(ended, 0)


def _peek() -> int | None:
    """A child that has ended, left as it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def end(process: subprocess.Popen[bytes], how: signal.Signals, patience_s: float) -> bool:
    """Asks ``process`` to end; True when it did within ``patience_s``."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def end_descendants(patience_s: float) -> list[str]:
    """Kills what is left below this process, and says what it was.

    Most are on their way out already, so they get ``patience_s`` first. PostgreSQL is left
    alone: whichever process started the embedded server, others may be using it.
    """
    left = [p for p in psutil.Process().children(recursive=True) if _name(p) != "postgres"]
    _, alive = psutil.wait_procs(left, patience_s)
    killed = [f"{process.pid} {_name(process)}" for process in alive]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, patience_s)
    return killed


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return "(ended)"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
