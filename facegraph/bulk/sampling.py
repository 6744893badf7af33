"""From an item to a sample, or to the reason why it gives none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from facegraph.bulk.items import Fetch, File, Found, Item, Link
from facegraph.bulk.known import KnownPhotos, photo_id
from facegraph.errors import FacegraphError, Unavailable
from facegraph.graph import FaceGraph
from facegraph.importing.enrolling import Entry
from facegraph.importing.pictures import read_below
from facegraph.importing.report import Rejected, Rejection
from facegraph.patience import patiently
from facegraph.service import FacePolicy, sample

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRIES = 8
RETRY_FIRST_S = 0.25
RETRY_MOST_S = 15.0

MAX_FAILURES = 20
"""In a row, after which it is no picture's fault and the enrolment ends."""


@dataclass(frozen=True, slots=True)
class Known:
    """A picture that is a sample of this subject already."""

    subject_id: str


Outcome = Entry | Known | Rejection
"""What became of an item."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of pictures.

    face: `only` rejects a picture of several, `largest` takes the largest
    min_quality: least quality of the face; None takes any and measures nothing
    keep_crops: whether the collection keeps its aligned crops
    max_bytes: largest compressed picture
    """

    face: FacePolicy = "only"
    min_quality: float | None = None
    keep_crops: bool = False
    max_bytes: int = 16 * 2**20


class Sampler:
    """Makes samples of items by ``graph``; as many at a time as it is called at a time."""

    def __init__(self, graph: FaceGraph, rules: Rules, known: KnownPhotos, fetch: Fetch) -> None:
        self._graph = graph
        self._rules = rules
        self._known = known
        self._fetch = fetch
        self._failures = 0

    async def outcomes(self, found: Sequence[Found]) -> list[Outcome]:
        """What becomes of each, in order, all at once."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.outcome(one)) for one in found]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def outcome(self, found: Found) -> Outcome:
        """What fails for no known reason is a rejection too; the last of many in a row is raised.

        Rejections of that kind have the error's own code, `internal` or that of an Unavailable
        which stayed so: asked for again, the picture is looked at again.
        """
        if isinstance(found, Rejection):
            return found
        try:
            outcome = await self._sampled(found)
        except Rejected as why:
            outcome = Rejection(found.person.id, found.where, why.code, why.detail)
        except Exception as error:
            self._failures += 1
            log.exception("no sample was made of %s", found.where)
            if self._failures >= MAX_FAILURES:
                raise _all_fail(error) from error
            return _failed(found, error)
        self._failures = 0
        return outcome

    async def _sampled(self, item: Item) -> Outcome:
        data = await self._read(item.content)
        name = photo_id(item.person.id, data)
        if name in self._known:
            return Known(item.person.id)
        rules = self._rules
        made = await insist(lambda: sample(self._graph, data, rules.face, rules.min_quality))
        if isinstance(made, FacegraphError):
            raise Rejected(made.code, made.detail)
        crop = made.crop if rules.keep_crops else None
        return Entry(item.person, name, replace(made, id=name, crop=crop))

    async def _read(self, content: bytes | File | Link) -> bytes:
        """The picture's bytes; Rejected."""
        most = self._rules.max_bytes
        match content:
            case File(path, below):
                return await asyncio.to_thread(read_below, below, path, most)
            case Link(url):
                return await self._fetched(url)
            case _:
                if len(content) > most:
                    raise Rejected("image_too_large", f"the picture has more than {most} bytes")
                return content

    async def _fetched(self, url: str) -> bytes:
        try:
            return await self._fetch(url, self._rules.max_bytes)
        except FacegraphError as error:
            raise Rejected("url_failed", error.detail) from None


def _failed(item: Item, error: Exception) -> Rejection:
    if isinstance(error, Unavailable):
        return Rejection(item.person.id, item.where, error.code, error.detail)
    said = f"something went wrong ({type(error).__name__}); the log has more"
    return Rejection(item.person.id, item.where, "internal", said)


def _all_fail(error: Exception) -> FacegraphError:
    """An Unavailable as it is, for it may be asked again."""
    if isinstance(error, Unavailable):
        return error
    said = f"{MAX_FAILURES} pictures in a row failed, the last by {type(error).__name__}"
    return FacegraphError(f"{said}; the log has more")


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` answers, if need be when the service is less busy."""
    return await patiently(call, retries=RETRIES, first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S)
