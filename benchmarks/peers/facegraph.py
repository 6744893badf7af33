"""This service: as shipped, or with other settings in the environment."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import post
from benchmarks.loop import random_embeddings
from benchmarks.packs import pack_file
from benchmarks.peers.contender import SAMPLES, Contender, Found, media_type
from benchmarks.pictures import assets, portraits
from benchmarks.processes import Group
from benchmarks.services import call, fill, free_port, running
from facegraph.config import settings_from

SEARCH = "/v1/collections/default/search"

WAYS: dict[str, Mapping[str, str]] = {
    "same engine": {"FACEGRAPH_ENGINE": "onnxruntime"},
    "best engine": {"FACEGRAPH_ENGINE": "auto"},
    "default path": {"FACEGRAPH_ENGINE": "auto"},
}
"""What can be measured of it: with the peers' engine, with its own choice, and the latter on the
HTTP path that Ray takes when it is told nothing."""


@contextmanager
def start(way: str, folder: Path) -> Iterator[Contender]:
    """The service with the portraits' people and a crowd enrolled."""
    group, port = Group(folder), free_port()
    environment = group.environment({**_environment(folder), **WAYS[way]})
    with running(port, fast=way != "default path", environment=environment):
        enrol(port)
        try:
            yield Contender(f"Facegraph, {way}", (port,), group, request, found)
        finally:
            group.thaw()


def enrol(port: int, samples: int = SAMPLES) -> None:
    """The portraits, a subject each, and a random crowd up to ``samples``."""
    people = portraits()
    contract = call(port, "GET", "/v1/system")["contract"]
    fill(port, random_embeddings(samples - len(people), contract["dimension"]))
    for name, path in people.items():
        call(port, "POST", "/v1/collections/default/subjects", {"id": name})
        where = f"/v1/collections/default/subjects/{name}/samples?face=largest"
        headers = {"content-type": media_type(path)}
        url = f"http://127.0.0.1:{port}{where}"
        with urllib.request.urlopen(urllib.request.Request(url, path.read_bytes(), headers)):
            pass


def request(image: bytes, media: str) -> bytes:
    return post(SEARCH, image, media)


def found(body: bytes) -> Found:
    faces = json.loads(body)["faces"]
    who = (face["matches"][0]["subject_id"] for face in faces if face["decision"] == "match")
    return len(faces), frozenset(who)


def _environment(folder: Path) -> dict[str, str]:
    given = {
        **os.environ,
        "FACEGRAPH_MODELS_DIR": str(settings_from().models_path),
        "FACEGRAPH_DATA_DIR": str(folder),
    }
    source = assets()
    return given | ({"FACEGRAPH_FACE_PACK": str(pack_file(folder, source))} if source else {})
