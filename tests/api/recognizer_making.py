"""Recognizers that were built by nobody: their jobs are finished by hand."""

from __future__ import annotations

from typing import Any

import httpx

from facegraph.recognizers.options import RECOGNIZER
from facegraph.service import Service
from facegraph.store import Origin
from facegraph.types import Job
from tests.fake_graph import picture

PATH = "/v1/recognizers"
MODEL = bytes(range(256)) * 20_000
"""Longer than a part of an artefact."""
REPORT = b"a fake PNG"
PUBLIC = "http://93.184.216.34/done"
"""An address, so that no name is looked up."""

OUTCOME: dict[str, Any] = {
    "shape": {
        "hidden": [],
        "activation": "relu",
        "dropout": 0.0,
        "learning_rate": 0.01,
        "layers": 1,
        "parameters": 258,
    },
    "metrics": {
        "cross_validated": {
            "pictures": 4,
            "folds": 2,
            "chosen": 1.0,
            "default": 1.0,
            "nearest_neighbour": 1.0,
        },
        "held_out": None,
        "parameters": {"chosen": 258, "default": 16_770},
        "confusions": [],
    },
    "pictures": 4,
    "augmentation": "none",
    "left_out": {"count": 0, "items": []},
    "repeated": {"count": 0, "items": []},
    "conflicts": {"count": 0, "items": []},
    "rejected": {"count": 0, "by_code": {}, "items": []},
}

NAMES = ("ada_1.jpg", "ada_2.jpg", "bob/1.jpg", "bob/2.jpg")


def files(*names: str) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Pictures under these names; the n-th shows person n."""
    return [("images", (name, picture(n), "image/jpeg")) for n, name in enumerate(names, 1)]


async def ask(client: httpx.AsyncClient, *names: str, **fields: Any) -> httpx.Response:
    return await client.post(PATH, files=files(*(names or NAMES)), data=fields)


async def asked(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await ask(client, **fields)
    assert answer.status_code == 202, answer.text
    recognizer_id: str = answer.json()["id"]
    return recognizer_id


async def take(service: Service, worker: str = "w") -> Job:
    job = await service.store.jobs.take([RECOGNIZER], worker, 60)
    assert job is not None
    return job


async def finish(service: Service, job: Job, *labels: str, **outcome: Any) -> None:
    """Makes that job's recognizer ready; of the collection as it is now, where it is of one."""
    made = await service.store.recognizers.get(job.id)
    origin = None
    if made.collection_id is not None:
        head = await service.store.head(made.collection_id)
        origin = Origin.of(made.collection_id, head)
    also = service.store.recognizers.keep(
        job.id,
        labels=labels or ("ada", "bob"),
        outcome=OUTCOME | outcome,
        model=MODEL,
        report=REPORT,
        origin=origin,
    )
    assert await service.store.jobs.finish(job, {}, also)


async def ready(client: httpx.AsyncClient, service: Service, *labels: str, **fields: Any) -> str:
    recognizer_id = await asked(client, **fields)
    await finish(service, await take(service), *labels)
    return recognizer_id
