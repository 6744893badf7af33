"""Who is seen in real videos, by real models; see docs/video.md for the figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegraph.config import DetectorTuning, EmbedderTuning, IngressTuning, MatcherTuning, Settings
from facegraph.matcher import Matcher
from facegraph.models.packs import FacePack, find_pack
from facegraph.service import Service
from facegraph.store import open_store
from facegraph.types import ByteArray
from facegraph.video.searching import VideoSearchOptions, search_video
from facegraph.workers import DetectorWorker, EmbedderWorker
from tests import photos
from tests.fake_film import write_film
from tests.fake_graph import FakeGraph
from tests.model.test_people import enrol, in_folder, people_in

pytestmark = pytest.mark.model

HOPPER = Path(str(resources.files("matplotlib"))) / "mpl-data/sample_data/grace_hopper.jpg"
FPS = 10
PERIOD_S = 0.2
"""Between two sampled frames."""


class FacesGraph(FakeGraph):
    """Real detector, embedder and matcher; the vision models stay fake."""

    def __init__(self, settings: Settings, matcher: Matcher, dimension: int) -> None:
        super().__init__(matcher, dimension)
        self._detector = DetectorWorker(settings, DetectorTuning())
        self._embedder = EmbedderWorker(settings, EmbedderTuning())
        self.detect = self._detector.detect  # type: ignore[method-assign]
        self.embed = self._embedder.embed  # type: ignore[method-assign]

    async def close(self) -> None:
        await self._detector.close()
        await self._embedder.close()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Service]:
    """The service with real faces over an empty collection `default`."""
    pack = find_pack(settings)
    async with open_store(settings) as store, open_store(settings) as records:
        await store.ensure_default(pack.contract)
        matcher = Matcher(records, MatcherTuning())
        await matcher.start()
        graph = FacesGraph(settings, matcher, pack.contract.dimension)
        yield Service(graph, store, settings, IngressTuning(), pack)
        await graph.close()
        await matcher.close()


@pytest.fixture
async def service(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """With the default pack, or with the one that a test names as the parameter."""
    if getattr(request, "param", "opencv") == "opencv":
        request.getfixturevalue("opencv_pack")
    else:
        pack: FacePack = request.getfixturevalue("edgeface_pack")
        (file,) = pack.detector.file.path.parents[1].glob("*.toml")
        settings = settings.model_copy(update={"face_pack": str(file)})
    async with serving(settings) as service:
        yield service


BOTH_PACKS = pytest.mark.parametrize("service", ["opencv", "edgeface"], indirect=True)


async def look(service: Service, video: Path, **options: Any) -> dict[str, Any]:
    async def progress(part: float, words: str) -> None:
        assert 0 <= part <= 1, words

    return await search_video(service, video, VideoSearchOptions("default", **options), progress)


Times = list[tuple[float, float]]


def times_of(answer: dict[str, Any]) -> dict[str, Times]:
    return {
        person["label"]: [(a["start_s"], a["end_s"]) for a in person["appearances"]]
        for person in answer["people"]
    }


def shot(rgb: ByteArray, at: int) -> ByteArray:
    """Frame ``at`` of a slow move over a photo: 480×360, the face about 100 pixels wide."""
    scale = 360 / rgb.shape[0]
    small = photos.resized(rgb, (round(rgb.shape[1] * scale), 360))[:, :440]
    frame = np.full((360, 480, 3), 30, np.uint8)
    frame[:, at : at + small.shape[1]] = small
    return frame


async def test_named_and_unknown_people_of_a_film_with_cuts(
    service: Service, tmp_path: Path
) -> None:
    await enrol(service, "astronaut", [photos.ASTRONAUT])
    await enrol(service, "tom", [photos.PORTRAIT])
    people = [photos.ASTRONAUT, photos.PORTRAIT, HOPPER, photos.ASTRONAUT]
    frames = [shot(photos.pixels(path), at) for path in people for at in range(2 * FPS)]
    answer = await look(service, write_film(tmp_path / "film.mkv", frames, FPS))
    expected = {"astronaut": [(0, 2), (6, 8)], "tom": [(2, 4)], "unknown-1": [(4, 6)]}
    found = times_of(answer)
    assert found.keys() == expected.keys()
    for who, times in expected.items():
        assert np.abs(np.array(found[who]) - times).max() <= PERIOD_S, (who, found[who])
    assert [track["label"] for track in answer["tracks"]] == [
        "astronaut",
        "tom",
        "unknown-1",
        "astronaut",
    ]


# friends_in_video.mp4, seen frame by frame: in each shot who faces the camera, who is seen at its
# edge or from behind, and so may be named or not. Seconds since the first frame.
Shot = tuple[float, float, set[str], set[str]]
SHOTS: list[Shot] = [
    (0.0, 4.34, {"Rachel", "Joey"}, set()),
    (4.34, 11.26, {"Monica", "Chandler"}, set()),
    (11.26, 16.72, {"Phoebe", "Ross"}, {"Joey", "Chandler"}),
    (16.72, 18.85, {"Rachel", "Joey"}, set()),
    (18.85, 23.06, {"Phoebe", "Ross"}, {"Joey", "Chandler"}),
    (23.06, 26.36, {"Monica", "Chandler"}, {"Phoebe"}),
]


def names_by_second(answer: dict[str, Any]) -> tuple[float, float, set[tuple[float, str]]]:
    """Precision and recall of name-seconds, and every wrong name outside a period of a cut."""
    right = wrong = missed = 0
    errors = set()
    named = {p["label"]: p for p in answer["people"] if p["decision"] == "match"}
    for start_s, end_s, must, may in SHOTS:
        for time_s in np.arange(start_s + 0.005, end_s, 0.01).tolist():
            seen = {
                name
                for name, person in named.items()
                if any(a["start_s"] <= time_s < a["end_s"] for a in person["appearances"])
            }
            right, missed = right + len(seen & must), missed + len(must - seen)
            wrong += len(seen - must - may)
            if start_s + PERIOD_S < time_s < end_s - PERIOD_S:
                errors |= {(time_s, name) for name in seen - must - may}
    return right / (right + wrong), right / (right + missed), errors


def cast() -> list[Path]:
    return in_folder(photos.assets("faces", "friends"))


@BOTH_PACKS
async def test_the_cast_is_named(service: Service) -> None:
    video = photos.assets("video", "friends_in_video.mp4")
    for portrait in cast():
        await enrol(service, portrait.stem, [portrait])
    answer = await look(service, video)
    got = names_by_second(answer)
    print(f"\n{answer['model']}: precision {got[0]:.3f}, recall {got[1]:.3f}")
    assert got[2] == set()  # nobody is named where he is not
    assert got[0] > 0.97
    assert got[1] > 0.9
    found = {p["label"] for p in answer["people"] if p["decision"] == "match"}
    assert found == {portrait.stem for portrait in cast()}


async def test_who_is_not_enrolled_gets_no_other_name(service: Service) -> None:
    """The cast but Chandler, among eight people who are not in the video."""
    video = photos.assets("video", "friends_in_video.mp4")
    for portrait in cast():
        if portrait.stem != "Chandler":
            await enrol(service, portrait.stem, [portrait])
    for name, pictures in people_in(photos.assets("faces", "bbt")).items():
        await enrol(service, name, pictures)
    answer = await look(service, video)
    assert names_by_second(answer)[2] == set()
    stranger = max(
        (p for p in answer["people"] if p["decision"] != "match"), key=lambda p: p["seconds"]
    )
    assert stranger["label"] == "unknown-1"  # the first seen of them, and one in both shots
    assert [round(a["start_s"]) for a in stranger["appearances"]] == [4, 23]


@BOTH_PACKS
async def test_nobody_is_named_where_nobody_is_known(service: Service) -> None:
    video = photos.assets("video", "short_hamilton_clip.mp4")
    for portrait in cast():
        await enrol(service, portrait.stem, [portrait])
    for name, pictures in people_in(photos.assets("faces", "bbt")).items():
        await enrol(service, name, pictures)
    answer = await look(service, video)
    assert {person["decision"] for person in answer["people"]} == {"unknown"}
    singer = times_of(answer)["unknown-1"]  # far away at first, then close
    assert np.abs(np.array(singer) - [(0, 0.67), (2.74, 7.04)]).max() <= PERIOD_S
