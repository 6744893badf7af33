"""Collections: create, list, read, change, delete."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from facegraph.api.endpoint import Call, NoParams, Params, Reply, endpoint
from facegraph.api.fields import (
    NO_METADATA,
    Cursor,
    Id,
    LongText,
    Metadata,
    PageLimit,
    Text,
    Threshold,
    etag,
    if_match,
)
from facegraph.api.schemas import (
    CollectionAnswer,
    CollectionList,
    IndexedCollection,
    collection_answer,
    indexed_collection,
)
from facegraph.errors import (
    CollectionExists,
    CollectionNotEmpty,
    CollectionNotFound,
    PreconditionFailed,
)
from facegraph.types import SearchMode

Mode = Annotated[
    SearchMode,
    Field(
        description="`exact`: nobody is missed; `approximate`: faster where there are very many, "
        "and now and then somebody is missed; `auto`: exact up to the service's limit of samples."
    ),
]


class NewCollection(Params):
    id: Id | None = None
    name: Text | None = None
    description: LongText | None = None
    metadata: Metadata = NO_METADATA
    threshold: Threshold | None = None
    keep_crops: bool = False
    search_mode: Mode = "auto"


class CollectionChanges(Params):
    name: Text | None = None
    description: LongText | None = None
    metadata: Metadata = NO_METADATA
    threshold: Threshold | None = None
    keep_crops: bool = False
    search_mode: Mode = "auto"


class Paging(Params):
    limit: PageLimit = 50
    cursor: Cursor | None = None


class Deletion(Params):
    force: bool = False


@endpoint(
    "POST",
    "/v1/collections",
    answer=CollectionAnswer,
    params=NewCollection,
    status=201,
    errors=(CollectionExists,),
)
async def create(call: Call[NewCollection]) -> Reply:
    """Create a collection, bound to the active embedding contract."""
    params = call.params
    collection = await call.service.store.create_collection(
        params.id,
        name=params.name,
        description=params.description,
        metadata=params.metadata,
        threshold=params.threshold,
        keep_crops=params.keep_crops,
        search_mode=params.search_mode,
        contract=call.service.contract,
    )
    location = {"location": f"/v1/collections/{collection.id}"}
    return Reply(collection_answer(collection), etag(collection.revision) | location)


@endpoint("GET", "/v1/collections", answer=CollectionList, params=Paging)
async def list_all(call: Call[Paging]) -> CollectionList:
    """Collections in the order of their ids."""
    page = await call.service.store.list_collections(
        limit=call.params.limit, cursor=call.params.cursor
    )
    return {
        "collections": [collection_answer(item) for item in page.items],
        "next_cursor": page.next_cursor,
    }


@endpoint(
    "GET",
    "/v1/collections/{c}",
    answer=IndexedCollection,
    params=NoParams,
    errors=(CollectionNotFound,),
)
async def read(call: Call[NoParams]) -> Reply:
    """One collection, with its counts and version, and how it is searched now.

    `indexes` has an entry for each matcher that has it in memory and answers within a second. An
    approximate one tells its recall: which share of what an exact search finds it finds, measured
    on this collection's own samples.
    """
    collection = await call.service.store.get_collection(call.path["c"])
    galleries = await call.service.graph.galleries(collection.id)
    return Reply(indexed_collection(collection, galleries), etag(collection.revision))


@endpoint(
    "PATCH",
    "/v1/collections/{c}",
    answer=CollectionAnswer,
    params=CollectionChanges,
    errors=(CollectionNotFound, PreconditionFailed),
)
async def change(call: Call[CollectionChanges]) -> Reply:
    """Change the members sent; the others stay. `null` clears. Honours `If-Match`."""
    collection = await call.service.store.update_collection(
        call.path["c"],
        call.params.model_dump(exclude_unset=True),
        if_revision=if_match(call.headers.get("if-match")),
    )
    return Reply(collection_answer(collection), etag(collection.revision))


@endpoint(
    "DELETE",
    "/v1/collections/{c}",
    answer=None,
    params=Deletion,
    status=204,
    errors=(CollectionNotFound, CollectionNotEmpty),
)
async def delete(call: Call[Deletion]) -> None:
    """Delete a collection; one with subjects only with `force=true`."""
    await call.service.store.delete_collection(call.path["c"], force=call.params.force)


ENDPOINTS = (create, list_all, read, change, delete)
