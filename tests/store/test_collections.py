"""Collections: made, read, listed, changed, deleted; what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest

from facegraph.errors import (
    CollectionExists,
    CollectionNotEmpty,
    CollectionNotFound,
    FacegraphError,
    InvalidRequest,
    PreconditionFailed,
)
from facegraph.store import Store
from tests.store.making import CONTRACT, OTHER_CONTRACT, sample

pytestmark = pytest.mark.store


async def test_a_collection_keeps_what_it_was_made_with(store: Store) -> None:
    made = await store.create_collection(
        "staff",
        name="Staff",
        description="Everybody",
        metadata={"floor": 3, "äöü": ["x", None, 1.5]},
        threshold=0.25,
        keep_crops=True,
        search_mode="exact",
        contract=CONTRACT,
    )
    assert (made.id, made.name, made.description) == ("staff", "Staff", "Everybody")
    assert made.metadata == {"floor": 3, "äöü": ["x", None, 1.5]}
    assert (made.threshold, made.keep_crops, made.search_mode) == (0.25, True, "exact")
    assert (made.contract_id, made.dimension) == (CONTRACT.id, CONTRACT.dimension)
    assert (made.version, made.log_floor, made.revision) == (0, 0, 1)
    assert (made.subject_count, made.sample_count) == (0, 0)
    assert await store.get_collection("staff") == made


async def test_generated_ids_sort_by_age(store: Store) -> None:
    made = [(await store.create_collection(contract=CONTRACT)).id for _ in range(20)]
    assert made == sorted(made)
    assert {(len(name), name[14]) for name in made} == {(36, "7")}


async def test_an_id_in_use_is_refused(store: Store) -> None:
    with pytest.raises(CollectionExists, match="'default'"):
        await store.create_collection("default", contract=CONTRACT)


async def test_default_is_made_once_and_takes_a_new_contract_while_empty(store: Store) -> None:
    first = await store.get_collection("default")
    assert await store.ensure_default(CONTRACT) == first
    rebound = await store.ensure_default(OTHER_CONTRACT)
    assert rebound.contract_id == OTHER_CONTRACT.id
    assert rebound.dimension == OTHER_CONTRACT.dimension
    await store.ensure_default(CONTRACT)
    await store.create_subject("default", samples=[sample(1)], contract=CONTRACT)
    kept = await store.ensure_default(OTHER_CONTRACT)
    assert (kept.contract_id, kept.sample_count) == (CONTRACT.id, 1)


async def test_lists_page_in_bytewise_order(store: Store) -> None:
    names = ["B", "a", "Z", "ä", "b", "default", "0", "_"]
    for name in set(names) - {"default"}:
        await store.create_collection(name, contract=CONTRACT)
    seen, cursor = [], None
    while True:
        page = await store.list_collections(limit=3, cursor=cursor)
        seen.append([item.id for item in page.items])
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [["0", "B", "Z"], ["_", "a", "b"], ["default", "ä"]]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!", "bnVsbA==", "WzFd", "ü", "WyJjb2xsZWN0aW9ucyIsIDFd", "W" * 4000],
)
async def test_a_bad_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await store.list_collections(cursor=cursor)


async def test_a_cursor_of_another_list_is_refused(store: Store) -> None:
    await store.create_collection("b", contract=CONTRACT)
    cursor = (await store.list_collections(limit=1)).next_cursor
    assert cursor is not None
    with pytest.raises(InvalidRequest, match="cursor"):
        await store.list_subjects("default", cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_bounds(store: Store, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        await store.list_collections(limit=limit)


async def test_changes_leave_the_rest(store: Store) -> None:
    await store.create_collection("c", name="n", description="d", contract=CONTRACT)
    assert (await store.head("c")).search_mode == "auto"
    changed = await store.update_collection(
        "c", {"threshold": 0.5, "name": None, "search_mode": "approximate"}
    )
    assert (changed.name, changed.description, changed.threshold) == (None, "d", 0.5)
    assert (changed.revision, changed.version) == (2, 0)
    head = await store.head("c")
    assert (head.threshold, head.search_mode) == (0.5, "approximate")
    assert await store.update_collection("c", {}) == changed


async def test_a_change_of_an_old_revision_is_refused(store: Store) -> None:
    await store.update_collection("default", {"name": "one"}, if_revision=1)
    with pytest.raises(PreconditionFailed, match="revision is 2, not 1"):
        await store.update_collection("default", {"name": "two"}, if_revision=1)
    assert (await store.get_collection("default")).name == "one"


async def test_deleting_needs_force_only_with_subjects(store: Store) -> None:
    await store.create_collection("empty", contract=CONTRACT)
    await store.delete_collection("empty")
    await store.create_collection("full", contract=CONTRACT)
    await store.create_subject("full", "s", samples=[sample(1)], contract=CONTRACT)
    with pytest.raises(CollectionNotEmpty, match="1 subjects"):
        await store.delete_collection("full")
    await store.delete_collection("full", force=True)
    for gone in ("empty", "full"):
        with pytest.raises(CollectionNotFound):
            await store.get_collection(gone)
    assert list(await store.heads()) == ["default"]


async def test_default_comes_back_empty(store: Store) -> None:
    before = await store.get_collection("default")
    await store.create_subject("default", samples=[sample(1)], contract=CONTRACT)
    await store.delete_collection("default", force=True)
    after = await store.get_collection("default")
    assert (after.subject_count, after.version) == (0, 0)
    assert (after.contract_id, after.dimension) == (CONTRACT.id, CONTRACT.dimension)
    assert after.incarnation != before.incarnation


async def test_strangers_are_counted_and_no_number_comes_twice(store: Store) -> None:
    assert [await store.next_stranger("default") for _ in range(3)] == [1, 2, 3]
    await store.clear_collection("default")
    assert await store.next_stranger("default") == 4


MISSING: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("get_collection", ("none",), {}),
    ("update_collection", ("none", {"name": "x"}), {}),
    ("delete_collection", ("none",), {"force": True}),
    ("clear_collection", ("none",), {}),
    ("next_stranger", ("none",), {}),
    ("create_subject", ("none",), {"contract": CONTRACT}),
    ("add_samples", ("none", "s", [sample(1)]), {"contract": CONTRACT}),
    ("append_samples", ("none", "s"), {"samples": [sample(1)], "contract": CONTRACT}),
    ("replace_subject", ("none", "s"), {"samples": [sample(1)], "contract": CONTRACT}),
    ("get_subject", ("none", "s"), {}),
    ("list_subjects", ("none",), {}),
    ("update_subject", ("none", "s", {"name": "x"}), {}),
    ("update_subject", ("none", "s", {}), {}),
    ("delete_subject", ("none", "s"), {}),
    ("list_samples", ("none", "s"), {}),
    ("delete_sample", ("none", "s", "x"), {}),
    ("head", ("none",), {}),
    ("load", ("none",), {}),
    ("changes", ("none",), {"since": 0, "incarnation": "x", "stamp": "x"}),
]


@pytest.mark.parametrize(("method", "given", "named"), MISSING)
async def test_a_collection_that_is_not_there(
    store: Store, method: str, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(CollectionNotFound, match="'none'"):
        await getattr(store, method)(*given, **named)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"collection_id": ""}, "1 to 128"),
        ({"collection_id": "x" * 129}, "1 to 128"),
        ({"collection_id": "a\0b"}, "NUL"),
        ({"collection_id": "a\nb"}, "control"),
        ({"collection_id": "\ud800"}, "surrogates"),
        ({"name": "a\0"}, "NUL"),
        ({"name": "\udfff"}, "surrogates"),
        ({"name": "x" * 4097}, "4096"),
        ({"description": "\0"}, "NUL"),
        ({"metadata": {"a": "\0"}}, "NUL"),
        ({"metadata": {"a\0": 1}}, "NUL"),
        ({"metadata": {"a": "\ud800"}}, "surrogates"),
        ({"metadata": {"a": float("nan")}}, "not JSON"),
        ({"metadata": {"a": float("inf")}}, "not JSON"),
        ({"metadata": {"a": {1, 2}}}, "not JSON"),
        ({"metadata": {"a": "x" * 16_384}}, "at most 16384"),
        ({"metadata": ["a"]}, "object"),
        ({"threshold": 1.5}, "-1 to 1"),
        ({"threshold": float("nan")}, "-1 to 1"),
        ({"search_mode": "fast"}, "auto, exact, approximate"),
        ({"search_mode": None}, "auto, exact, approximate"),
    ],
)
async def test_what_cannot_be_stored(store: Store, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await store.create_collection(**fields, contract=CONTRACT)
    assert len((await store.list_collections()).items) == 1


async def test_metadata_has_a_depth(store: Store) -> None:
    deep: Any = 1
    for _ in range(31):
        deep = [deep]
    made = await store.create_collection("deep", metadata={"a": deep}, contract=CONTRACT)
    assert made.metadata == {"a": deep}
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested deeper than 32"):
        await store.create_collection("deeper", metadata={"a": deep}, contract=CONTRACT)


@pytest.mark.parametrize(
    "text", ["\\u0000", "a\\\\u0000b", "%s %(x)s", "'; DROP TABLE x; --", "\x01", "🙂", "\\"]
)
async def test_odd_text_is_kept_as_it_is(store: Store, text: str) -> None:
    made = await store.create_collection("odd", name=text, metadata={text: text}, contract=CONTRACT)
    assert (made.name, made.metadata) == (text, {text: text})


@pytest.mark.parametrize("field", ["id", "version", "contract_id", "x; --"])
async def test_fields_that_cannot_be_changed(store: Store, field: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be changed"):
        await store.update_collection("default", {field: 1})


@pytest.mark.parametrize("revision", [-1, 2**63, 10**30])
async def test_a_revision_nobody_gave(store: Store, revision: int) -> None:
    with pytest.raises(InvalidRequest, match="revision"):
        await store.update_collection("default", {"name": "x"}, if_revision=revision)


async def test_errors_carry_their_code(store: Store) -> None:
    with pytest.raises(FacegraphError) as raised:
        await store.get_collection("none")
    assert (raised.value.code, raised.value.status) == ("collection_not_found", 404)
