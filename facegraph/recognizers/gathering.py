"""From pictures, or a collection's samples, to embeddings with labels, by the graph itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from facegraph.bulk.items import Fetch, Source
from facegraph.bulk.known import KnownPhotos
from facegraph.bulk.mapping import in_process
from facegraph.bulk.opening import open_upload
from facegraph.bulk.report import told
from facegraph.bulk.sampling import Known, Outcome, Rules, Sampler
from facegraph.errors import ConfigError, ContractMismatch, InvalidRequest, InvalidTrainingSet
from facegraph.ids import to_old_id
from facegraph.importing.enrolling import Entry
from facegraph.importing.report import Rejection
from facegraph.jobs import Work
from facegraph.recognizers.options import BuildOptions
from facegraph.recognizers.pictures import PictureSource, check_label
from facegraph.service import Service
from facegraph.types import FloatArray

MAX_LISTED = 200
"""Rejected pictures that are listed; their number is always told."""


@dataclass(slots=True)
class Gathered:
    """samples: (label, a name of the picture's or sample's own, its embedding), in any order
    version: of the collection they are from
    """

    samples: list[tuple[str, str, FloatArray]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    listed: list[Rejection] = field(default_factory=list)
    version: int | None = None

    def reject(self, rejection: Rejection) -> None:
        self.rejected[rejection.code] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(rejection)

    def answer(self) -> dict[str, Any]:
        """What was rejected, as JSON."""
        items = [{**told(one), "label": one.id} for one in self.listed]
        for item in items:
            del item["subject_id"]
        return {
            "count": self.rejected.total(),
            "by_code": dict(self.rejected.most_common()),
            "items": items,
        }


Progress = Callable[[float, str], Awaitable[None]]


async def gather_samples(
    service: Service,
    fetch: Fetch,
    at_once: Callable[[], int],
    options: BuildOptions,
    work: Work,
    progress: Progress,
) -> Gathered:
    """The samples that a build is made of. InvalidTrainingSet for too many, InvalidRequest."""
    if options.collection_id is not None:
        return await _of_collection(service, options.collection_id, options)
    rules = Rules(options.face, options.min_quality, max_bytes=options.max_image_bytes)
    sampler = Sampler(service.graph, rules, KnownPhotos(), fetch)
    try:
        source = await asyncio.to_thread(_source, options, work)
        return await _of_source(source, sampler, at_once, options, progress)
    except ConfigError as error:  # of the source: the client's, here
        raise InvalidRequest(str(error)) from None


def _source(options: BuildOptions, work: Work) -> Source:
    if options.labelled:
        return PictureSource(work.input)
    return open_upload(work.input, pattern=options.pattern, max_bytes=options.max_image_bytes)


async def _of_source(
    source: Source,
    sampler: Sampler,
    at_once: Callable[[], int],
    options: BuildOptions,
    progress: Progress,
) -> Gathered:
    gathered, read = Gathered(), 0
    total = await asyncio.to_thread(source.count)
    async for outcomes in in_process(source, sampler, at_once):
        for outcome in outcomes:
            read += 1
            if read > options.max_pictures:
                raise InvalidTrainingSet(f"more than {options.max_pictures} pictures")
            _add(gathered, outcome, options.labelled)
        await progress(read / max(total, read), f"{read} of {total} pictures")
    return gathered


def _add(gathered: Gathered, outcome: Outcome, labelled: bool) -> None:
    match outcome:
        case Entry(person, name, sample):
            label = person.id if labelled else to_old_id(person.id)
            try:
                check_label(label)
            except InvalidRequest as error:
                gathered.reject(Rejection(label, name, "invalid_label", error.detail))
            else:
                gathered.samples.append((label, name, sample.embedding))
        case Rejection():
            gathered.reject(outcome)
        case Known():
            raise AssertionError("nothing is known before")


async def _of_collection(service: Service, collection_id: str, options: BuildOptions) -> Gathered:
    """All of a collection's samples at one version; a label is a subject's id."""
    held = await service.store.get_collection(collection_id)
    if held.contract_id != options.contract_id:
        raise ContractMismatch(f"the collection is bound to {held.contract_id!r} by now")
    if held.sample_count > options.max_pictures:
        raise InvalidTrainingSet(
            f"the collection has {held.sample_count} samples, {options.max_pictures} are taken"
        )
    records = await service.store.load(collection_id)
    subjects = list(records.subject_ids)
    return Gathered(
        [
            (subjects[slot], name, embedding)
            for slot, name, embedding in zip(
                records.row_subjects.tolist(),
                records.sample_ids,
                records.embeddings,
                strict=True,
            )
        ],
        version=records.head.version,
    )
