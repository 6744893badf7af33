"""The store: collections, subjects, samples and their change log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

from facegraph.errors import DatabaseError, PreconditionFailed
from facegraph.store import changelog, choices, collections, loading, samples, subjects
from facegraph.store.collections import DEFAULT
from facegraph.store.connecting import BlockingConnection, Connection, connect
from facegraph.store.exclusive import ExclusiveLocks
from facegraph.store.failures import FAILURES, one_line
from facegraph.store.idempotency import Idempotency, Replayed, recall, remember, replay
from facegraph.store.ids import new_id
from facegraph.store.jobqueue import JobQueue
from facegraph.store.link import Heal, Link
from facegraph.store.migrations import migrate
from facegraph.store.opening import Opening
from facegraph.store.recognizers import Recognizers
from facegraph.store.records import Enrolled, Page
from facegraph.store.validation import (
    check_id,
    check_limit,
    check_metadata,
    check_revision,
    check_samples,
    check_search_mode,
    check_text,
    check_threshold,
)
from facegraph.store.writing import Write
from facegraph.types import (
    WHOLE,
    Change,
    Collection,
    Contract,
    GalleryRecords,
    Head,
    NewSample,
    Sample,
    SearchMode,
    Shard,
    Subject,
)

T = TypeVar("T")

LOAD_PATIENCE_S = 300.0
"""A load to which no row comes for so long is tried again on a new connection."""

KEEP_VERSIONS = 65_536
"""So many versions of a collection's log are kept; an index further behind loads anew."""

CHANGES_PER_PAGE = 2_000


class Store:
    """PostgreSQL is the truth (law 1); a write answers after its commit.

    Every method raises StoreUnavailable when the database does not answer, InvalidRequest for
    what cannot be stored, and CollectionNotFound where it names a collection that is not there.
    Used on one event loop. Open it with :meth:`open`.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        on_unavailable: Heal | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        keep_versions: int = KEEP_VERSIONS,
    ) -> None:
        self._link = Link(url, pool_size=pool_size, heal=on_unavailable)
        self._locks = ExclusiveLocks(self._link)
        self.jobs = JobQueue(self._link)
        self.recognizers = Recognizers(self._link)
        self._on_close = on_close
        self._keep_versions = keep_versions

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pool_size: int = 8,
        on_unavailable: Heal | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        keep_versions: int = KEEP_VERSIONS,
    ) -> Opening[Store]:
        """Migrates the database at ``url`` and connects: await it, or use ``async with``.

        ``url``: libpq's URL or keyword=value form; where that database was moved, the store
        follows. ``on_unavailable`` is awaited before a lost connection is tried again.
        ``on_close`` is awaited after the last connection is closed. DatabaseError.
        """

        async def opened() -> Store:
            store = cls(
                url,
                pool_size=pool_size,
                on_unavailable=on_unavailable,
                on_close=on_close,
                keep_versions=keep_versions,
            )
            await store._link.open()
            return store

        return Opening(opened)

    async def close(self) -> None:
        """Closes every connection; calling it again does nothing."""
        await self._link.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            await on_close()

    async def ping(self) -> None:
        """Returns when the database answers."""
        await self._link.read(_ping)

    # Collections

    async def create_collection(
        self,
        collection_id: str | None = None,
        *,
        contract: Contract,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        keep_crops: bool = False,
        search_mode: SearchMode = "auto",
    ) -> Collection:
        """A new, empty collection bound to ``contract``; CollectionExists."""
        return await self._link.write(
            partial(
                collections.insert,
                collection_id=_id_or_new("collection id", collection_id),
                contract=contract,
                name=check_text("name", name),
                description=check_text("description", description),
                metadata=check_metadata(metadata),
                threshold=check_threshold(threshold),
                keep_crops=keep_crops,
                search_mode=check_search_mode(search_mode),
            )
        )

    async def ensure_default(self, contract: Contract) -> Collection:
        """The collection ``default``, made if absent; while empty it takes ``contract``."""
        return await self._link.write(
            partial(collections.ensure, collection_id=DEFAULT, contract=contract)
        )

    async def get_collection(self, collection_id: str) -> Collection:
        check_id("collection id", collection_id)
        return await self._link.read(partial(collections.get, collection_id=collection_id))

    async def list_collections(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> Page[Collection]:
        """Collections in the order of their ids; InvalidRequest for a foreign cursor."""
        check_limit(limit)
        return await self._link.read(partial(collections.listed, limit=limit, cursor=cursor))

    async def update_collection(
        self, collection_id: str, changes: Mapping[str, Any], *, if_revision: int | None = None
    ) -> Collection:
        """Changes name, description, metadata, threshold, keep_crops, search_mode.

        The version stays: galleries hold none of these. PreconditionFailed.
        """
        return await self._link.write(
            partial(
                collections.update,
                collection_id=check_id("collection id", collection_id),
                values=collections.checked_changes(changes),
                if_revision=check_revision(if_revision),
            )
        )

    async def delete_collection(self, collection_id: str, *, force: bool = False) -> None:
        """Deletes it; CollectionNotEmpty unless ``force``. ``default`` comes back, empty."""
        check_id("collection id", collection_id)
        await self._link.write(
            partial(collections.delete, collection_id=collection_id, force=force)
        )

    async def clear_collection(self, collection_id: str) -> int:
        """Erases every subject in one version, which it answers; indexes load anew."""
        return await self._write(collection_id, subjects.clear)

    async def next_stranger(self, collection_id: str) -> int:
        """1, 2, 3 …: never the same number twice, also after a failed enrolment."""
        check_id("collection id", collection_id)
        return await self._link.write(
            partial(collections.next_stranger, collection_id=collection_id)
        )

    def exclusive(
        self, collection_id: str, purpose: str, *, timeout_s: float = 10.0
    ) -> AbstractAsyncContextManager[None]:
        """One task of all processes at a time is inside, for this collection and purpose.

        TimedOut after ``timeout_s``. A holder that is killed, or loses the database, is out.
        """
        return self._locks.hold(f"{collection_id}/{purpose}", timeout_s)

    # Subjects and samples

    async def create_subject(
        self,
        collection_id: str,
        subject_id: str | None = None,
        *,
        contract: Contract,
        name: str | None = None,
        external_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        samples: Sequence[NewSample] = (),
        idempotency: Idempotency | None = None,
        if_version: int | None = None,
    ) -> Enrolled:
        """A new subject with its samples, all in one version.

        SubjectExists, ContractMismatch, Conflict (a sample id, or an idempotency key, is used),
        PreconditionFailed when the collection is no longer at ``if_version``.
        """
        insert = partial(
            subjects.insert,
            subject_id=_id_or_new("subject id", subject_id),
            name=check_text("name", name),
            external_id=check_text("external_id", external_id),
            metadata=check_metadata(metadata),
        )
        return await self._enrol(collection_id, insert, samples, contract, idempotency, if_version)

    async def add_samples(
        self,
        collection_id: str,
        subject_id: str,
        samples: Sequence[NewSample],
        *,
        contract: Contract,
        idempotency: Idempotency | None = None,
    ) -> Enrolled:
        """More samples for a subject, all in one version; SubjectNotFound, ContractMismatch."""
        check_id("subject id", subject_id)
        count = partial(subjects.count_samples, subject_id=subject_id)
        return await self._enrol(collection_id, count, samples, contract, idempotency)

    async def append_samples(
        self,
        collection_id: str,
        subject_id: str,
        *,
        samples: Sequence[NewSample],
        contract: Contract,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Enrolled:
        """Makes the subject or changes its name and metadata, and adds; all in one version."""
        upsert = _subject(subjects.upsert, subject_id, name, metadata)
        return await self._enrol(collection_id, upsert, samples, contract, None)

    async def replace_subject(
        self,
        collection_id: str,
        subject_id: str,
        *,
        samples: Sequence[NewSample],
        contract: Contract,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Enrolled:
        """Makes the subject, or all of it but its external id anew: name, metadata, samples.

        All in one version, so that no search misses it. ContractMismatch, Conflict.
        """
        replace = _subject(subjects.replace, subject_id, name, metadata)
        return await self._enrol(collection_id, replace, samples, contract, None)

    async def recall(self, collection_id: str, token: Idempotency) -> Enrolled | None:
        """What an enrolment under this key was answered; None for a new key, Conflict."""
        check_id("collection id", collection_id)
        return await self._link.read(partial(recall, collection_id=collection_id, token=token))

    async def get_subject(self, collection_id: str, subject_id: str) -> Subject:
        check_id("collection id", collection_id)
        check_id("subject id", subject_id)
        return await self._link.read(
            partial(subjects.get, collection_id=collection_id, subject_id=subject_id)
        )

    async def list_subjects(
        self,
        collection_id: str,
        *,
        limit: int = 50,
        cursor: str | None = None,
        q: str | None = None,
    ) -> Page[Subject]:
        """In the order of their ids; ``q``: id, name or external id contains it, in any case."""
        return await self._link.read(
            partial(
                subjects.listed,
                collection_id=check_id("collection id", collection_id),
                limit=check_limit(limit),
                cursor=cursor,
                q=check_text("q", q),
            )
        )

    async def update_subject(
        self,
        collection_id: str,
        subject_id: str,
        changes: Mapping[str, Any],
        *,
        if_revision: int | None = None,
    ) -> Subject:
        """Changes name, external_id, metadata; SubjectNotFound, PreconditionFailed."""
        check_id("subject id", subject_id)
        check_revision(if_revision)
        values = subjects.checked_changes(changes)
        if not values:
            return await self.get_subject(collection_id, subject_id)

        async def work(write: Write) -> Subject:
            return await subjects.update(write, subject_id, values, if_revision)

        return (await self.write_to(collection_id, work))[0]

    async def delete_subject(self, collection_id: str, subject_id: str) -> int:
        """Erases it with its samples; the version that shows it. SubjectNotFound."""
        check_id("subject id", subject_id)
        return await self._write(collection_id, partial(subjects.delete, subject_id=subject_id))

    async def list_samples(
        self, collection_id: str, subject_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[Sample]:
        """In the order of their ids; SubjectNotFound."""
        return await self._link.read(
            partial(
                samples.listed,
                collection_id=check_id("collection id", collection_id),
                subject_id=check_id("subject id", subject_id),
                limit=check_limit(limit),
                cursor=cursor,
            )
        )

    async def delete_sample(self, collection_id: str, subject_id: str, sample_id: str) -> int:
        """Removes it; the version that shows it. SubjectNotFound, SampleNotFound."""
        check_id("subject id", subject_id)
        check_id("sample id", sample_id)
        return await self._write(
            collection_id,
            partial(samples.delete, subject_id=subject_id, sample_id=sample_id),
        )

    # What an index reads

    async def head(self, collection_id: str) -> Head:
        """Where the collection's history stands."""
        check_id("collection id", collection_id)
        return await self._link.read_statement(
            partial(changelog.head_here, collection_id=collection_id)
        )

    async def heads(self) -> dict[str, Head]:
        """Every collection's head."""
        return await self._link.read_statement(changelog.heads_here)

    async def load(self, collection_id: str, shard: Shard = WHOLE) -> GalleryRecords:
        """The collection, or one shard of it, at one version; rows in no particular order."""
        check_id("collection id", collection_id)
        return await self._link.read_in_thread(
            partial(loading.load, collection_id=collection_id, shard=shard),
            patience_s=LOAD_PATIENCE_S,
        )

    async def changes(
        self,
        collection_id: str,
        *,
        since: int,
        incarnation: str,
        stamp: str,
        shard: Shard = WHOLE,
        limit: int = CHANGES_PER_PAGE,
    ) -> tuple[Head, Sequence[Change]] | None:
        """What happened after version ``since``, oldest first, and the head that leads to.

        That head may lie before the newest one: about ``limit`` changes are answered at a time,
        and never part of a version. None when the log cannot tell that it leads on from the
        version ``since`` that had this ``stamp``: it was pruned, or history took another course,
        in another collection of that id or after an older state was restored. Load anew then.
        """
        check_id("collection id", collection_id)
        return await self._link.read(
            partial(
                changelog.changes,
                collection_id=collection_id,
                since=since,
                incarnation=incarnation,
                stamp=stamp,
                shard=shard,
                limit=limit,
            )
        )

    # What was chosen while the service ran

    async def choice(self, name: str, configured: str) -> str | None:
        """What was chosen for ``name`` while the configuration said ``configured``, or None."""
        return await self._link.read(partial(choices.get, name=name, configured=configured))

    async def drop_outdated_choice(self, name: str, configured: str) -> None:
        """Forgets what was chosen while the configuration said another thing."""
        await self._link.write(partial(choices.drop_outdated, name=name, configured=configured))

    async def choose(self, name: str, value: str, configured: str) -> None:
        """Keeps ``value`` for every process, until the configuration says another thing."""
        await self._link.write(
            partial(
                choices.put,
                name=check_id("choice", name),
                value=check_text("value", value) or "",
                configured=configured,
            )
        )

    # Moving house

    async def move_to(self, url: str, contract: Contract | None = None) -> None:
        """Makes the database at ``url`` the truth for every process, or changes nothing.

        It is migrated and given a collection ``default`` (``contract``: unset, that of the
        present one). Nothing is copied. ``url``, with its password, is kept in the database
        that is left behind. DatabaseError when the new one cannot be used.
        """
        if contract is None:
            contract = await self._link.read(
                partial(collections.contract_of, collection_id=DEFAULT)
            )
        await migrate(url)
        try:
            async with await connect(url) as target:
                await collections.ensure(target, DEFAULT, contract)
        except FAILURES as error:
            raise DatabaseError(f"cannot use the new database: {one_line(error)}") from error
        await self._link.move(url)

    # Work that is defined elsewhere

    async def write_to(
        self, collection_id: str, work: Callable[[Write], Awaitable[T]]
    ) -> tuple[T, int]:
        """Runs ``work`` as one version of the collection; its result and the version."""
        check_id("collection id", collection_id)

        async def transaction(connection: Connection) -> tuple[T, int]:
            write = await Write.begin(connection, collection_id)
            result = await work(write)
            return result, await write.finish(self._keep_versions)

        return await self._link.write(transaction)

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs ``work`` in one consistent snapshot."""
        return await self._link.read(work)

    async def read_in_thread(self, work: Callable[[BlockingConnection], T]) -> T:
        """As :meth:`read`, for work that would hold up the event loop."""
        return await self._link.read_in_thread(lambda connection, _: work(connection))

    async def _write(self, collection_id: str, work: Callable[[Write], Awaitable[None]]) -> int:
        return (await self.write_to(collection_id, work))[1]

    async def _enrol(
        self,
        collection_id: str,
        subject: Callable[..., Awaitable[Subject]],
        new: Sequence[NewSample],
        contract: Contract,
        token: Idempotency | None,
        if_version: int | None = None,
    ) -> Enrolled:
        check_samples(new, contract)

        async def work(write: Write) -> Enrolled:
            await replay(write, token)
            if if_version is not None and write.version != if_version + 1:
                raise PreconditionFailed(f"version is {write.version - 1}, not {if_version}")
            if new:
                await write.bind(contract)
            made = await subject(write, samples=len(new))
            added = await samples.insert(write, made.id, new)
            answer = Enrolled(made, added, write.version)
            return await remember(write, token, answer)

        try:
            return (await self.write_to(collection_id, work))[0]
        except Replayed as before:
            return before.answer


async def _ping(connection: Connection) -> None:
    await connection.execute("SELECT 1")


def _subject(
    write: Callable[..., Awaitable[Subject]],
    subject_id: str,
    name: str | None,
    metadata: Mapping[str, Any] | None,
) -> Callable[..., Awaitable[Subject]]:
    """``write`` with what it is told of the subject, checked."""
    return partial(
        write,
        subject_id=check_id("subject id", subject_id),
        name=check_text("name", name),
        metadata=check_metadata(metadata),
    )


def _id_or_new(kind: str, given: str | None) -> str:
    return new_id() if given is None else check_id(kind, given)
