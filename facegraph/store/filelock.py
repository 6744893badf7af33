"""Locks on files, which the kernel frees when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facegraph.errors import DatabaseError

_POLL_S = 0.02


class FileLock:
    """``flock`` on one file; shared or exclusive, and handed to a child by its descriptor.

    Each instance is a holder of its own, also within one process. The file stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Takes the lock if that needs no wait."""
        assert self._descriptor is None
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def acquire(self, timeout_s: float, *, shared: bool = False) -> None:
        """Takes the lock; DatabaseError when others keep it for longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire(shared=shared):
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"{self._path} has been locked by another process for {timeout_s:g} s"
                )
            time.sleep(_POLL_S)

    def release(self) -> None:
        """Gives up this holder's lock; a child that has the descriptor keeps it."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """For ``pass_fds``: the child then holds the lock too, until it ends."""
        assert self._descriptor is not None
        return self._descriptor

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @contextmanager
    def locked(self, timeout_s: float) -> Iterator[None]:
        """Holds the lock exclusively meanwhile."""
        self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()
