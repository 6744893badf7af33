"""Subjects and samples: enrolled, read, changed, erased; counters; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from facegraph.errors import (
    Conflict,
    ContractMismatch,
    InvalidRequest,
    PreconditionFailed,
    SampleNotFound,
    SubjectExists,
    SubjectNotFound,
)
from facegraph.store import Store
from facegraph.types import NewSample
from tests.store.making import CONTRACT, OTHER_CONTRACT, sample, vector
from tests.store.mirror import stamp_at

pytestmark = pytest.mark.store


async def counts(store: Store, collection_id: str = "default") -> tuple[int, int, int]:
    """Version, subjects, samples, as the collection's row says."""
    found = await store.get_collection(collection_id)
    return found.version, found.subject_count, found.sample_count


async def test_a_subject_keeps_what_it_was_made_with(store: Store) -> None:
    enrolled = await store.create_subject(
        "default",
        "ada",
        name="Ada",
        external_id="e-1",
        metadata={"born": 1815},
        samples=[
            sample(1, id="one", bbox=(1.5, 2, 3, 4), detection_score=0.75, metadata={"n": 1}),
            sample(0, 1),
        ],
        contract=CONTRACT,
    )
    subject = enrolled.subject
    assert (subject.id, subject.collection_id) == ("ada", "default")
    assert (subject.name, subject.external_id) == ("Ada", "e-1")
    assert (subject.metadata, subject.sample_count) == ({"born": 1815}, 2)
    assert enrolled.version == 1
    first, second = enrolled.samples
    assert (first.id, first.subject_id, first.bbox) == ("one", "ada", (1.5, 2.0, 3.0, 4.0))
    assert (first.detection_score, first.metadata) == (0.75, {"n": 1})
    assert (second.bbox, second.detection_score, second.metadata) == (None, None, {})
    assert await store.get_subject("default", "ada") == subject
    listed = await store.list_samples("default", "ada")
    assert sorted(listed.items, key=lambda s: s.id) == sorted(enrolled.samples, key=lambda s: s.id)
    assert await counts(store) == (1, 1, 2)


async def test_a_subject_without_samples(store: Store) -> None:
    enrolled = await store.create_subject("default", contract=OTHER_CONTRACT)
    assert (enrolled.samples, enrolled.subject.sample_count) == ((), 0)
    assert await counts(store) == (1, 1, 0)


async def test_an_id_in_use_changes_nothing(store: Store) -> None:
    await store.create_subject("default", "s", samples=[sample(1, id="x")], contract=CONTRACT)
    with pytest.raises(SubjectExists):
        await store.create_subject("default", "s", samples=[sample(2)], contract=CONTRACT)
    with pytest.raises(Conflict, match="'x'"):
        await store.create_subject(
            "default", "t", samples=[sample(1), sample(2, id="x")], contract=CONTRACT
        )
    with pytest.raises(SubjectNotFound):
        await store.get_subject("default", "t")
    assert await counts(store) == (1, 1, 1)


async def test_adding_and_removing_samples_counts(store: Store) -> None:
    await store.create_subject("default", "s", samples=[sample(1, id="a")], contract=CONTRACT)
    added = await store.add_samples(
        "default", "s", [sample(2, id="b"), sample(3, id="c")], contract=CONTRACT
    )
    assert (added.version, added.subject.sample_count) == (2, 3)
    assert [made.id for made in added.samples] == ["b", "c"]
    assert await store.delete_sample("default", "s", "b") == 3
    listed = await store.list_samples("default", "s", limit=1)
    assert [made.id for made in listed.items] == ["a"]
    listed = await store.list_samples("default", "s", limit=1, cursor=listed.next_cursor)
    assert ([made.id for made in listed.items], listed.next_cursor) == (["c"], None)
    assert await counts(store) == (3, 1, 2)
    assert await store.delete_subject("default", "s") == 4
    assert await counts(store) == (4, 0, 0)


async def test_appending_makes_or_changes(store: Store) -> None:
    made = await store.append_samples(
        "default", "s", name="A", metadata={"m": 1}, samples=[sample(1)], contract=CONTRACT
    )
    again = await store.append_samples(
        "default", "s", name="B", metadata={"m": 2}, samples=[sample(2)], contract=CONTRACT
    )
    assert (made.version, made.subject.sample_count) == (1, 1)
    assert (again.version, again.subject.sample_count) == (2, 2)
    assert (again.subject.name, again.subject.metadata) == ("B", {"m": 2})
    assert again.subject.created_at == made.subject.created_at
    assert await counts(store) == (2, 1, 2)


async def test_replacing_makes_or_makes_anew(store: Store) -> None:
    made = await store.replace_subject(
        "default",
        "s",
        name="A",
        metadata={"m": 1},
        samples=[sample(1, id="x"), sample(2)],
        contract=CONTRACT,
    )
    assert (made.version, made.subject.sample_count) == (1, 2)
    await store.update_subject("default", "s", {"external_id": "e"})
    again = await store.replace_subject(
        "default", "s", name="B", metadata={"n": 2}, samples=[sample(3, id="x")], contract=CONTRACT
    )
    assert (again.version, again.subject.sample_count) == (3, 1)
    assert (again.subject.name, again.subject.metadata) == ("B", {"n": 2})
    assert (again.subject.external_id, again.subject.revision) == ("e", 3)
    assert again.subject.created_at == made.subject.created_at
    listed = await store.list_samples("default", "s")
    assert [held.id for held in listed.items] == ["x"]
    assert (await store.load("default")).embeddings.tolist() == [[3, 0, 0, 0]]
    assert await counts(store) == (3, 1, 1)
    none = await store.replace_subject("default", "s", samples=[], contract=CONTRACT)
    assert (none.subject.name, none.subject.metadata, none.subject.sample_count) == (None, {}, 0)
    assert await counts(store) == (4, 1, 0)


async def test_a_replacement_that_is_refused_changes_nothing(store: Store) -> None:
    await store.create_subject("default", "t", samples=[sample(1, id="y")], contract=CONTRACT)
    await store.replace_subject(
        "default", "s", name="A", samples=[sample(2, id="x")], contract=CONTRACT
    )
    foreign = NewSample(np.array([1, 0, 0], np.float32))
    with pytest.raises(ContractMismatch):
        await store.replace_subject("default", "s", samples=[foreign], contract=OTHER_CONTRACT)
    for taken in ([sample(3), sample(4, id="y")], [NewSample(np.ones(3, np.float32))]):
        with pytest.raises((Conflict, InvalidRequest)):
            await store.replace_subject("default", "s", samples=taken, contract=CONTRACT)
    assert (await store.get_subject("default", "s")).name == "A"
    assert [held.id for held in (await store.list_samples("default", "s")).items] == ["x"]
    assert await counts(store) == (2, 2, 2)


async def test_changes_leave_the_rest(store: Store) -> None:
    await store.create_subject(
        "default", "s", name="n", external_id="e", metadata={"a": 1}, contract=CONTRACT
    )
    changed = await store.update_subject("default", "s", {"name": "m"}, if_revision=1)
    assert (changed.name, changed.external_id, changed.metadata) == ("m", "e", {"a": 1})
    assert changed.revision == 2
    with pytest.raises(PreconditionFailed):
        await store.update_subject("default", "s", {"name": "x"}, if_revision=1)
    assert (await counts(store))[0] == 2
    assert await store.update_subject("default", "s", {}) == changed


async def test_clearing_erases_all_in_one_version(store: Store) -> None:
    for name in ("a", "b", "c"):
        await store.create_subject("default", name, samples=[sample(1)], contract=CONTRACT)
    assert await store.clear_collection("default") == 4
    assert await counts(store) == (4, 0, 0)
    assert (await store.list_subjects("default")).items == ()


async def test_a_foreign_contract_is_refused_once_samples_are_there(store: Store) -> None:
    other = NewSample(np.array([1, 0, 0], np.float32))
    await store.create_subject("default", "s", samples=[sample(1, id="x")], contract=CONTRACT)
    with pytest.raises(ContractMismatch, match=r"contract-a.*contract-b"):
        await store.add_samples("default", "s", [other], contract=OTHER_CONTRACT)
    await store.delete_sample("default", "s", "x")
    bound = await store.add_samples("default", "s", [other], contract=OTHER_CONTRACT)
    head = await store.head("default")
    assert (head.contract_id, head.dimension) == (OTHER_CONTRACT.id, 3)
    assert head.log_floor == bound.version == head.version
    records = await store.load("default")
    assert records.embeddings.tolist() == [[1, 0, 0]]


BIT_PATTERNS = np.array(
    [
        [0x00000001, 0x807FFFFF, 0x00000000, 0x80000000],  # denormals, both zeros
        [0x7F7FFFFF, 0xFF7FFFFF, 0x3F800001, 0x33D6BF95],  # extremes, one ulp over 1, 1e-7
    ],
    np.uint32,
).view(np.float32)


async def test_embeddings_are_kept_bit_for_bit(store: Store) -> None:
    new = [NewSample(row, id=f"r{n}") for n, row in enumerate(BIT_PATTERNS)]
    await store.create_subject("default", "s", samples=new, contract=CONTRACT)
    records = await store.load("default")
    rows = dict(zip(records.sample_ids, records.embeddings, strict=True))
    head, stamp = records.head, await stamp_at(store, 0)
    news = await store.changes("default", since=0, incarnation=head.incarnation, stamp=stamp)
    assert news is not None
    logged = {change.sample_id: change.embedding for change in news[1] if change.sample_id}
    for n, row in enumerate(BIT_PATTERNS):
        assert rows[f"r{n}"].tobytes() == row.tobytes()
        embedding = logged[f"r{n}"]
        assert embedding is not None
        assert embedding.tobytes() == row.tobytes()


async def test_a_large_embedding_that_moves_out_of_its_row(store: Store) -> None:
    wide = CONTRACT.__class__("wide", "p", "c" * 64, "x", 4096)
    await store.create_collection("wide", contract=wide)
    rows = np.random.default_rng(1).standard_normal((3, 4096)).astype(np.float32)
    new = [NewSample(row, id=str(n)) for n, row in enumerate(rows)]
    await store.create_subject("wide", samples=new, contract=wide)
    records = await store.load("wide")
    order = np.argsort(list(records.sample_ids))
    assert np.array_equal(records.embeddings[order], rows)


@pytest.mark.parametrize(("keep", "kept"), [(True, 112 * 112 * 3), (False, None)])
async def test_crops_are_kept_only_where_asked_for(
    store: Store, store_url: str, keep: bool, kept: int | None
) -> None:
    crop = np.arange(112 * 112 * 3, dtype=np.uint32).astype(np.uint8).reshape(112, 112, 3)
    await store.create_collection("c", keep_crops=keep, contract=CONTRACT)
    await store.create_subject("c", samples=[sample(1, crop=crop)], contract=CONTRACT)
    with psycopg.connect(store_url) as connection:
        stored = connection.execute("SELECT crop FROM facegraph.samples").fetchall()
    assert stored == [(crop.tobytes() if kept else None,)]


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([NewSample(np.zeros(3, np.float32))], r"expected shape \(4,\), got \(3,\)"),
        ([NewSample(np.zeros((1, 4), np.float32))], "shape"),
        ([NewSample(np.zeros(4, np.float64))], "float32"),
        ([NewSample(vector(float("nan")))], "finite"),
        ([NewSample(vector(float("inf")))], "finite"),
        ([sample(1, id="x"), sample(2, id="x")], "twice"),
        ([sample(1, id="a\0")], "NUL"),
        ([sample(1, metadata={"a": "\0"})], "NUL"),
        ([sample(1)] * 1001, "1001 samples"),
    ],
)
async def test_samples_that_cannot_be_stored(
    store: Store, samples: list[NewSample], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await store.create_subject("default", samples=samples, contract=CONTRACT)
    assert await counts(store) == (0, 0, 0)


MISSING: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("get_subject", (), {}),
    ("update_subject", ({"name": "x"},), {}),
    ("update_subject", ({},), {}),
    ("delete_subject", (), {}),
    ("list_samples", (), {}),
    ("delete_sample", ("x",), {}),
    ("add_samples", ([sample(1)],), {"contract": CONTRACT}),
]


@pytest.mark.parametrize(("method", "given", "named"), MISSING)
async def test_a_subject_that_is_not_there(
    store: Store, method: str, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(SubjectNotFound, match="'none'"):
        await getattr(store, method)("default", "none", *given, **named)
    assert await counts(store) == (0, 0, 0)


async def test_a_sample_is_found_under_its_own_subject_only(store: Store) -> None:
    await store.create_subject("default", "a", samples=[sample(1, id="x")], contract=CONTRACT)
    await store.create_subject("default", "b", contract=CONTRACT)
    for subject, sample_id in (("a", "y"), ("b", "x")):
        with pytest.raises(SampleNotFound):
            await store.delete_sample("default", subject, sample_id)
    assert await counts(store) == (2, 2, 1)


@pytest.mark.parametrize(
    ("q", "found"),
    [
        (None, ["ID1", "id2", "x%y", "z_z"]),
        ("id", ["ID1", "id2"]),  # ids, in any case
        ("MÜLL", ["id2"]),  # names, beyond ASCII
        ("e-77", ["z_z"]),  # external ids
        ("%", ["x%y"]),  # signs stand for themselves
        ("_", ["z_z"]),
        ("\\", []),
        ("", ["ID1", "id2", "x%y", "z_z"]),
    ],
)
async def test_q_finds_text(store: Store, q: str | None, found: list[str]) -> None:
    subjects: dict[str, dict[str, Any]] = {
        "ID1": {"name": "Ann"},
        "id2": {"name": "Herr Müller"},
        "x%y": {},
        "z_z": {"external_id": "E-77"},
    }
    for name, more in subjects.items():
        await store.create_subject("default", name, **more, contract=CONTRACT)
    page = await store.list_subjects("default", q=q)
    assert [subject.id for subject in page.items] == found
    first = await store.list_subjects("default", q=q, limit=1)
    assert [subject.id for subject in first.items] == found[:1]
    assert (first.next_cursor is None) == (len(found) < 2)
