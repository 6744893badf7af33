"""What must be there before the graph starts: the model files and the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facegraph.config import Settings
from facegraph.models.installing import is_installed, pull
from facegraph.models.packs import find_pack, locate
from facegraph.store.server import EmbeddedServer

BUNDLED = "opencv"
"""The pack that is fetched without being asked for: its licence allows that."""


def face_pack(settings: Settings, say: Callable[[str], None]) -> None:
    """Fetches the bundled pack when it is the one in use and absent.

    Any other absent pack is a ModelMissing that says what to run: better now than when a
    replica looks for it.
    """
    if settings.face_pack == BUNDLED and not is_installed(place := locate(BUNDLED, settings)):
        pull(place, accept_licence=False, given=None, report=say)
    find_pack(settings)


@contextmanager
def database(settings: Settings) -> Iterator[None]:
    """Keeps the embedded server running meanwhile, unless an external one is named.

    The deployments would start it themselves; held from here, it does not end and start again
    when they are replaced.
    """
    if settings.database_url is not None:
        yield
        return
    server = EmbeddedServer(settings.data_path)
    try:
        server.hold()
        yield
    finally:
        server.release()
