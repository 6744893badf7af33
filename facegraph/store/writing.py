"""One write to a collection: one transaction, one version, its rows in the change log.

The collection's row is updated first. That serialises the writers of a collection, so versions
are dense and in the order of commits (law 3), and the counters in the row are never wrong.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from facegraph.errors import CollectionNotFound, ContractMismatch
from facegraph.store.connecting import Connection
from facegraph.types import Contract

_BEGIN = """
UPDATE facegraph.collections SET version = version + 1, updated_at = now() WHERE id = %s
RETURNING version, log_floor, sample_count, contract_id, keep_crops
"""
_REBIND = """
UPDATE facegraph.collections
SET contract_id = %s, dimension = %s, contract = %s, log_floor = version WHERE id = %s
"""
_LOG = """
INSERT INTO facegraph.changes (collection_id, version, ordinal, kind, subject_id, sample_id)
VALUES (%s, %s, %s, %s, %s, %s)
"""
_COUNT = """
UPDATE facegraph.collections SET subject_count = subject_count + %s,
    sample_count = sample_count + %s, log_floor = greatest(log_floor, %s) WHERE id = %s
"""
# The floor's own stamp stays: an index at the floor can still catch up.
_FORGET = """
WITH gone AS (
    DELETE FROM facegraph.changes WHERE collection_id = %(collection)s AND version <= %(floor)s)
DELETE FROM facegraph.past_versions WHERE collection_id = %(collection)s AND version < %(floor)s
"""


def unknown_collection(collection_id: str) -> CollectionNotFound:
    """The error for a collection that is not there."""
    return CollectionNotFound(f"there is no collection {collection_id!r}")


def contract_json(contract: Contract) -> str:
    """The whole contract, as a collection keeps it."""
    return json.dumps(asdict(contract))


@dataclass(slots=True)
class Write:
    """A write under way; ``subjects`` and ``samples`` are what it adds to the counters."""

    connection: Connection
    collection_id: str
    version: int
    log_floor: int
    sample_count: int
    contract_id: str
    keep_crops: bool
    subjects: int = 0
    samples: int = 0
    _changes: list[tuple[str, str, str | None]] = field(default_factory=list)

    @classmethod
    async def begin(cls, connection: Connection, collection_id: str) -> Write:
        """Takes the next version; CollectionNotFound."""
        row = await (await connection.execute(_BEGIN, [collection_id])).fetchone()
        if row is None:
            raise unknown_collection(collection_id)
        return cls(connection, collection_id, *row)

    async def bind(self, contract: Contract) -> None:
        """Sees that samples of ``contract`` may go in; ContractMismatch.

        An empty collection takes the new contract. Its log then starts here: an index made
        under the old contract, or width, must be made again.
        """
        if contract.id == self.contract_id:
            return
        if self.sample_count:
            raise ContractMismatch(
                f"the collection holds embeddings of {self.contract_id}, these are of {contract.id}"
            )
        await self.connection.execute(
            _REBIND, [contract.id, contract.dimension, contract_json(contract), self.collection_id]
        )
        self.contract_id, self.log_floor = contract.id, self.version

    def log(self, kind: str, subject_id: str, sample_id: str | None = None) -> None:
        """Adds a row to the change log."""
        self._changes.append((kind, subject_id, sample_id))

    async def forget_log(self) -> None:
        """Drops the log up to this write: every index must be made again."""
        await self._forget(self.version)

    async def finish(self, keep_versions: int) -> int:
        """Writes the log and the counters, prunes the log; answers the version."""
        if self._changes:
            rows: list[tuple[Any, ...]] = [
                (self.collection_id, self.version, ordinal, *change)
                for ordinal, change in enumerate(self._changes)
            ]
            await self.connection.cursor().executemany(_LOG, rows)
        # In strides, so that not every write pays for a deletion.
        if self.version - self.log_floor > keep_versions + keep_versions // 64:
            await self._forget(self.version - keep_versions)
        await self.connection.execute(
            _COUNT, [self.subjects, self.samples, self.log_floor, self.collection_id]
        )
        return self.version

    async def _forget(self, floor: int) -> None:
        await self.connection.execute(_FORGET, {"collection": self.collection_id, "floor": floor})
        self.log_floor = floor
