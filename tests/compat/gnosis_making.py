"""What the tests of gnosis' dialect share: a fake graph, datasets, a WebRTC peer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aioice.ice
import httpx
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from av import VideoFrame

from facegraph.errors import FacegraphError
from facegraph.images import decode
from facegraph.types import CROP_SIZE, ByteArray, Detection, Faces, FloatArray
from tests.fake_graph import embedding_of

PATIENCE_S = 60
"""Until a peer that never hears of it gives up; nothing is measured by it."""

Box = tuple[float, float, float, float]


class FakeFixedFaces:
    """Whatever the picture, its faces are ``people``, person by box; an error where one is set."""

    def __init__(self, people: dict[int, Box], dimension: int) -> None:
        self._people = people
        self._dimension = dimension
        self.failing: FacegraphError | None = None
        self.pictures: list[bytes] = []

    async def detect(
        self, image: bytes, *, max_faces: int, crops: bool, **_options: Any
    ) -> Detection:
        self.pictures = [*self.pictures[-9:], image]
        if self.failing is not None:
            raise self.failing
        height, width = decode(image, max_pixels=50_000_000).shape[:2]
        people = list(self._people)[:max_faces]
        n = len(people)
        boxes = np.array([self._people[p] for p in people], np.float32).reshape(n, 4)
        scores = np.full(n, 0.75, np.float32)
        faces = Faces(boxes, np.zeros((n, 5, 2), np.float32), scores)
        pixels = np.zeros((n if crops else 0, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        pixels[:, 0, 0, 0] = people[: len(pixels)]
        return Detection(width, height, faces, pixels, len(self._people))

    async def embed(self, crops: ByteArray) -> FloatArray:
        rows = [embedding_of(int(crop[0, 0, 0]), self._dimension) for crop in crops]
        return np.array(rows, np.float32).reshape(-1, self._dimension)


def pairs(*entries: tuple[str, FloatArray]) -> bytes:
    """A dataset as gnosis wrote it: ``[[label, "f,f,…"], …]``."""
    return json.dumps(
        [[label, ",".join(map(str, row.tolist()))] for label, row in entries]
    ).encode()


def by_name(*entries: tuple[str, FloatArray]) -> bytes:
    """A dataset as ``/encoder/images`` answers it: ``{label: [{"img", "embedding"}]}``."""
    people: dict[str, list[dict[str, Any]]] = {}
    for label, row in entries:
        images = people.setdefault(label, [])
        images.append({"img": len(images), "embedding": row.tolist()})
    return json.dumps(people).encode()


def redness(rgb: ByteArray, left: int, top: int, right: int, bottom: int) -> int:
    """How much redder than green the reddest pixel there is; the first box is (255, 64, 64)."""
    part = rgb[top:bottom, left:right].astype(int)
    return int((part[..., 0] - part[..., 1]).max())


def rgb_of(frame: VideoFrame) -> ByteArray:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both peers meet on 127.0.0.1, which aioice leaves out, whatever else this machine has."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"])


class FakeCamera(VideoStreamTrack):
    """The same picture thirty times a second."""

    def __init__(self, rgb: ByteArray) -> None:
        super().__init__()
        self._rgb = rgb

    async def recv(self) -> VideoFrame:
        pts, time_base = await self.next_timestamp()
        frame = frame_of(self._rgb)
        frame.pts, frame.time_base = pts, time_base
        return frame


def frame_of(rgb: ByteArray) -> VideoFrame:
    return VideoFrame.from_ndarray(rgb, format="rgb24")


class Peer:
    """A gnosis client: what a browser's page does, in Python."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: list[MediaStreamTrack] = []
        self.connection.on("track", self.tracks.append)

    async def offer(self, *tracks: MediaStreamTrack) -> dict[str, str]:
        for track in tracks:
            self.connection.addTrack(track)
        await self.connection.setLocalDescription(await self.connection.createOffer())
        local = self.connection.localDescription
        return {"sdp": local.sdp, "sdp_type": local.type}

    async def call(self, path: str, *tracks: MediaStreamTrack, **files: Any) -> httpx.Response:
        data = await self.offer(*tracks)
        response = await self.client.post(path, data=data, files=files or None)
        if response.status_code == 200:
            answer = RTCSessionDescription(**response.json())
            await self.connection.setRemoteDescription(answer)
        return response

    async def frame(self) -> VideoFrame:
        (track,) = [track for track in self.tracks if track.kind == "video"]
        frame = await asyncio.wait_for(track.recv(), PATIENCE_S)
        assert isinstance(frame, VideoFrame)
        return frame
