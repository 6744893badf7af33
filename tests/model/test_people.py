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


async def enrol(service: Service, name: str, pictures: list[Path]) -> None:
    samples, rejected = await service.samples([p.read_bytes() for p in pictures], "largest")
    assert rejected == []
    await service.store.create_subject("default", name, samples=samples, contract=service.contract)


async def who(service: Service, picture: Path) -> list[tuple[str, str | None]]:
    """Decision and best subject of each face, largest first."""
    embedded = await service.embed(picture.read_bytes())
    found = await service.identify("default", embedded.embeddings)
    return [
        (probe.decision, probe.matches[0].subject_id if probe.matches else None)
        for probe in found.probes
    ]


async def test_everybody_of_the_group_photo_is_found(service: Service) -> None:
    folder = photos.assets("faces", "friends")
    for picture in sorted(folder.glob("*.png")):
        await enrol(service, picture.stem, [picture])
    found = await who(service, photos.GROUP)
    assert sorted(name or "" for _, name in found) == sorted(p.stem for p in folder.glob("*.png"))
    assert {decision for decision, _ in found} == {"match"}


async def test_two_people_are_found_by_their_other_crops_and_in_group_photos(
    service: Service,
) -> None:
    folder = photos.assets("faces", "bbt")
    people = ("amy", "sheldon")
    for name in people:
        await enrol(service, name, sorted((folder / name).glob("*.png"))[:2])
    for name in people:
        for picture in sorted((folder / name).glob("*.png"))[2:]:
            assert (await who(service, picture))[0] == ("match", name), picture.name
    for other in sorted(set(folder.iterdir()) - {folder / name for name in people}):
        for picture in sorted(other.glob("*.png")):
            assert (await who(service, picture))[0] == ("unknown", None), picture.name
    seen = [
        name for photo in sorted(folder.glob("bbt*.jpg")) for _, name in await who(service, photo)
    ]
    assert {name for name in seen if name} == set(people)


async def test_pair_accuracy(service: Service) -> None:
    folder = photos.assets("faces", "bbt")
    people = {
        path.name: [
            (await service.embed(picture.read_bytes(), 1)).embeddings[0]
            for picture in sorted(path.glob("*.png"))
        ]
        for path in sorted(folder.iterdir())
        if path.is_dir()
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
