"""The collections that imports go into, and the contracts of embeddings made elsewhere."""

from __future__ import annotations

import hashlib
import json

from facegraph.errors import CollectionNotFound, ContractMismatch
from facegraph.store import Store
from facegraph.store.collections import DEFAULT
from facegraph.types import Collection, Contract

UNKNOWN = "unknown"


def contract_of_old(system: str, dimension: int) -> Contract:
    """What vectors of an old system are comparable by: with each other, and with nothing else.

    Neither model nor alignment is known, so no pack's contract ever equals it.
    """
    meaning = json.dumps({"system": system, "dimension": dimension}, sort_keys=True)
    digest = hashlib.sha256(meaning.encode()).hexdigest()
    return named_contract(f"{system}_arcface-{digest[:12]}", dimension, pack=system)


def named_contract(contract_id: str, dimension: int, *, pack: str = UNKNOWN) -> Contract:
    """A contract of which only the name and the dimension are known."""
    return Contract(contract_id, pack, UNKNOWN, UNKNOWN, dimension)


async def own_collection(
    store: Store, collection_id: str, contract: Contract, *, source: str
) -> Collection:
    """A collection for embeddings that no active pack makes; ContractMismatch.

    Made if absent; one that is bound to anything else, even if empty, is left alone, and
    ``default`` is never bound so.
    """
    try:
        held = await store.get_collection(collection_id)
    except CollectionNotFound:
        if collection_id == DEFAULT:
            raise ContractMismatch(
                f"{DEFAULT!r} is for the active face pack; name another collection"
            ) from None
        return await store.create_collection(
            collection_id,
            contract=contract,
            name=f"Imported from {source}",
            description=f"Embeddings made by {source}'s own model, kept as they were. Searches by "
            "the active face pack are refused.",
            metadata={"imported_from": source},
        )
    return _bound(held, contract)


async def active_collection(store: Store, collection_id: str, contract: Contract) -> Collection:
    """A collection for embeddings of the active pack, made if absent; ContractMismatch."""
    try:
        held = await store.get_collection(collection_id)
    except CollectionNotFound:
        if collection_id == DEFAULT:
            return await store.ensure_default(contract)
        return await store.create_collection(collection_id, contract=contract)
    return _bound(held, contract)


def _bound(held: Collection, contract: Contract) -> Collection:
    if (held.contract_id, held.dimension) == (contract.id, contract.dimension):
        return held
    raise ContractMismatch(
        f"the collection {held.id!r} is bound to the contract {held.contract_id} of "
        f"{held.dimension} numbers, these embeddings to {contract.id} of {contract.dimension}; "
        "name another collection, or the pack that the service runs (FACEGRAPH_FACE_PACK, --config)"
    )
