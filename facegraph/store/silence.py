"""Ends connections on which nothing comes any more, though nobody has closed them.

A statement's timeout is the server's; a peer that hangs, or a wire that swallows everything, keeps
no time. Whoever waits on a connection that is ended here gets psycopg's OperationalError.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from facegraph.store.connecting import BlockingConnection, Connection

Heard = Callable[[], None]
"""To be called when something came."""


@contextmanager
def bounded(connection: Connection, patience_s: float) -> Iterator[None]:
    """Ends the connection when the block takes longer than that."""
    timer = asyncio.get_running_loop().call_later(patience_s, _end, connection)
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def watched(connection: BlockingConnection, patience_s: float | None) -> Iterator[Heard]:
    """Ends the connection when the block's thread has not called for so long; None: never."""
    heard_at, over = time.monotonic(), threading.Event()

    def heard() -> None:
        nonlocal heard_at
        heard_at = time.monotonic()

    def watch(patience_s: float) -> None:
        while not over.wait(max(0.0, heard_at + patience_s - time.monotonic())):
            if time.monotonic() >= heard_at + patience_s:
                _end(connection)
                return

    watcher = threading.Thread(target=watch, args=(patience_s,), name="silence", daemon=True)
    if patience_s is not None:
        watcher.start()
    try:
        yield heard
    finally:
        over.set()
        if patience_s is not None:
            watcher.join()  # so that it never ends what has the socket's number next


def _end(connection: Connection | BlockingConnection) -> None:
    """Shuts the socket down; libpq, which waits on it, finds it closed."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
