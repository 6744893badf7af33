"""A build from its request to its model: real training, real PostgreSQL, fake pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from facegraph import tasks
from facegraph.config import JobsTuning
from facegraph.errors import ModelUnavailable, RecognizerNotFound
from facegraph.jobs import Worker
from facegraph.recognizers.building import handlers
from facegraph.recognizers.evaluating import Evaluate, OpenEvaluate, Score, Task, in_process
from facegraph.recognizers.predictor import Predictor
from facegraph.recognizers.shapes import DEFAULT, Shape
from facegraph.service import Service
from facegraph.store.records import Recognizer
from facegraph.types import Detection
from tests.fake_graph import picture, variant, variant_of

pytestmark = pytest.mark.api

RECOGNIZERS = "/v1/recognizers"
TUNING = JobsTuning(poll_interval_s=0.01, lease_s=1)
SMALL = {"generations": "2", "population": "4"}


def worker(service: Service, open_evaluate: OpenEvaluate = in_process) -> Worker:
    kinds = handlers(service, no_fetch, lambda: 4, open_evaluate)
    return Worker(service.store, kinds, TUNING)


async def no_fetch(url: str, limit: int) -> bytes:
    raise AssertionError("nothing is fetched")


def files(*named: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": [("images", (name, data, "image/png")) for name, data in named]}


def people(count: int, pictures: int) -> list[tuple[str, bytes]]:
    return [
        (f"person-{who}/{number}.png", variant(number, who))
        for who in range(count)
        for number in range(1, pictures + 1)
    ]


async def ended(service: Service, recognizer_id: str) -> Recognizer:
    async with asyncio.timeout(60):
        while True:
            recognizer = await service.store.recognizers.get(recognizer_id)
            if recognizer.state in {"ready", "failed"}:
                return recognizer
            await asyncio.sleep(0.02)


async def built(
    service: Service, answer: httpx.Response, open_evaluate: OpenEvaluate = in_process
) -> Recognizer:
    """The recognizer of an answer, once a worker has made it, or failed."""
    assert answer.status_code == 202, answer.text
    working = worker(service, open_evaluate)
    working.start()
    try:
        return await ended(service, answer.json()["id"])
    finally:
        await working.close()


async def test_from_pictures_to_a_model(client: httpx.AsyncClient, service: Service) -> None:
    sent = [
        *people(3, 5),
        ("person-0/nobody.png", picture()),
        ("person-0/two.png", picture(0, 1)),
        ("person-1/broken.png", b"not a picture"),
        ("person-1/again.png", variant(1, 1)),
        ("person-4/alone.png", picture(4)),
    ]
    ready = await built(service, await client.post(RECOGNIZERS, **files(*sent), data=SMALL))
    assert (ready.state, ready.progress, ready.problem) == ("ready", 1.0, None)
    assert ready.labels == ("person-0", "person-1", "person-2")
    outcome = ready.outcome
    assert outcome is not None
    assert outcome["pictures"] == 15
    assert outcome["left_out"] == {"count": 1, "items": [{"label": "person-4", "pictures": 1}]}
    assert outcome["repeated"] == {"count": 1, "items": [{"label": "person-1", "pictures": 1}]}
    assert outcome["rejected"]["by_code"] == {
        "face_not_found": 1,
        "several_faces": 1,
        "invalid_image": 1,
    }
    assert {(item["label"], item["code"]) for item in outcome["rejected"]["items"]} == {
        ("person-0", "face_not_found"),
        ("person-0", "several_faces"),
        ("person-1", "invalid_image"),
    }
    validated = outcome["metrics"]["cross_validated"]
    assert (validated["pictures"], validated["folds"]) == (12, 4)
    assert validated["chosen"] == validated["nearest_neighbour"] == 1.0
    assert outcome["metrics"]["held_out"] == {
        "pictures": 3,
        "chosen": 1.0,
        "default": 1.0,
        "nearest_neighbour": 1.0,
    }
    parameters = outcome["metrics"]["parameters"]
    assert parameters["chosen"] <= parameters["default"]
    assert ready.course is not None
    assert ready.course["stopped"] == "optimal"  # nothing beats a linear one without errors

    model = await service.store.recognizers.model(ready.id)
    predictor = Predictor(model)
    card = predictor.card
    assert (card.recognizer_id, card.labels) == (ready.id, ready.labels)
    assert (card.contract_id, card.metrics) == (service.contract.id, outcome["metrics"])
    probes = np.stack([variant_of(who, 9, service.contract.dimension) for who in (2, 0, 7)])
    told = predictor.recognize(probes, card.threshold, 0.02)
    assert [(one.decision, one.candidates[0].label) for one in told[:2]] == [
        ("match", "person-2"),
        ("match", "person-0"),
    ]
    assert told[2].decision == "unknown"
    assert (await service.store.recognizers.report(ready.id)).startswith(b"\x89PNG")


async def test_one_seed_one_model(client: httpx.AsyncClient, service: Service) -> None:
    """Whoever evaluates, and in whatever order pictures and scores come."""
    sent = people(3, 4)
    one = await built(service, await client.post(RECOGNIZERS, **files(*sent), data=SMALL))
    other = await built(
        service, await client.post(RECOGNIZERS, **files(*sent[::-1]), data=SMALL), fake_backwards
    )
    assert one.outcome is not None
    assert other.outcome is not None
    assert one.outcome["shape"] == other.outcome["shape"]
    assert one.outcome["metrics"] == other.outcome["metrics"]
    probe = variant_of(1, 7, service.contract.dimension)[np.newaxis]
    models = [await service.store.recognizers.model(made.id) for made in (one, other)]
    assert len({Predictor(model).recognize(probe, 0.5, 0.02) for model in models}) == 1


@asynccontextmanager
async def fake_backwards(task: Task) -> AsyncIterator[Evaluate]:
    """Evaluates as others do, and tells the last first."""
    async with in_process(task) as evaluate:

        async def backwards(shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
            for score in reversed([score async for score in evaluate(shapes)]):
                yield score

        yield backwards


async def test_without_a_search(client: httpx.AsyncClient, service: Service) -> None:
    sent = files(*people(2, 3))
    ready = await built(service, await client.post(RECOGNIZERS, **sent, data={"optimize": "0"}))
    assert ready.state == "ready"
    assert ready.course is None
    assert ready.outcome is not None
    assert ready.outcome["shape"]["hidden"] == list(DEFAULT.hidden)
    assert ready.outcome["metrics"]["held_out"] is None  # three pictures a label are too few


async def test_from_a_collection(client: httpx.AsyncClient, service: Service) -> None:
    for who in (1, 2):
        sent = [("images", (f"{n}.png", variant(n, who), "image/png")) for n in range(1, 4)]
        answer = await client.post(
            "/v1/collections/default/subjects", files=sent, data={"id": f"s{who}"}
        )
        assert answer.status_code == 201, answer.text
    answer = await client.post(RECOGNIZERS, json={"collection": "default", "optimize": False})
    ready = await built(service, answer)
    assert (ready.state, ready.labels, ready.collection_id) == ("ready", ("s1", "s2"), "default")
    assert ready.outcome is not None
    assert ready.outcome["pictures"] == 6
    assert ready.origin is not None
    assert (ready.origin.collection_id, ready.origin.version) == ("default", 2)


async def test_who_cannot_be_told_is_left_out_and_told_so(
    client: httpx.AsyncClient, service: Service
) -> None:
    """A subject whose id is what answers say of strangers."""
    for who, name in enumerate(["ada", "bob", "unknown"]):
        sent = [("images", (f"{n}.png", variant(n, who), "image/png")) for n in (1, 2)]
        await client.post("/v1/collections/default/subjects", files=sent, data={"id": name})
    answer = await client.post(RECOGNIZERS, json={"collection": "default", "optimize": False})
    ready = await built(service, answer)
    assert ready.labels == ("ada", "bob")
    assert ready.outcome is not None
    assert ready.outcome["rejected"]["by_code"] == {"invalid_label": 2}
    assert ready.outcome["left_out"]["items"] == [{"label": "unknown", "pictures": 0}]


async def test_a_part_of_the_service_that_is_away_costs_nobody_his_place(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build begins anew, rather than without those whose pictures it could not see."""
    monkeypatch.setattr("facegraph.bulk.sampling.RETRIES", 0)
    monkeypatch.setattr("facegraph.jobs.RETRY_AFTER_S", 0.01)
    detect, away = service.graph.detect, [ModelUnavailable("replicas are being replaced")]

    async def fake_detect(image: bytes, **options: Any) -> Detection:
        if away:
            raise away.pop()
        return await detect(image, **options)

    monkeypatch.setattr(service.graph, "detect", fake_detect)
    sent = files(*people(3, 2))
    ready = await built(service, await client.post(RECOGNIZERS, **sent, data={"optimize": "0"}))
    assert ready.labels == ("person-0", "person-1", "person-2")
    assert ready.outcome is not None
    assert (ready.outcome["pictures"], ready.outcome["rejected"]["count"]) == (6, 0)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            [(f"p{who}/{n}.png", picture()) for who in (1, 2) for n in (1, 2)],
            "face_not_found 4",
        ),  # no faces
        (
            [
                ("p1/1.png", variant(1, 1)),
                ("p1/2.png", variant(2, 1)),
                ("p2/1.png", b"no picture"),
                ("p2/2.png", b"none either"),
            ],
            "invalid_image 2",
        ),  # of one label nothing is left
        (
            [(f"p{who}/{n}.png", variant(n, 1)) for who in (1, 2) for n in (1, 2)],
            "0 of 2 labels have 2 different pictures",
        ),  # the same pictures under two labels
    ],
)
async def test_what_no_recognizer_can_be_made_of(
    client: httpx.AsyncClient, service: Service, sent: list[tuple[str, bytes]], said: str
) -> None:
    failed = await built(service, await client.post(RECOGNIZERS, **files(*sent)))
    assert failed.state == "failed"
    assert failed.problem is not None
    assert failed.problem["code"] == "invalid_training_set"
    assert said in failed.problem["detail"]


async def test_a_deleted_build_stops_and_leaves_nothing(
    client: httpx.AsyncClient, service: Service
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def fake_endless(task: Task) -> AsyncIterator[Evaluate]:
        async def evaluate(shapes: Sequence[Shape]) -> AsyncGenerator[Score]:
            begun.set()
            try:
                await asyncio.Event().wait()
                yield  # type: ignore[misc]  # never reached
            finally:
                stopped.set()

        yield evaluate

    answer = await client.post(RECOGNIZERS, **files(*people(2, 3)))
    working = worker(service, fake_endless)
    working.start()
    try:
        await asyncio.wait_for(begun.wait(), 30)
        recognizer_id = answer.json()["id"]
        assert (await client.delete(f"{RECOGNIZERS}/{recognizer_id}")).status_code == 204
        await asyncio.wait_for(stopped.wait(), 30)
    finally:
        await working.close()
    with pytest.raises(RecognizerNotFound):
        await service.store.recognizers.get(recognizer_id)
    assert (await service.store.jobs.list()).items == ()


async def test_a_lost_worker_costs_time_only(client: httpx.AsyncClient, service: Service) -> None:
    """It is cancelled in the middle, as when its replica goes; the next one begins anew."""
    begun = asyncio.Event()

    @asynccontextmanager
    async def fake_hanging(task: Task) -> AsyncIterator[Evaluate]:
        begun.set()
        await asyncio.Event().wait()
        yield in_process  # type: ignore[misc]  # never reached

    sent = files(*people(2, 3))
    answer = await client.post(RECOGNIZERS, **sent, data=SMALL)
    lost = worker(service, fake_hanging)
    lost.start()
    await asyncio.wait_for(begun.wait(), 30)
    await tasks.end(asyncio.create_task(lost.close()), within_s=0)
    await lost.close()
    ready = await built(service, answer)
    other = await built(service, await client.post(RECOGNIZERS, **sent, data=SMALL))
    assert ready.outcome == other.outcome
