"""Recognizers, ready and in the making, as ingress and workers use them: ``store.recognizers``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from facegraph.errors import InvalidRequest
from facegraph.store import artefacts, changelog, notifications
from facegraph.store import recognizer_rows as rows
from facegraph.store.artefacts import Artefacts
from facegraph.store.jobqueue import nothing
from facegraph.store.jobs import Also, Parts
from facegraph.store.link import Link
from facegraph.store.records import DueNotification, Origin, Page, Recognizer
from facegraph.store.validation import check_id, check_limit, check_text
from facegraph.types import Job


class Recognizers:
    """Every method raises StoreUnavailable when the database does not answer.

    A recognizer has the id of the job that builds it. Until it is ready it goes with that job.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(
        self,
        params: Mapping[str, Any],
        *,
        parts: Parts = nothing,
        max_open: int,
        max_recognizers: int,
        name: str | None,
        options: Mapping[str, Any],
        contract_id: str,
        collection_id: str | None,
        callback_url: str | None = None,
        callback_secret: str | None = None,
    ) -> Recognizer:
        """A recognizer, queued to be built by a job with ``params`` and that input.

        callback_secret: what a notification to ``callback_url`` is signed with; both or neither
        Overloaded, TooManyRecognizers.
        """
        if (callback_url is None) != (callback_secret is None):
            raise InvalidRequest("callback: expected an address and a secret, or neither")
        new = rows.New(
            check_text("name", name),
            options,
            contract_id,
            None if collection_id is None else check_id("collection id", collection_id),
            check_text("callback_url", callback_url),
            check_text("callback_secret", callback_secret),
        )
        return await self._link.write(
            partial(
                rows.insert,
                new=new,
                params=params,
                parts=parts,
                max_open=max_open,
                max_recognizers=max_recognizers,
            )
        )

    async def get(self, recognizer_id: str) -> Recognizer:
        """RecognizerNotFound where there is none, or no longer."""
        _check(recognizer_id)
        return await self._link.read_statement(partial(rows.get_here, recognizer_id=recognizer_id))

    async def newest(self) -> Recognizer | None:
        """The one that was asked for last; None where there is none."""
        return await self._link.read(rows.newest)

    async def list(
        self, *, limit: int = 50, cursor: str | None = None, label: str | None = None
    ) -> Page[Recognizer]:
        """In the order in which they were made; ``label``: only ready ones that know it.

        Each without ``labels``, ``course``, ``outcome`` and its problem's ``errors``: those may be
        large.
        InvalidRequest for a foreign cursor.
        """
        check_limit(limit)
        label = check_text("label", label)
        return await self._link.read(partial(rows.listed, limit=limit, cursor=cursor, label=label))

    async def delete(self, recognizer_id: str) -> None:
        """Forgets it and its job, and stops who builds it; RecognizerNotFound."""
        _check(recognizer_id)
        await self._link.write(partial(rows.delete, recognizer_id=recognizer_id))

    # The build

    async def publish(self, job: Job, course: Mapping[str, Any]) -> bool:
        """Whether the job is still its worker's; if so, ``course`` is told from now on."""
        return await self._link.write(partial(rows.publish, job=job, course=course))

    def keep(
        self,
        recognizer_id: str,
        *,
        labels: Sequence[str],
        outcome: Mapping[str, Any],
        model: bytes,
        report: bytes,
        origin: Origin | None = None,
    ) -> Also:
        """What makes it ready, to be written in the transaction that finishes its job.

        origin: the collection that it was built from; the outcome's ``collection`` from then on
        RecognizerNotFound when it is called for one that is not being built; Unavailable when
        anything of a label was removed from that collection meanwhile: it must be built anew.
        """
        return Artefacts(recognizer_id, labels, outcome, model, report, origin).put

    # What was built

    async def model(self, recognizer_id: str) -> bytes:
        """The ONNX file, checked; as :meth:`model_pieces`."""
        return await self._whole(recognizer_id, "model")

    async def report(self, recognizer_id: str) -> bytes:
        """The PNG, checked; as :meth:`model_pieces`."""
        return await self._whole(recognizer_id, "report")

    def model_pieces(self, recognizer_id: str) -> AsyncIterator[bytes]:
        """The ONNX file in pieces of a few MiB, each read on its own when it is asked for.

        They end in an error, and before the last, where they are not the whole file as it was
        kept. RecognizerNotFound, RecognizerNotReady, DatabaseError.
        """
        _check(recognizer_id)
        return artefacts.pieces(self._link, recognizer_id, "model")

    async def _whole(self, recognizer_id: str, kind: artefacts.Kind) -> bytes:
        _check(recognizer_id)
        pieces = artefacts.pieces(self._link, recognizer_id, kind)
        return b"".join([piece async for piece in pieces])

    async def present(self, recognizer: Recognizer, labels: Sequence[str]) -> set[str]:
        """Which of its ``labels`` may be told: all, or those nothing was removed of since.

        Where it was built from a collection, these are the subjects of whom the collection's log
        proves that neither they nor any of their samples were removed or replaced since that very
        version. A log that was pruned, a backup restored or a collection made anew proves nothing.
        """
        if recognizer.collection_id is None:
            return set(labels)
        if recognizer.origin is None:
            return set()
        return await self._link.read_statement(
            partial(changelog.untouched, origin=recognizer.origin, subject_ids=labels)
        )

    # Who is to be told

    async def take_notification(self, lease_s: float) -> DueNotification | None:
        """One that is due, counted as an attempt and not due again for ``lease_s``; or None.

        Due is what waits, since the build ended or since its last attempt said so. Who takes it
        and is never heard of delays it: it may be sent twice, but is not forgotten.
        """
        return await self._link.write(partial(notifications.take, lease_s=lease_s))

    async def notified(self, recognizer_id: str) -> None:
        """It was delivered: the secret is forgotten; nothing where the recognizer is gone."""
        _check(recognizer_id)
        await self._link.write(partial(notifications.delivered, recognizer_id=recognizer_id))

    async def not_notified(
        self, recognizer_id: str, problem: str, again_after_s: float | None
    ) -> None:
        """It was not delivered and waits, unless another settled it meanwhile.

        again_after_s: None: given up, and the secret forgotten
        """
        _check(recognizer_id)
        check_text("problem", problem)
        work = partial(notifications.give_up, recognizer_id=recognizer_id, problem=problem)
        if again_after_s is not None:
            work = partial(
                notifications.again,
                recognizer_id=recognizer_id,
                problem=problem,
                after_s=again_after_s,
            )
        await self._link.write(work)


def _check(recognizer_id: str) -> None:
    """InvalidRequest for what is no id, and for a path: somebody may name a file after it."""
    if not {"/", "\\"}.isdisjoint(check_id("recognizer id", recognizer_id)):
        raise InvalidRequest("recognizer id: must not be a path")
