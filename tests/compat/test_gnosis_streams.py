"""gnosis' streams: a real WebRTC peer sends a video track and sees boxes come back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator
from typing import Any

import aioice.ice
import httpx
import numpy as np
import pytest
from aiortc import (
    AudioStreamTrack,
    RTCSessionDescription,
)
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError
from av import VideoFrame
from starlette.applications import Starlette

from facegraph.api.compat.gnosis.streams import close_streams
from facegraph.datasets import Dataset
from facegraph.errors import ModelUnavailable
from facegraph.images import decode
from facegraph.offload import Offload
from facegraph.service import Service
from facegraph.types import ByteArray
from facegraph.video import annotating
from facegraph.video import streams as library
from facegraph.video.annotating import Annotator, Seen
from facegraph.video.streams import Streams
from facegraph.vision.drawing import label_boxes
from tests.compat.gnosis_making import (
    PATIENCE_S,
    FakeCamera,
    FakeFixedFaces,
    Peer,
    frame_of,
    on_loopback,
    pairs,
    redness,
    rgb_of,
)
from tests.fake_graph import embedding_of

__all__ = ["on_loopback"]

pytestmark = pytest.mark.api

WIDTH, HEIGHT = 640, 480
BOX = (200.0, 160.0, 400.0, 360.0)


@pytest.fixture
def graph(service: Service) -> FakeFixedFaces:
    graph = FakeFixedFaces({1: BOX}, service.contract.dimension)
    service.graph = graph  # type: ignore[assignment]
    return graph


@pytest.fixture
async def peer(client: httpx.AsyncClient, app: Starlette) -> AsyncIterator[Peer]:
    peer = Peer(client)
    yield peer
    await peer.connection.close()
    await close_streams(app)


def running(app: Starlette) -> Streams:
    streams: Streams = app.state.gnosis_streams
    return streams


async def ended(app: Starlette) -> None:
    """Until no stream is left."""
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*running(app).tasks)
    assert running(app).tasks == ()


def grey() -> FakeCamera:
    return FakeCamera(np.full((HEIGHT, WIDTH, 3), 128, np.uint8))


def has_box(rgb: ByteArray, size: int = 1) -> bool:
    """Whether the box and its label are there and nothing else; ``size`` times as large."""
    left, top, right, bottom = (int(side) * size for side in BOX)
    x, y = (left + right) // 2, (top + bottom) // 2
    lines = (
        redness(rgb, left - 2, y, left + 3, y + 8),
        redness(rgb, right - 3, y, right + 2, y + 8),
        redness(rgb, x, bottom - 3, x + 8, bottom + 2),
    )
    label = redness(rgb, left, top - 12, left + 6, top - 4)
    within = redness(rgb, left + 16, top + 16, right - 16, bottom - 16)
    beside = redness(rgb, right + 16, 0, rgb.shape[1], rgb.shape[0])
    return min(lines) > 40 and label > 100 and max(within, beside) < 20


@pytest.mark.parametrize("root", ["", "/compat/gnosis"])
async def test_boxes_come_back(
    app: Starlette, graph: FakeFixedFaces, peer: Peer, root: str
) -> None:
    response = await peer.call(f"{root}/detector/stream", grey())
    assert response.status_code == 200
    assert list(response.json()) == ["sdp", "type"]
    assert response.json()["type"] == "answer"
    frames = [await peer.frame() for _ in range(5)]
    assert [(frame.width, frame.height) for frame in frames] == [(WIDTH, HEIGHT)] * 5
    assert frames == sorted(frames, key=lambda frame: frame.pts or 0)
    for frame in frames:
        assert has_box(rgb_of(frame))
    assert decode(graph.pictures[0], max_pixels=WIDTH * HEIGHT).shape == (HEIGHT, WIDTH, 3)
    assert len(running(app).tasks) == 1


async def test_a_dataset_names_and_is_not_kept(
    app: Starlette, service: Service, graph: FakeFixedFaces, peer: Peer, monkeypatch: Any
) -> None:
    drawn: list[list[str]] = []

    def noted(rgb: ByteArray, boxes: Any, texts: list[str]) -> ByteArray:
        drawn.append(texts)
        return label_boxes(rgb, boxes, texts)

    monkeypatch.setattr(annotating, "label_boxes", noted)
    dataset = pairs(("Ann", embedding_of(1, service.contract.dimension)))
    response = await peer.call("/recognizer/stream", grey(), dataset=("dataset.json", dataset))
    assert response.status_code == 200
    assert has_box(rgb_of(await peer.frame()))
    assert drawn[0] == ["Ann"]

    await peer.connection.close()
    await ended(app)
    gc.collect()
    assert [kept for kept in gc.get_objects() if type(kept) is Dataset] == []


async def test_two_streams_have_their_own_datasets(
    app: Starlette, service: Service, graph: FakeFixedFaces, client: httpx.AsyncClient
) -> None:
    """Beside each other, on one face."""
    asked = []

    def best(self: Dataset, probe: Any) -> tuple[str, float]:
        asked.append(self.labels[0])
        return self.labels[0], 1.0

    peers = {name: Peer(client) for name in ("Ann", "Eve")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "best", best)
        for name, peer in peers.items():
            dataset = pairs((name, embedding_of(1, service.contract.dimension)))
            await peer.call("/recognizer/stream", grey(), dataset=("dataset.json", dataset))
        for peer in peers.values():
            await peer.frame()
    assert set(asked) == {"Ann", "Eve"}
    assert len(running(app).tasks) == 2
    for peer in peers.values():
        await peer.connection.close()
    await ended(app)


async def test_frames_go_on_where_looking_fails(
    app: Starlette, graph: FakeFixedFaces, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    graph.failing = ModelUnavailable("no model")
    await peer.call("/detector/stream", grey())
    for _ in range(3):
        frame = rgb_of(await peer.frame())
        assert redness(frame, 0, 0, WIDTH, HEIGHT) < 20
    said = [record.message for record in caplog.records if "without boxes" in record.message]
    assert said == ["a stream goes on without boxes: no model"]
    graph.failing = None
    for _ in range(200):
        if has_box(rgb_of(await peer.frame())):
            return
    pytest.fail("no box came back")


async def test_sound_is_refused_and_pictures_go_on(
    app: Starlette, graph: FakeFixedFaces, peer: Peer
) -> None:
    response = await peer.call("/detector/stream", AudioStreamTrack(), grey())
    assert response.status_code == 200
    sections = response.json()["sdp"].split("m=")[1:]
    directions = {part.split()[0]: "a=inactive" in part for part in sections}
    assert directions == {"audio": True, "video": False}
    assert has_box(rgb_of(await peer.frame()))


async def test_a_second_camera_is_off(graph: FakeFixedFaces, peer: Peer) -> None:
    response = await peer.call("/detector/stream", grey(), grey())
    first, second = response.json()["sdp"].split("m=")[1:]
    assert ("a=sendrecv" in first, "a=inactive" in second) == (True, True)


async def test_one_section_for_each_way(graph: FakeFixedFaces, peer: Peer) -> None:
    peer.connection.addTransceiver(grey(), "sendonly")
    peer.connection.addTransceiver("video", "recvonly")
    await peer.connection.setLocalDescription(await peer.connection.createOffer())
    offer = peer.connection.localDescription
    response = await peer.client.post(
        "/detector/stream", data={"sdp": offer.sdp, "sdp_type": "offer"}
    )
    await peer.connection.setRemoteDescription(RTCSessionDescription(**response.json()))
    track = peer.connection.getTransceivers()[1].receiver.track
    frame = await asyncio.wait_for(track.recv(), PATIENCE_S)
    assert isinstance(frame, VideoFrame)
    assert has_box(rgb_of(frame))


async def test_a_peer_that_goes_leaves_nothing(
    app: Starlette, graph: FakeFixedFaces, peer: Peer
) -> None:
    before = asyncio.all_tasks()
    await peer.call("/detector/stream", grey())
    await peer.frame()
    await peer.connection.close()
    await ended(app)
    async with asyncio.timeout(PATIENCE_S):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


async def test_shutting_down_ends_streams(
    app: Starlette, graph: FakeFixedFaces, peer: Peer
) -> None:
    await peer.call("/detector/stream", grey())
    await peer.frame()
    await close_streams(app)
    assert running(app).tasks == ()
    (track,) = peer.tracks
    async with asyncio.timeout(PATIENCE_S):
        while track.readyState == "live":  # frames still on their way
            with contextlib.suppress(MediaStreamError):
                await track.recv()


async def test_streams_that_have_not_begun_can_be_closed(app: Starlette) -> None:
    await close_streams(app)
    assert not hasattr(app.state, "gnosis_streams")


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"connect_timeout_s": 0}, "nobody came"),
        ({"connect_timeout_s": 60, "max_duration_s": 0}, "it has lasted long enough"),
    ],
)
async def test_a_stream_does_not_last_for_ever(
    app: Starlette, graph: FakeFixedFaces, peer: Peer, service: Service, limits: Any, why: str
) -> None:
    app.state.gnosis_streams = Streams(service.pixels, **limits)
    assert (await peer.call("/detector/stream", grey())).status_code == 200
    await ended(app)


async def test_so_many_streams_and_no_more(
    app: Starlette, graph: FakeFixedFaces, client: httpx.AsyncClient, peer: Peer, service: Service
) -> None:
    app.state.gnosis_streams = Streams(service.pixels, most=1)
    await peer.call("/detector/stream", grey())
    other = Peer(client)
    response = await other.call("/detector/stream", grey())
    assert response.status_code == 503
    assert response.json() == {"error": "1 streams are running"}
    assert response.headers["retry-after"] == "1"
    await other.connection.close()

    await peer.connection.close()
    await ended(app)
    third = Peer(client)
    assert (await third.call("/detector/stream", grey())).status_code == 200
    await third.connection.close()


GOOD = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
VIDEO = (
    "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na={direction}\r\n"
    "a=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=setup:actpass\r\n"
    "a=fingerprint:sha-256 " + ":".join(["00"] * 32) + "\r\na=rtpmap:96 {codec}/90000\r\n"
)


def video(direction: str = "sendrecv", mid: str = "0", codec: str = "VP8") -> str:
    return VIDEO.format(direction=direction, mid=mid, codec=codec)


@pytest.mark.parametrize(
    ("sdp", "kind", "said", "why"),
    [
        ("nonsense", "offer", "", "no SDP"),
        (GOOD, "offer", "must send a video track", "nothing is offered"),
        (GOOD + video(), "answer", "sdp_type", "no offer"),
        (GOOD + video(), "rollback", "sdp_type", "no offer"),
        (GOOD + video("sendonly"), "offer", "receive one", "nothing could come back"),
        (GOOD + video("recvonly"), "offer", "must send", "nothing would come"),
        (GOOD + video("inactive"), "offer", "must send", "neither"),
        (GOOD + video(codec="AV9"), "offer", "cannot be answered", "an unknown codec"),
        (GOOD + video().replace("a=rtcp-mux\r\n", ""), "offer", "RTCP mux", "old WebRTC"),
        (GOOD + video().replace("ice-pwd", "ice-x"), "offer", "ICE", "no credentials"),
        (GOOD + video() * 2, "offer", "cannot be answered", "one mid for two sections"),
        (GOOD + video() * 9, "offer", "8 media sections", "many sockets"),
        ("v=0\r\n" + "a=x\r\n" * 20_000, "offer", "65536 characters", "a long one"),
        (GOOD + "m=text 9 x 0\r\n" + video(), "offer", "cannot be answered", "another kind"),
    ],
)
async def test_bad_offers(
    app: Starlette, client: httpx.AsyncClient, sdp: str, kind: str, said: str, why: str
) -> None:
    response = await client.post("/detector/stream", data={"sdp": sdp, "sdp_type": kind})
    assert response.status_code == 400, (why, response.text)
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]
    assert "Traceback" not in response.text
    if hasattr(app.state, "gnosis_streams"):
        assert running(app).tasks == ()


async def test_a_bad_dataset_opens_no_stream(
    app: Starlette, graph: FakeFixedFaces, client: httpx.AsyncClient
) -> None:
    response = await client.post(
        "/recognizer/stream",
        data={"sdp": GOOD + video(), "sdp_type": "offer"},
        files={"dataset": ("d.json", b'[["ann", "1,2"]]')},
    )
    assert response.status_code == 400
    assert "2 numbers" in response.json()["error"]
    assert not hasattr(app.state, "gnosis_streams")


@pytest.fixture
def without_aiortc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiortc", None)


async def test_without_the_extra(client: httpx.AsyncClient, without_aiortc: None) -> None:
    response = await client.post(
        "/detector/stream", data={"sdp": GOOD + video(), "sdp_type": "offer"}
    )
    assert response.status_code == 501
    assert "pip install -e '.[streams]'" in response.json()["error"]


async def test_no_stun_server_is_asked(
    graph: FakeFixedFaces, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[aioice.ice.Connection] = []
    begin = aioice.ice.Connection.__init__

    def noted(self: Any, *args: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *args, **options)

    monkeypatch.setattr(aioice.ice.Connection, "__init__", noted)
    response = await peer.call("/detector/stream", grey())
    assert made
    assert {(one.stun_server, one.turn_server) for one in made} == {(None, None)}
    candidates = [line for line in response.json()["sdp"].splitlines() if "candidate:" in line]
    assert candidates
    assert all(line.endswith("typ host") for line in candidates)


async def test_a_peer_that_hides_its_addresses(
    app: Starlette, graph: FakeFixedFaces, peer: Peer
) -> None:
    """As browsers do, with names that only a multicast resolves: it is met when it comes."""
    offer = await peer.offer(grey())
    hidden = offer["sdp"].replace(" 127.0.0.1 ", " 0f1e2d3c-hidden.local ")
    assert hidden != offer["sdp"]
    response = await peer.client.post("/detector/stream", data=offer | {"sdp": hidden})
    await peer.connection.setRemoteDescription(RTCSessionDescription(**response.json()))
    assert has_box(rgb_of(await peer.frame()))


def test_an_offer_has_so_many_addresses_and_no_more() -> None:
    lines = [f"a=candidate:{at} 1 udp 1 10.0.0.{at} 9 typ host" for at in range(100)]
    hidden = "a=candidate:x 1 udp 1 secret.local 9 typ host"
    kept = library._bounded("\r\n".join(["v=0", hidden, *lines, "a=end-of-candidates"]))
    assert kept.splitlines() == ["v=0", *lines[: library.MAX_CANDIDATES]]


async def test_a_large_frame_is_looked_at_shrunk() -> None:
    looked: list[ByteArray] = []

    async def look(picture: bytes) -> Seen:
        looked.append(decode(picture, max_pixels=WIDTH * HEIGHT * 4))
        return Seen(np.array([BOX], np.float32), ["0"])

    frame = frame_of(np.full((960 * 2, 1280 * 2, 3), 128, np.uint8))
    frame.pts, frame.time_base = 4711, VIDEO_TIME_BASE
    drawn = await Annotator(look, Offload())(frame)
    assert looked[0].shape == (960, 1280, 3)
    assert np.abs(looked[0].astype(int) - 128).max() <= 2
    assert (drawn.width, drawn.height) == (2560, 1920)
    assert (drawn.pts, drawn.time_base) == (4711, VIDEO_TIME_BASE)
    assert has_box(rgb_of(drawn), size=2)


async def test_an_enormous_frame_goes_back_as_it_came() -> None:
    async def look(picture: bytes) -> Seen:
        raise AssertionError("not to be looked at")

    frame = VideoFrame(4096, 2304, "yuv420p")
    assert await Annotator(look, Offload())(frame) is frame


async def test_only_the_newest_frame_waits() -> None:
    stream = library._Stream(Annotator(never, Offload()))
    frames = [VideoFrame(64, 64, "yuv420p") for _ in range(100)]
    for frame in frames:
        stream._put(frame)
    assert stream._newest.qsize() == 1
    assert stream._newest.get_nowait() is frames[-1]
    await stream._peer.close()


async def never(picture: bytes) -> Seen:
    raise AssertionError


async def test_a_request_given_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when ``request_timeout_s`` is over while an offer is being answered."""
    begun: asyncio.Queue[library._Stream] = asyncio.Queue()

    async def hanging(self: library._Stream, offer: str) -> str:
        begun.put_nowait(self)
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(library._Stream, "_negotiate", hanging)
    streams = Streams(Offload(), most=1)
    for _ in range(2):  # the second finds its place free again
        opening = asyncio.create_task(streams.open(GOOD + video(), never))
        stream = await begun.get()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert stream._peer.signalingState == "closed"
    assert streams.tasks == ()
