"""The store: PostgreSQL as the only truth (law 1), embedded or external.

    async with open_store(settings) as store:          # or: store = await open_store(settings)
        await store.ensure_default(contract)
        enrolled = await store.create_subject("default", name="Ada", samples=[...],
                                              contract=contract)
        head = await store.head("default")             # head.version >= enrolled.version

Reading for an index: ``heads()``, ``head(c)``, ``load(c)`` and
``changes(c, since=, incarnation=, stamp=)``; the last two also for a shard.
``EmbeddedServer(data_path).hold()`` and ``.release()`` keep the embedded server running for a
process that opens no store.
"""

from facegraph.store.database import open_store
from facegraph.store.idempotency import Idempotency
from facegraph.store.records import (
    DueNotification,
    Enrolled,
    Notification,
    Origin,
    Page,
    Recognizer,
)
from facegraph.store.server import EmbeddedServer
from facegraph.store.store import Store

__all__ = [
    "DueNotification",
    "EmbeddedServer",
    "Enrolled",
    "Idempotency",
    "Notification",
    "Origin",
    "Page",
    "Recognizer",
    "Store",
    "open_store",
]
