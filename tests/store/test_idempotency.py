"""A request sent twice with one key takes effect once and is answered alike."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from facegraph.errors import Conflict, SubjectExists
from facegraph.store import Idempotency, Store
from tests.store.making import CONTRACT, sample

pytestmark = pytest.mark.store


async def test_the_first_answer_comes_again(store: Store) -> None:
    token = Idempotency("key-1", "digest-1")
    fields = {"bbox": (1.0, 2.0, 3.0, 4.0), "detection_score": 0.5, "metadata": {"a": [1]}}
    first = await store.create_subject(
        "default",
        name="A",
        samples=[sample(1, **fields), sample(2)],
        contract=CONTRACT,
        idempotency=token,
    )
    await store.update_subject("default", first.subject.id, {"name": "B"})
    again = await store.create_subject(
        "default", name="A", samples=[sample(1)], contract=CONTRACT, idempotency=token
    )
    assert again == first
    assert (await store.get_collection("default")).sample_count == 2
    assert (await store.head("default")).version == 2


async def test_side_by_side_one_takes_effect(store: Store) -> None:
    await store.create_subject("default", "s", contract=CONTRACT)
    token = Idempotency("key", "digest")
    answers = await asyncio.gather(
        *(
            store.add_samples("default", "s", [sample(1)], contract=CONTRACT, idempotency=token)
            for _ in range(8)
        )
    )
    assert answers == [answers[0]] * 8
    assert (await store.get_subject("default", "s")).sample_count == 1


async def test_a_key_stands_for_one_request(store: Store) -> None:
    await store.create_subject("default", contract=CONTRACT, idempotency=Idempotency("k", "a"))
    with pytest.raises(Conflict, match="another request"):
        await store.create_subject("default", contract=CONTRACT, idempotency=Idempotency("k", "b"))


async def test_what_failed_may_be_tried_again(store: Store) -> None:
    await store.create_subject("default", "s", contract=CONTRACT)
    token = Idempotency("k", "a")
    with pytest.raises(SubjectExists):
        await store.create_subject("default", "s", contract=CONTRACT, idempotency=token)
    await store.delete_subject("default", "s")
    made = await store.create_subject("default", "s", contract=CONTRACT, idempotency=token)
    assert made.version == 3


async def test_answers_are_forgotten_after_a_day(store: Store, store_url: str) -> None:
    old, new = Idempotency("old", "a"), Idempotency("new", "a")
    first = await store.create_subject("default", contract=CONTRACT, idempotency=old)
    with psycopg.connect(store_url) as connection:
        connection.execute("UPDATE facegraph.idempotency SET created_at = now() - '25h'::interval")
    second = await store.create_subject("default", contract=CONTRACT, idempotency=new)
    third = await store.create_subject("default", contract=CONTRACT, idempotency=old)
    assert len({made.subject.id for made in (first, second, third)}) == 3
