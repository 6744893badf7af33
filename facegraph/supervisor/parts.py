"""What must be there before the graph starts: the model files and the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from facegraph.config import Settings
from facegraph.errors import StartupError
from facegraph.models.installing import is_complete, pull
from facegraph.models.packs import find_pack, locate
from facegraph.models.vision_packs import (
    AUTO,
    DEFAULT_SEGMENTER,
    find_segmenter,
    require_known,
)
from facegraph.store.server import EmbeddedServer

BUNDLED = "opencv"
"""The pack that is fetched without being asked for: its licence allows that."""


def face_pack(settings: Settings, say: Callable[[str], None]) -> None:
    """Fetches the bundled pack when it is the one in use and absent, or what an older one lacks.

    Optional files that cannot be had are said and done without.

    Any other absent pack is a ModelMissing that says what to run: better now than when a
    replica looks for it.
    """
    if settings.face_pack == BUNDLED and not is_complete(place := locate(BUNDLED, settings)):
        pull(place, accept_licence=False, given=None, report=say)
    find_pack(settings)


def segmenter(settings: Settings, accepted: Collection[str], say: Callable[[str], None]) -> None:
    """Fetches the default segmenter where one is wanted, none is there and its licence is accepted.

    ``accepted``: names of licences. Masks are not worth a service that does not start: what goes
    wrong here is said, with what to do about it. ConfigError for a model that nobody knows.
    """
    require_known(settings)
    if settings.segmenter not in (AUTO, DEFAULT_SEGMENTER):
        return
    with suppress(StartupError):
        find_segmenter(settings, settings.segmenter)
        return
    place = locate(DEFAULT_SEGMENTER, settings)
    licence = place.spec.licence.name
    command = f"facegraph models pull {DEFAULT_SEGMENTER} --accept-license"
    if not place.spec.licence.permissive and licence not in accepted:
        say(f"no segmenter is installed, so there are no masks; {command} (licence: {licence})")
        return
    say(f"fetching the segmenter {DEFAULT_SEGMENTER}; licence of its weights: {licence}")
    try:
        pull(place, accept_licence=True, given=None, report=say)
    except StartupError as error:
        say(f"going on without masks: {error}; later: {command}")


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
