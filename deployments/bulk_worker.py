"""A worker of the bulk enrolment over Ray Data: an actor that makes samples of blocks of items."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from deployments.bulk_reading import COLUMN, pickled, unpickled
from facegraph.api.fetch import url_fetcher
from facegraph.bulk.attempts import attempted
from facegraph.bulk.items import Found
from facegraph.bulk.sampling import Outcome, Rules, Sampler
from facegraph.config import Settings
from facegraph.errors import ConfigError, FacegraphError
from facegraph.local_faces import LocalFaces
from facegraph.models.packs import find_pack


@dataclass(frozen=True, slots=True)
class Given:
    """What a worker is handed; of the settings nothing that is secret.

    contract_id: of the embeddings it must make
    known: a reference to the KnownPhotos, in a list so that Ray leaves it one
    attempts: the actor that keeps :class:`facegraph.bulk.attempts.Attempts`
    """

    settings: Settings
    rules: Rules
    contract_id: str
    known: list[Any]
    attempts: Any


class BulkWorker:
    """An actor of the pool: its own engines, its own event loop."""

    def __init__(self, given: Given) -> None:
        self._loop = asyncio.Runner()
        self._attempts = given.attempts
        self._sampler: Sampler | None = None
        self._refusal: FacegraphError | None = None
        try:
            self._sampler = _sampler(given)
        except FacegraphError as error:  # raised by the first block: so it reaches the driver whole
            self._refusal = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._sampler is None:
            assert self._refusal is not None
            raise self._refusal
        names = [hashlib.sha256(row.as_buffer()).hexdigest() for row in batch.column(COLUMN)]
        blocks = zip(names, unpickled(batch), strict=True)
        return pickled([self._loop.run(self._outcomes(name, found)) for name, found in blocks])

    async def _outcomes(self, name: str, found: Sequence[Found]) -> list[Outcome]:
        assert self._sampler is not None
        return await attempted(self._ask, self._sampler, name, found)

    async def _ask(self, method: str, *values: Any) -> Any:
        return await getattr(self._attempts, method).remote(*values)


def _sampler(given: Given) -> Sampler:
    """ConfigError where this machine's models make other embeddings."""
    import ray

    settings = given.settings
    pack = find_pack(settings)
    if pack.contract.id != given.contract_id:
        raise ConfigError(
            f"a worker's face pack {pack.name} makes embeddings of the contract "
            f"{pack.contract.id}, not {given.contract_id}: its models are other files"
        )
    fetch = url_fetcher(settings.fetch_urls)
    return Sampler(LocalFaces(settings), given.rules, ray.get(given.known[0]), fetch)
