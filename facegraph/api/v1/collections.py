"""Collections: create, list, read, change, delete."""

from __future__ import annotations

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
from facegraph.api.schemas import CollectionAnswer, CollectionList, collection_answer
from facegraph.errors import (
    CollectionExists,
    CollectionNotEmpty,
    CollectionNotFound,
    PreconditionFailed,
)


class NewCollection(Params):
    id: Id | None = None
    name: Text | None = None
    description: LongText | None = None
    metadata: Metadata = NO_METADATA
    threshold: Threshold | None = None
    keep_crops: bool = False


class CollectionChanges(Params):
    name: Text | None = None
    description: LongText | None = None
    metadata: Metadata = NO_METADATA
    threshold: Threshold | None = None
    keep_crops: bool = False


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
    answer=CollectionAnswer,
    params=NoParams,
    errors=(CollectionNotFound,),
)
async def read(call: Call[NoParams]) -> Reply:
    """One collection, with its counts and version."""
    collection = await call.service.store.get_collection(call.path["c"])
    return Reply(collection_answer(collection), etag(collection.revision))


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
