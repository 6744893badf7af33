"""Recognizers: probes in, labels out of models that were trained when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ray import serve

from deployments.arguments import CpuResources
from deployments.engine import Replica
from deployments.startup import DID_NOT_START, reported
from facegraph.config import Settings
from facegraph.errors import DatabaseError, StoreUnavailable
from facegraph.recognizers.predicting import RecognizerWorker
from facegraph.store.database import open_store
from facegraph.types import FloatArray, Recognized

LEAST_CONNECTIONS = 2


class Recognizer(Replica[RecognizerWorker]):
    """Every replica loads what it is asked for; Serve sends a request to one that has its model.

    Models are read from the store when they are loaded: a replica nobody asks has no connection.
    """

    @reported(DID_NOT_START)
    def __init__(self, settings: Settings, resources: CpuResources) -> None:
        most = settings.max_loaded_recognizers
        self._settings = settings.model_copy(update={"database_pool_size": LEAST_CONNECTIONS})
        self._worker = RecognizerWorker(self._read, max_models=most, threads=resources.threads)
        self._hold = holding(most, self._worker.forget)

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        """See :meth:`facegraph.graph.Graph.recognize`."""
        told = await self._worker.recognize(recognizer_id, probes, threshold, margin)
        await self._hold(recognizer_id)
        return told

    async def forget(self, recognizer_id: str) -> None:
        self._worker.forget(recognizer_id)

    async def _read(self, recognizer_id: str) -> bytes:
        try:
            store = await open_store(self._settings)
        except DatabaseError as error:
            raise StoreUnavailable(str(error)) from error
        try:
            return await store.recognizers.model(recognizer_id)
        finally:
            await store.close()


def holding(most: int, let_go: Callable[[str], None]) -> Callable[[str], Awaitable[None]]:
    """Tells Serve of a model that is loaded; ``let_go`` is told of those beyond ``most``.

    Serve's loading is not what loads: it makes room before it knows that there is such a model,
    loads one after the other, and takes what was given up for loaded.
    """

    async def held(recognizer_id: str) -> _Held:
        loop = asyncio.get_running_loop()
        return _Held(partial(loop.call_soon_threadsafe, let_go, recognizer_id))

    tell: Callable[[str], Coroutine[Any, Any, _Held]]
    tell = serve.multiplexed(max_num_models_per_replica=most)(held)

    async def hold(recognizer_id: str) -> None:
        await asyncio.shield(tell(recognizer_id))

    return hold


class _Held:
    """What Serve has of a model. It calls ``__del__`` in a thread, and Python does so again."""

    def __init__(self, let_go: Callable[[], Any]) -> None:
        self._let_go: Callable[[], Any] | None = let_go

    def __del__(self) -> None:
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            with suppress(RuntimeError):  # the loop is closed: all goes
                let_go()


recognizer = serve.deployment(name="recognizer", max_ongoing_requests=64, max_queued_requests=256)(
    Recognizer
)
