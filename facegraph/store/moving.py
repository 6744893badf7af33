"""The pointer from a database to the one that took its place.

A move commits once, in the old database: that is the whole move. The new database learns of it
from whoever arrives first. Each arrival carries the epoch it was sent with; a database with a
lower epoch was the truth once before, so its own pointer is from an older move and is dropped.
Epochs rise with every hop: following pointers ends, and moving back makes no circle.

Writers hold MOVE_LOCK shared until they commit, the mover holds it exclusively, and every read
takes the pointer in its own snapshot: after a move has committed nobody answers from the old
database.
"""

from __future__ import annotations

from dataclasses import dataclass

from facegraph.store.connecting import MOVE_LOCK, BlockingConnection, Connection

_STATE = "SELECT moved_to, moved_epoch FROM facegraph.database_state"
_IDENTITY = "SELECT database_id::text, epoch FROM facegraph.database_state"
_ARRIVE = """
UPDATE facegraph.database_state SET epoch = %(epoch)s, moved_to = NULL, moved_epoch = NULL
WHERE epoch < %(epoch)s
"""
_POINT = "UPDATE facegraph.database_state SET moved_to = %s, moved_epoch = %s"


@dataclass(frozen=True, slots=True)
class Place:
    """A database, and the epoch with which one is sent there (0: nobody sent us)."""

    url: str
    epoch: int = 0


class Moved(Exception):
    """The truth is at another place; never leaves the store."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


async def arrive(connection: Connection, epoch: int) -> None:
    """Makes this database the truth of ``epoch`` if it is older; raises Moved when it points on."""
    if epoch:
        await connection.execute(_ARRIVE, {"epoch": epoch})
    await require_here(connection)


async def require_here(connection: Connection) -> None:
    """Raises Moved when the truth is elsewhere, as this transaction's snapshot sees it."""
    check_pointer(await (await connection.execute(_STATE)).fetchone())


def require_here_blocking(connection: BlockingConnection) -> None:
    """As :func:`require_here`, for a thread."""
    check_pointer(connection.execute(_STATE).fetchone())


def check_pointer(pointer: tuple[str | None, int | None] | None) -> None:
    """Raises Moved when ``(moved_to, moved_epoch)`` is set."""
    assert pointer is not None  # the migration made the row
    url, epoch = pointer
    if url is not None and epoch is not None:
        raise Moved(Place(url, epoch))


async def lock_for_write(connection: Connection) -> None:
    """Keeps the truth here until this transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [MOVE_LOCK])
    await require_here(connection)


async def lock_for_move(connection: Connection) -> None:
    """Waits for the writers under way and keeps new ones out until this transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [MOVE_LOCK])
    await require_here(connection)


async def identity(connection: Connection) -> tuple[str, int]:
    """What tells this database from any other, and its epoch."""
    row = await (await connection.execute(_IDENTITY)).fetchone()
    assert row is not None
    return row[0], row[1]


async def point(connection: Connection, target: Connection, url: str) -> Place | None:
    """Points this database, locked for a move, at ``target``; None when it is this database."""
    own_id, own_epoch = await identity(connection)
    target_id, target_epoch = await identity(target)
    if own_id == target_id:
        return None
    place = Place(url, max(own_epoch, target_epoch) + 1)
    await connection.execute(_POINT, [place.url, place.epoch])
    return place
