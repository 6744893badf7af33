"""A Ray cluster that runs here already is neither joined nor disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from facegraph.supervisor.instance import _ray_start
from tests.serve.copies import DEADLINE_S, Copy, wait_until, write_config

pytestmark = pytest.mark.serve


def test_beside_another_ray(copies_folder: Path) -> None:
    theirs = copies_folder / "theirs"
    theirs.mkdir()
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with (copies_folder / "theirs.log").open("wb") as log:
        other = subprocess.Popen(
            _ray_start(theirs),
            env=os.environ | loopback,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = theirs / "ray_current_cluster"
    try:
        wait_until(address.exists, "the other cluster")
        before = _alive(other)
        folder = copies_folder / "beside"
        folder.mkdir()
        copy = Copy(folder, write_config(folder, {}), more={"RAY_ADDRESS": address.read_text()})
        assert copy.start().startswith("Facegraph answers at ")
        assert copy.replicas("ingress") != []
        assert not _alive(other) - before, "the service runs in the other cluster"
        assert copy.stop() == 0
        assert before <= _alive(other)
    finally:
        other.send_signal(signal.SIGTERM)
        other.wait(DEADLINE_S)


def _alive(process: subprocess.Popen[bytes]) -> set[int]:
    children = psutil.Process(process.pid).children(recursive=True)
    return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}
