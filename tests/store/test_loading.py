"""Loading: every row as it was enrolled, and none where one cannot be read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL

from facegraph.errors import DatabaseError
from facegraph.store import Store, loading
from facegraph.types import Contract, NewSample
from tests.store.making import CONTRACT, sample, vector
from tests.store.mirror import Mirror

pytestmark = pytest.mark.store

DETAILS: list[tuple[str, str | None, dict[str, Any]]] = [
    ("plain", "Ada", {"born": 1815}),
    ("nameless", None, {}),
    ("empty name", "", {"a": None}),
    ("ünïcödé 名前 🙂", '"quoted" \\ \t\n', {"ö": ["🙂", 1.5, {"x": []}]}),
    ("x" * 128, "n" * 4096, {"long": "y" * 16_000}),
    ("nobody's", "without samples", {}),
]


async def test_every_row_as_it_was_enrolled(store: Store) -> None:
    rng = np.random.default_rng(3)
    wanted: dict[str, tuple[str, bytes]] = {}
    for subject_id, name, metadata in DETAILS:
        rows = rng.standard_normal((0 if "'" in subject_id else 9, 4)).astype(np.float32)
        ids = [f"{'ñ' * int(rng.integers(40))}{n}{subject_id}"[:128] for n in range(len(rows))]
        new = [NewSample(row, id=one) for one, row in zip(ids, rows, strict=True)]
        wanted |= {one: (subject_id, row.tobytes()) for one, row in zip(ids, rows, strict=True)}
        await store.create_subject(
            "default", subject_id, name=name, metadata=metadata, samples=new, contract=CONTRACT
        )
    records = await store.load("default")
    mirror = Mirror(records)
    assert mirror.samples == wanted
    assert mirror.subjects == {one: (name, metadata) for one, name, metadata in DETAILS}
    assert records.head == await store.head("default")
    assert records.head.sample_count == len(records.sample_ids) == len(wanted)
    assert records.row_subjects.dtype == np.int32
    assert records.embeddings.dtype == np.float32
    assert records.embeddings.shape == (len(wanted), 4)


async def test_nothing_at_all(store: Store) -> None:
    records = await store.load("default")
    assert (len(records.subject_ids), len(records.sample_ids)) == (0, 0)
    assert (records.row_subjects.shape, records.embeddings.shape) == ((0,), (0, 4))


@pytest.mark.parametrize(
    ("embedding", "why"),
    [
        (b"", "holds 0 bytes"),
        (bytes(12), "holds 12 bytes"),
        (bytes(20), "holds 20 bytes"),
        (bytes(32), "holds 32 bytes"),  # twice as wide as it should be
        (struct.pack(">i", 16) + bytes(16), "holds 20 bytes"),  # ends as a sound row does
        (None, "holds None bytes"),
    ],
)
@pytest.mark.parametrize("others", [0, 3])
async def test_a_row_that_is_no_embedding(
    database_url: str, embedding: bytes | None, why: str, others: int
) -> None:
    async with Store.open(database_url) as store:
        await store.ensure_default(CONTRACT)
        new = [sample(number, id=str(number)) for number in range(others)]
        await store.create_subject("default", "s", samples=new, contract=CONTRACT)
        with psycopg.connect(database_url) as connection:
            connection.execute("ALTER TABLE facegraph.samples ALTER embedding DROP NOT NULL")
            connection.execute(
                "INSERT INTO facegraph.samples (collection_id, id, subject_id, embedding)"
                " VALUES ('default', 'odd', 's', %s)",
                [embedding],
            )
        with pytest.raises(DatabaseError, match=f"sample 'odd' of 'default' {why}.* take 16"):
            await store.load("default")


async def test_a_sample_whose_subject_is_missing(database_url: str) -> None:
    async with Store.open(database_url) as store:
        await store.ensure_default(CONTRACT)
        for name in ("", "first", "second"):
            if name:
                await store.create_subject("default", name, samples=[sample(1)], contract=CONTRACT)
            with psycopg.connect(database_url) as connection:
                connection.execute("SET session_replication_role = replica")
                connection.execute("DELETE FROM facegraph.samples WHERE id = 'orphan'")
                connection.execute(
                    "INSERT INTO facegraph.samples (collection_id, id, subject_id, embedding)"
                    " VALUES ('default', 'orphan', 'gone', %s)",
                    [vector(1).tobytes()],
                )
            with pytest.raises(DatabaseError, match="subjects are missing"):
                await store.load("default")


async def test_two_subjects_of_one_hash_are_hashed_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under an even seed every subject has the hash 0."""
    seeds = iter([2, 4, 5])
    monkeypatch.setattr("secrets.randbits", lambda bits: next(seeds))
    for name in ("_SUBJECTS", "_SAMPLES"):
        text = getattr(loading, name).as_string().replace(", {seed})", ", {seed}) * ({seed} % 2)")
        monkeypatch.setattr(loading, name, SQL(text))
    for number, name in enumerate("abc"):
        new = [sample(number, id=name)]
        await store.create_subject("default", name, samples=new, contract=CONTRACT)
    mirror = Mirror(await store.load("default"))
    assert {one: subject for one, (subject, _) in mirror.samples.items()} == dict(
        zip("abc", "abc", strict=True)
    )
    assert list(seeds) == []


async def test_a_database_of_another_encoding(
    server_url: str, make_database: Callable[[], str]
) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    async with Store.open(make_conninfo(server_url, dbname="latin")) as store:
        await store.ensure_default(CONTRACT)
        await store.create_subject(
            "default", "né", name="Ö", samples=[sample(1, id="ß")], contract=CONTRACT
        )
        mirror = Mirror(await store.load("default"))
        assert mirror.subjects == {"né": ("Ö", {})}
        assert mirror.samples == {"ß": ("né", vector(1).tobytes())}


async def test_wide_rows(store: Store) -> None:
    """Rows of many blocks each, which lie outside their table."""
    wide = Contract("wide", "p", "c" * 64, "x", 8192)
    await store.create_collection("wide", contract=wide)
    rows = np.random.default_rng(1).standard_normal((5, 8192)).astype(np.float32)
    new = [NewSample(row, id=str(n)) for n, row in enumerate(rows)]
    await store.create_subject("wide", samples=new, contract=wide)
    records = await store.load("wide")
    assert np.array_equal(records.embeddings[np.argsort(list(records.sample_ids))], rows)
