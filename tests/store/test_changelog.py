"""The change log: dense versions, nothing missing, and what it leads to equals a fresh load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegraph.errors import Conflict, NotFound, SubjectExists
from facegraph.gallery import Gallery, search
from facegraph.store import Store
from facegraph.types import Change, Head, NewSample
from tests.store.making import CONTRACT, OTHER_CONTRACT, sample, vector
from tests.store.mirror import Mirror, stamp_at

pytestmark = pytest.mark.store


async def news(store: Store, since: int = 0, limit: int = 1000) -> tuple[Head, Sequence[Change]]:
    head = await store.head("default")
    found = await store.changes(
        "default",
        since=since,
        incarnation=head.incarnation,
        stamp=await stamp_at(store, since),
        limit=limit,
    )
    assert found is not None
    return found


def told(changes: Sequence[Change]) -> list[tuple[int, str, str, str | None]]:
    return [(c.version, c.kind, c.subject_id, c.sample_id) for c in changes]


async def test_every_kind_of_change_in_order(store: Store) -> None:
    two = [sample(1, id="x"), sample(2, id="y")]
    await store.create_subject("default", "s", name="S", samples=two, contract=CONTRACT)
    await store.update_subject("default", "s", {"name": "T", "metadata": {"a": 1}})
    await store.delete_sample("default", "s", "x")
    await store.append_samples("default", "s", samples=[sample(3, id="z")], contract=CONTRACT)
    await store.create_subject("default", "t", contract=CONTRACT)
    await store.delete_subject("default", "t")
    head, changes = await news(store)
    assert head.version == 6
    assert told(changes) == [
        (1, "subject_upserted", "s", None),
        # version 1 added x, which is gone: left out
        (1, "sample_added", "s", "y"),
        (2, "subject_upserted", "s", None),
        (3, "sample_removed", "s", "x"),
        (4, "subject_upserted", "s", None),
        (4, "sample_added", "s", "z"),
        # version 5 made t, which is gone: left out
        (6, "subject_removed", "t", None),
    ]
    subject = changes[0].subject
    assert subject is not None
    assert (subject.id, subject.name, subject.metadata) == ("s", None, {})
    embedding = changes[1].embedding
    assert embedding is not None
    assert embedding.tolist() == [2, 0, 0, 0]


async def test_a_replacement_is_one_version(store: Store) -> None:
    two = [sample(1, id="x"), sample(2, id="y")]
    await store.replace_subject("default", "s", name="S", samples=two, contract=CONTRACT)
    await store.replace_subject(
        "default", "s", name="T", samples=[sample(3, id="x")], contract=CONTRACT
    )
    head, changes = await news(store)
    assert head.version == 2
    assert told(changes) == [
        (1, "subject_upserted", "s", None),
        (1, "sample_added", "s", "x"),  # its id is in use again
        (2, "subject_removed", "s", None),
        (2, "subject_upserted", "s", None),
        (2, "sample_added", "s", "x"),
    ]
    assert changes[-1].embedding is not None
    assert changes[-1].embedding.tolist() == [3, 0, 0, 0]


async def test_an_index_that_follows_never_lacks_who_is_replaced(store: Store) -> None:
    """Both indexes, version by version; ids used again, more and fewer samples than before."""
    await store.create_subject("default", "t", samples=[sample(0, 1)], contract=CONTRACT)
    records = await store.load("default")
    mirror, gallery = Mirror(records), Gallery.of(records)
    for number, ids in enumerate(["x", "xy", "y", "yzx", "z", "z"], 1):
        new = [sample(1, 0, id=name) for name in ids]
        await store.replace_subject(
            "default", "s", name=str(number), samples=new, contract=CONTRACT
        )
        found = await store.changes(
            "default",
            since=mirror.head.version,
            incarnation=mirror.head.incarnation,
            stamp=mirror.head.stamp,
        )
        assert found is not None
        before, after = gallery.snapshot, gallery.apply(*found)
        mirror.apply(found[1])
        mirror.head = found[0]
        assert mirror.state() == Mirror(await store.load("default")).state()
        (matches,) = search(after, vector(1)[None], limit=5)
        assert [(match.subject_id, match.name) for match in matches] == [
            ("s", str(number)),
            ("t", None),
        ]
        assert after.live == len(ids) + 1
        if number > 1:  # who still searches there finds the old subject, whole
            (matches,) = search(before, vector(1)[None], limit=1)
            assert [match.name for match in matches] == [str(number - 1)]


async def test_nothing_new(store: Store) -> None:
    await store.create_subject("default", "s", contract=CONTRACT)
    head, changes = await news(store, since=1)
    assert (head, changes) == (await store.head("default"), [])


async def test_what_is_refused_takes_no_version(store: Store) -> None:
    await store.create_subject("default", "s", samples=[sample(1, id="x")], contract=CONTRACT)
    with pytest.raises(SubjectExists):
        await store.create_subject("default", "s", contract=CONTRACT)
    with pytest.raises(Conflict):
        await store.add_samples("default", "s", [sample(1, id="x")], contract=CONTRACT)
    await store.create_subject("default", "t", contract=CONTRACT)
    _, changes = await news(store)
    assert [version for version, *_ in told(changes)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("limit", "pages"),
    [
        (1, [1, 2, 3]),  # a page never ends inside a version
        (3, [1, 2, 3]),
        (4, [2, 3]),
        (6, [2, 3]),
        (9, [3]),
        (100, [3]),
    ],
)
async def test_pages_end_with_a_version(store: Store, limit: int, pages: list[int]) -> None:
    for name in ("a", "b", "c"):
        two = [sample(1, id=name + "1"), sample(2, id=name + "2")]
        await store.create_subject("default", name, samples=two, contract=CONTRACT)
    reached, seen = [], []
    since = 0
    while since < 3:
        head, changes = await news(store, since, limit)
        since = head.version
        assert head.stamp == await stamp_at(store, since)
        assert head.more == (since < 3)
        reached.append(since)
        seen += told(changes)
    assert reached == pages
    assert seen == told((await news(store))[1])
    assert len(seen) == 9


@pytest.mark.parametrize(
    ("since", "incarnation"),
    [(0, None), (1, None), (4, None), (2, "00000000-0000-0000-0000-000000000000"), (2, "x")],
)
async def test_what_the_log_cannot_tell(store: Store, since: int, incarnation: str | None) -> None:
    """Before its floor, after the newest version, or of another collection of that id."""
    for name in ("a", "b"):
        await store.create_subject("default", name, contract=CONTRACT)
    await store.clear_collection("default")
    head = await store.head("default")
    assert (head.version, head.log_floor) == (3, 3)
    incarnation = incarnation or head.incarnation
    stamp = await stamp_at(store, since)
    assert await store.changes("default", since=since, incarnation=incarnation, stamp=stamp) is None


async def test_a_collection_made_again_has_another_incarnation(store: Store) -> None:
    first = await store.create_collection("c", contract=CONTRACT)
    stamp = (await store.head("c")).stamp
    await store.create_subject("c", samples=[sample(1)], contract=CONTRACT)
    await store.delete_collection("c", force=True)
    second = await store.create_collection("c", contract=CONTRACT)
    assert second.incarnation != first.incarnation
    assert second.version == 0
    for incarnation in (first.incarnation, second.incarnation):
        found = await store.changes("c", since=0, incarnation=incarnation, stamp=stamp)
        assert found is None


async def test_the_log_is_pruned_and_its_floor_rises(store_url: str, store: Store) -> None:
    async with Store.open(store_url, keep_versions=10) as pruning:
        mirror = Mirror(await store.load("default"))
        for n in range(30):
            await pruning.create_subject("default", f"s{n}", contract=CONTRACT)
    head = await store.head("default")
    assert (head.version, head.log_floor) == (30, 20)
    with psycopg.connect(store_url) as connection:
        kept = connection.execute(
            "SELECT min(version), max(version), count(*) FROM facegraph.changes"
        ).fetchone()
    assert kept == (21, 30, 10)
    assert (await news(store, since=20))[0].version == 30
    assert await stamp_at(store, 19) == "gone"
    found = await store.changes("default", since=19, incarnation=head.incarnation, stamp="gone")
    assert found is None
    await mirror.catch_up(store, "default")
    assert mirror.loads == 2
    assert len(mirror.subjects) == 30


async def test_rebinding_the_contract_makes_indexes_load(store: Store) -> None:
    mirror = Mirror(await store.load("default"))
    await store.create_subject("default", "s", contract=CONTRACT)
    other = NewSample(np.array([1, 2, 3], np.float32))
    await store.add_samples("default", "s", [other], contract=OTHER_CONTRACT)
    await mirror.catch_up(store, "default")
    assert mirror.loads == 2
    assert mirror.head.dimension == 3


SUBJECTS = st.sampled_from(["a", "b", "c"])
SAMPLES = st.sampled_from(["x", "y", "z"])
STEPS = st.one_of(
    st.tuples(st.just("create_subject"), SUBJECTS, SAMPLES),
    st.tuples(st.just("append_samples"), SUBJECTS, SAMPLES),
    st.tuples(st.just("replace_subject"), SUBJECTS, SAMPLES),
    st.tuples(st.just("add_samples"), SUBJECTS, SAMPLES),
    st.tuples(st.just("update_subject"), SUBJECTS, SAMPLES),
    st.tuples(st.just("delete_sample"), SUBJECTS, SAMPLES),
    st.tuples(st.just("delete_subject"), SUBJECTS, SAMPLES),
    st.tuples(st.just("catch_up"), SUBJECTS, SAMPLES),
    st.tuples(st.sampled_from(["clear", "recreate"]), SUBJECTS, SAMPLES),
)


async def take(store: Store, step: str, subject: str, name: str, number: int) -> None:
    new = [sample(number, 1, id=name)]
    match step:
        case "create_subject":
            await store.create_subject("w", subject, samples=new, contract=CONTRACT)
        case "append_samples":
            await store.append_samples(
                "w", subject, name=str(number), samples=new, contract=CONTRACT
            )
        case "replace_subject":
            await store.replace_subject(
                "w", subject, name=str(number), samples=new, contract=CONTRACT
            )
        case "add_samples":
            await store.add_samples("w", subject, new, contract=CONTRACT)
        case "update_subject":
            await store.update_subject("w", subject, {"metadata": {"n": number}})
        case "delete_sample":
            await store.delete_sample("w", subject, name)
        case "delete_subject":
            await store.delete_subject("w", subject)
        case "clear":
            await store.clear_collection("w")
        case "recreate":
            await store.delete_collection("w", force=True)
            await store.create_collection("w", contract=CONTRACT)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=25), limit=st.integers(1, 5))
async def test_the_log_leads_where_loading_leads(
    store: Store, steps: list[tuple[str, str, str]], limit: int
) -> None:
    if "w" in await store.heads():
        await store.delete_collection("w", force=True)
    await store.create_collection("w", contract=CONTRACT)
    mirror = Mirror(await store.load("w"))
    for number, (step, subject, name) in enumerate(steps):
        if step == "catch_up":
            await mirror.catch_up(store, "w", limit)
            assert mirror.state() == Mirror(await store.load("w")).state()
            continue
        before = (await store.head("w")).version
        try:
            await take(store, step, subject, name, number)
        except (Conflict, NotFound):
            assert (await store.head("w")).version == before
        else:
            after = (await store.head("w")).version
            assert after == (0 if step == "recreate" else before + 1)
    await mirror.catch_up(store, "w", limit)
    fresh = Mirror(await store.load("w"))
    assert mirror.state() == fresh.state()
    found = await store.get_collection("w")
    assert (found.subject_count, found.sample_count) == (len(fresh.subjects), len(fresh.samples))
