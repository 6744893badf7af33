"""A bulk enrolment in a process of its own, with fake faces, that may kill itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from facegraph.bulk.enrolling import enrol_outcomes
from facegraph.bulk.known import known_photos
from facegraph.bulk.mapping import in_process
from facegraph.bulk.opening import open_path
from facegraph.bulk.report import BulkReport
from facegraph.bulk.sampling import Rules, Sampler
from facegraph.store import Store
from facegraph.types import Detection
from tests.fake_graph import FakeGraph
from tests.store.making import CONTRACT


class MortalFaces(FakeGraph):
    """Kills its process, as the kernel might, when it is asked for one picture too many."""

    def __init__(self, dimension: int, pictures: int | None = None) -> None:
        super().__init__(None, dimension)  # type: ignore[arg-type]
        self.left = pictures
        self.asked_for = 0

    async def detect(self, image: bytes, **asked: Any) -> Detection:
        if self.left is not None and self.asked_for >= self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked_for += 1
        return await super().detect(image, **asked)


async def fetch(url: str, limit: int) -> bytes:
    raise AssertionError("nothing is fetched")


async def enrolled(
    store: Store, path: Path, faces: MortalFaces, collection_id: str = "default"
) -> BulkReport:
    """All of ``path``, 4 pictures at a time."""
    report = BulkReport()
    sampler = Sampler(faces, Rules(), await known_photos(store, collection_id), fetch)
    outcomes = in_process(open_path(path), sampler, lambda: 4)
    await enrol_outcomes(outcomes, store, collection_id, CONTRACT, report)
    return report


async def main(url: str, path: str, pictures: int) -> None:
    async with Store.open(url) as store:
        await enrolled(store, Path(path), MortalFaces(CONTRACT.dimension, pictures))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
