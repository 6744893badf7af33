"""Those measured beside this service: one module each, which starts it, enrols, asks and checks.

None of their code is here. A peer is given as ``name=where``, where ``where`` is a folder that its
module's docstring tells how to prepare, or the URLs (with commas) of servers that run already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.peers import deepface, insightface_rest, insightface_server
from benchmarks.peers.contender import Contender

Start = Callable[[str, Path], AbstractContextManager[Contender]]

PEERS: dict[str, Start] = {
    "insightface-rest": insightface_rest.start,
    "insightface-server": insightface_server.start,
    "deepface": deepface.start,
}


@contextmanager
def peer(given: str, folder: Path) -> Iterator[Contender]:
    """The peer that ``name=where`` tells, ready and with everybody enrolled."""
    name, _, where = given.partition("=")
    if name not in PEERS or not where:
        raise SystemExit(f"{given!r}: name=where, with a name of {', '.join(PEERS)}")
    own = folder / name
    own.mkdir()
    with PEERS[name](where, own) as contender:
        yield contender
