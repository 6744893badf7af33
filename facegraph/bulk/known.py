"""Which pictures are samples of a collection already."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from facegraph.importing.enrolling import sample_id
from facegraph.store import Store
from facegraph.store.connecting import BlockingConnection

SOURCE = "photo"
"""What the ids of these samples begin with, wherever the picture came from."""

_PREFIX = f"{SOURCE}-"
_DIGEST = np.dtype("S16")
_TIME_TO_READ = "SET LOCAL statement_timeout = '10min'"
_KNOWN = """
SELECT decode(substr(id, %s), 'hex') FROM facegraph.samples
WHERE collection_id = %s AND id ~ %s
"""


def photo_id(subject_id: str, picture: bytes) -> str:
    """The id of the sample that this picture of this subject makes."""
    return sample_id(SOURCE, subject_id, picture)


class KnownPhotos:
    """The ids of samples made of pictures, 16 bytes each.

    A process that is handed it needs no database. It is as of when it was read: the writer looks
    again.
    """

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._sorted: NDArray[np.bytes_] = np.sort(np.fromiter(digests, _DIGEST))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, name: str) -> bool:
        if not len(self._sorted):
            return False
        digest = np.array(bytes.fromhex(name.removeprefix(_PREFIX)), _DIGEST)
        at = int(np.searchsorted(self._sorted, digest))
        return at < len(self._sorted) and bool(self._sorted[at] == digest)


async def known_photos(store: Store, collection_id: str) -> KnownPhotos:
    """Those of a collection; none where there is no such collection."""
    return await store.read_in_thread(partial(_read, collection_id=collection_id))


def _read(connection: BlockingConnection, collection_id: str) -> KnownPhotos:
    connection.execute(_TIME_TO_READ)
    with connection.cursor("photos") as rows:
        rows.itersize = 20_000
        rows.execute(
            _KNOWN, [len(_PREFIX) + 1, collection_id, f"^{_PREFIX}[0-9a-f]{{32}}$"], binary=True
        )
        return KnownPhotos(row[0] for row in rows)
