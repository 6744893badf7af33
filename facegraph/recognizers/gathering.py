"""From pictures, or a collection's samples, to embeddings with labels, by the graph itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facegraph.bulk.items import Fetch, Found, Source
from facegraph.bulk.known import KnownPhotos
from facegraph.bulk.mapping import in_process
from facegraph.bulk.opening import open_upload
from facegraph.bulk.report import told
from facegraph.bulk.sampling import Known, Outcome, Rules, Sampler
from facegraph.errors import (
    ConfigError,
    ContractMismatch,
    InvalidRequest,
    InvalidTrainingSet,
    Unavailable,
)
from facegraph.ids import to_old_id
from facegraph.importing.enrolling import Entry, Person
from facegraph.importing.report import Rejection
from facegraph.jobs import Work
from facegraph.recognizers.options import BuildOptions
from facegraph.recognizers.pictures import PictureSource, check_label
from facegraph.recognizers.training_set import Sample
from facegraph.service import Service
from facegraph.store import Origin

PASSING = frozenset((Unavailable.code, *(kind.code for kind in Unavailable.__subclasses__())))
"""Codes of rejections that are no picture's fault."""

INVALID_LABEL = "invalid_label"

MAX_LISTED = 200
"""Rejected pictures that are listed; their number is always told."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A source whose items' persons have labels as ids; who cannot have one is rejected.

    labelled: they have already; else they are subjects' ids, made of old ones
    """

    source: Source
    labelled: bool

    def parts(self) -> Sequence[Source]:
        return [self]

    def items(self) -> Iterator[Found]:
        for found in self.source.items():
            yield self._labelled(found)

    def check(self) -> None:
        self.source.check()

    def count(self) -> int:
        return self.source.count()

    def _labelled(self, found: Found) -> Found:
        subject_id = found.id if isinstance(found, Rejection) else found.person.id
        if self.labelled or subject_id is None:
            return found
        label = to_old_id(subject_id)
        if isinstance(found, Rejection):
            return replace(found, id=label)
        try:
            check_label(label)
        except InvalidRequest as error:
            return Rejection(label, found.where, INVALID_LABEL, error.detail)
        return replace(found, person=Person(label, None, {}))


@dataclass(slots=True)
class Gathered:
    """samples: in any order
    rejected: pictures that gave none, by their codes; rejected_labels: whose they were
    origin: the collection they are from
    """

    samples: list[Sample] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_labels: set[str] = field(default_factory=set)
    listed: list[Rejection] = field(default_factory=list)
    origin: Origin | None = None

    def reject(self, rejection: Rejection) -> None:
        self.rejected[rejection.code] += 1
        if rejection.id is not None:
            self.rejected_labels.add(rejection.id)
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
        source = Labelled(await asyncio.to_thread(_source, options, work), options.labelled)
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
    _require_few(total, options)
    async for outcomes in in_process(source, sampler, at_once):
        for outcome in outcomes:
            read += 1
            _require_few(read, options)
            _add(gathered, outcome)
        await progress(read / max(total, read), f"{read} of {total} pictures")
    return gathered


def _require_few(pictures: int, options: BuildOptions) -> None:
    if pictures > options.max_pictures:
        raise InvalidTrainingSet(f"there are more than {options.max_pictures} pictures")


def _add(gathered: Gathered, outcome: Outcome) -> None:
    """Raises Unavailable for what is no picture's fault: the build begins anew some time."""
    match outcome:
        case Entry(person, name, sample):
            gathered.samples.append(Sample(person.id, name, sample.embedding))
        case Rejection(code=code) if code in PASSING:
            raise Unavailable(outcome.detail)
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
    gathered = Gathered(origin=Origin.of(collection_id, records.head))
    slots = records.row_subjects.tolist()
    for slot, name, row in zip(slots, records.sample_ids, records.embeddings, strict=True):
        sample = Sample(subjects[slot], name, row)
        try:
            check_label(sample.label)
        except InvalidRequest as error:
            gathered.reject(Rejection(sample.label, name, INVALID_LABEL, error.detail))
        else:
            gathered.samples.append(sample)
    return gathered
