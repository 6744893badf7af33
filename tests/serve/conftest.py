"""One running copy for the session: the fast path, two matcher replicas."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serve.copies import Copy, write_config


@pytest.fixture(scope="session")
def copies_folder() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def _served(copies_folder: Path) -> Iterator[Copy]:
    folder = copies_folder / "served"
    folder.mkdir()
    copy = Copy(folder, write_config(folder, {"matcher": 2}))
    copy.start()
    yield copy
    copy.stop()


@pytest.fixture
def served(_served: Copy) -> Copy:
    """The session's copy, ready: whatever a test before this one has killed is back."""
    _served.wait_ready()
    return _served


@pytest.fixture
def http(served: Copy) -> Iterator[httpx.Client]:
    """A client of the session's copy."""
    with served.client() as client:
        yield client
