"""Labelled people of the shared assets, through the graph in this process with real models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from facegraph.config import IngressTuning, Settings
from facegraph.decisions import similarity
from facegraph.local import LocalGraph
from facegraph.models.packs import find_pack
from facegraph.service import Service
from facegraph.store import open_store
from tests import photos


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """The service over an empty database, with the default pack's models in this process."""
    pack = find_pack(settings)
    async with open_store(settings) as store:
        await store.ensure_default(pack.contract)
        graph = LocalGraph(settings, store)
        await graph.start()
        yield Service(graph, store, settings, IngressTuning(), pack)
        await graph.close()


def in_folder(folder: Path, pattern: str = "*.png") -> list[Path]:
    return sorted(folder.glob(pattern))


def people_in(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each person's folder."""
    return {path.name: in_folder(path) for path in sorted(folder.iterdir()) if path.is_dir()}


def read(pictures: list[Path]) -> list[bytes]:
    return [picture.read_bytes() for picture in pictures]


async def enrol(service: Service, name: str, pictures: list[Path]) -> None:
    samples, rejected = await service.samples(read(pictures), "largest")
    assert rejected == []
    await service.store.create_subject("default", name, samples=samples, contract=service.contract)


async def who(service: Service, picture: Path) -> list[tuple[str, str | None]]:
    """Decision and best subject of each face, largest first."""
    (data,) = read([picture])
    embedded = await service.embed(data)
    found = await service.identify("default", embedded.embeddings)
    return [
        (probe.decision, probe.matches[0].subject_id if probe.matches else None)
        for probe in found.probes
    ]


async def test_everybody_of_the_group_photo_is_found(service: Service) -> None:
    portraits = in_folder(photos.assets("faces", "friends"))
    for portrait in portraits:
        await enrol(service, portrait.stem, [portrait])
    found = await who(service, photos.GROUP)
    assert sorted(name or "" for _, name in found) == [portrait.stem for portrait in portraits]
    assert {decision for decision, _ in found} == {"match"}


async def test_two_people_are_found_by_their_other_crops_and_in_group_photos(
    service: Service,
) -> None:
    pictures = people_in(photos.assets("faces", "bbt"))
    enrolled = ("amy", "sheldon")
    for name in enrolled:
        await enrol(service, name, pictures[name][:2])
    for name in enrolled:
        for picture in pictures[name][2:]:
            assert (await who(service, picture))[0] == ("match", name), picture.name
    for stranger in pictures.keys() - set(enrolled):
        for picture in pictures[stranger]:
            assert (await who(service, picture))[0] == ("unknown", None), picture.name
    groups = in_folder(photos.assets("faces", "bbt"), "bbt*.jpg")
    seen = {name for photo in groups for _, name in await who(service, photo)}
    assert seen == {*enrolled, None}


async def test_pair_accuracy(service: Service) -> None:
    people = {
        name: [(await service.embed(data, 1)).embeddings[0] for data in read(pictures)]
        for name, pictures in people_in(photos.assets("faces", "bbt")).items()
    }
    threshold = service.pack.threshold
    same = [similarity(a, b) for rows in people.values() for a, b in combinations(rows, 2)]
    different = [
        similarity(a, b)
        for one, other in combinations(people.values(), 2)
        for a, b in product(one, other)
    ]
    right = sum(s >= threshold for s in same) + sum(s < threshold for s in different)
    accuracy = right / (len(same) + len(different))
    print(
        f"\nfaces/bbt, {len(same)} same and {len(different)} different pairs at {threshold:g}: "
        f"accuracy {accuracy:.4f}; same at least {min(same):.3f}, "
        f"different at most {max(different):.3f} (mean {np.mean(different):.3f})"
    )
    assert (len(same), len(different)) == (80, 700)
    assert accuracy > 0.98
