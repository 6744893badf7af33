"""The job that enrols many pictures through the running service: its parameters, its handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegraph import tasks
from facegraph.bulk.enrolling import enrol_outcomes
from facegraph.bulk.items import Fetch, Source
from facegraph.bulk.known import known_photos
from facegraph.bulk.mapping import in_process
from facegraph.bulk.opening import open_path, open_upload
from facegraph.bulk.patterns import PATTERN
from facegraph.bulk.report import BulkReport
from facegraph.bulk.sampling import Rules, Sampler
from facegraph.errors import ConfigError, Forbidden, InvalidRequest
from facegraph.importing.collections import active_collection
from facegraph.jobs import Handler, Work
from facegraph.service import FacePolicy, Service

ENROLMENT = "enrolment"

TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class EnrolmentOptions:
    """What is enrolled, and how.

    path: below the operator's ``bulk_root``; None: the job's input
    """

    collection_id: str
    path: str | None = None
    pattern: str = PATTERN
    face: FacePolicy = "only"
    min_quality: float | None = None
    max_bytes: int = 16 * 2**20


def source_of(options: EnrolmentOptions, root: Path | None, file: BinaryIO) -> Source:
    """The source of a job; Forbidden, and InvalidRequest for one that cannot be read.

    Of this machine it reads only what lies below ``root``, links resolved.
    """
    try:
        if options.path is None:
            return open_upload(file, pattern=options.pattern, max_bytes=options.max_bytes)
        top = None if root is None else root.expanduser().resolve()
        return open_path(
            allowed(options.path, top),
            pattern=options.pattern,
            below=top,
            max_bytes=options.max_bytes,
        )
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None


def check_source(options: EnrolmentOptions, root: Path | None, file: BinaryIO) -> None:
    """As :func:`source_of`, and looks at how it begins: better now than in the job."""
    try:
        source_of(options, root, file).check()
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None


def allowed(path: str, top: Path | None) -> Path:
    """``path`` below ``top``, links resolved; Forbidden, InvalidRequest where nothing is there.

    What lies elsewhere is refused alike, whether it exists or not.
    """
    if top is None:
        raise Forbidden(
            "this service reads no folder of its own: no bulk_root is configured; send a file"
        )
    try:
        real = (top / path).resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself; a NUL
        raise Forbidden("the path must lie below the configured bulk_root") from None
    if not real.is_relative_to(top):
        raise Forbidden("the path must lie below the configured bulk_root")
    if not real.is_file() and not real.is_dir():
        raise InvalidRequest(f"there is no file or folder {path!r} below the configured bulk_root")
    return real


def handlers(service: Service, fetch: Fetch, at_once: Callable[[], int]) -> dict[str, Handler]:
    """Every kind of job with what does it. ``at_once``: pictures the graph has at a time."""

    async def enrolment(work: Work) -> Mapping[str, Any]:
        options = EnrolmentOptions(**work.job.params)
        root = service.settings.bulk_root
        source = await asyncio.to_thread(source_of, options, root, work.input)
        return await _enrol(service, fetch, at_once, source, options, work)

    return {ENROLMENT: enrolment}


async def _enrol(
    service: Service,
    fetch: Fetch,
    at_once: Callable[[], int],
    source: Source,
    options: EnrolmentOptions,
    work: Work,
) -> Mapping[str, Any]:
    store, collection_id = service.store, options.collection_id
    await store.get_collection(collection_id)  # none is made: it was there when the job was
    held = await active_collection(store, collection_id, service.contract)
    rules = Rules(options.face, options.min_quality, held.keep_crops, options.max_bytes)
    known = await known_photos(store, collection_id)
    sampler = Sampler(service.graph, rules, known, fetch)
    report, began = BulkReport(), time.monotonic()
    try:
        total = await asyncio.to_thread(source.count)
        telling = asyncio.create_task(_tell(report, total, work))
        try:
            outcomes = in_process(source, sampler, at_once)
            await enrol_outcomes(outcomes, store, collection_id, service.contract, report)
        finally:
            await tasks.end(telling)
    except ConfigError as error:  # of the source: the client's, here
        raise InvalidRequest(str(error)) from None
    seconds = round(time.monotonic() - began, 3)
    return {"collection_id": collection_id, **report.answer(), "seconds": seconds}


async def _tell(report: BulkReport, total: int, work: Work) -> None:
    """How far it is, once a second."""
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        said = f"{report.read} of {total}, {report.rejected.total()} rejected"
        await work.progress(0.99 * report.read / max(total, report.read, 1), said)
