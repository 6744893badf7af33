"""Frames over HTTP: multipart and zip, bounds, and what is told when it goes wrong."""

from __future__ import annotations

import asyncio
import email
import email.policy
import io
import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette

from facegraph.config import IngressTuning
from facegraph.service import Service
from facegraph.types import ByteArray
from tests.api.test_v1 import problem
from tests.video_making import clip, number_of, sound_only

FRAMES = "/v1/videos/frames"


@dataclass(frozen=True)
class Part:
    media_type: str
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def rgb(self) -> ByteArray:
        with Image.open(io.BytesIO(self.data)) as image:
            assert image.format == "JPEG"
            return np.array(image)


def parts(response: httpx.Response) -> list[Part]:
    """The parts of a multipart answer, as the standard library reads them."""
    assert response.status_code == 200, response.text
    head = f"content-type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    found = []
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        headers = {name.lower(): str(value) for name, value in part.items()}
        assert int(headers["content-length"]) == len(data)
        found.append(Part(part.get_content_type(), headers, data))
    return found


def form(data: bytes, **fields: Any) -> dict[str, Any]:
    """Request arguments that send a video as a browser would."""
    sent = {name: str(value) for name, value in fields.items()}
    return {"files": {"video": ("a.mp4", data, "video/mp4")}, "data": sent}


def raw(data: bytes, **params: Any) -> dict[str, Any]:
    return {"content": data, "params": params, "headers": {"content-type": "video/mp4"}}


METADATA = {
    "num_frames_original": 25,
    "num_frames": 9,
    "duration_seconds": 2.5,
    "fps_original": 10.0,
    "fps": 3.6,
    "width_original": 64,
    "height_original": 48,
    "width": 32,
    "height": 24,
    "frame_idx_original": [0, 3, 6, 9, 12, 15, 18, 21, 24],
    "truncated": False,
}
ASKED = {"fps_max": 3, "width_max": 32}


@pytest.mark.parametrize("send", [form, raw])
async def test_frames_as_multipart(client: httpx.AsyncClient, send: Any) -> None:
    first, *frames, last = parts(await client.post(FRAMES, **send(clip(25), **ASKED)))
    assert first.media_type == last.media_type == "application/json"
    known = ("fps_original", "width_original", "height_original", "width", "height")
    assert first.json == {name: METADATA[name] for name in known}
    assert last.json == METADATA
    assert [part.media_type for part in frames] == ["image/jpeg"] * 9
    assert [part.headers["x-facegraph-index"] for part in frames] == [
        str(index) for index in range(0, 25, 3)
    ]
    assert [float(part.headers["x-facegraph-time-s"]) for part in frames] == pytest.approx(
        [index / 10 for index in range(0, 25, 3)]
    )
    assert "000024.jpg" in frames[8].headers["content-disposition"]
    assert [part.rgb.shape for part in frames] == [(24, 32, 3)] * 9
    assert [number_of(part.rgb) for part in frames] == list(range(0, 25, 3))


@pytest.mark.parametrize(
    ("params", "accept"),
    [
        ({"format": "zip"}, "*/*"),
        ({}, "application/zip"),
        ({"format": "zip"}, "multipart/mixed"),
    ],
)
async def test_frames_as_a_zip(
    client: httpx.AsyncClient, params: dict[str, str], accept: str
) -> None:
    sent = form(clip(25), **ASKED, **params)
    response = await client.post(FRAMES, **sent, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    assert "x-request-id" in response.headers
    with zipfile.ZipFile(io.BytesIO(response.content)) as file:
        assert file.testzip() is None
        *frames, last = file.namelist()
        assert frames == [f"frames/{index:06d}.jpg" for index in range(0, 25, 3)]
        assert last == "metadata.json"
        assert json.loads(file.read(last)) == METADATA
        with Image.open(io.BytesIO(file.read(frames[2]))) as image:
            assert number_of(np.array(image)) == 6


async def test_the_quality_is_the_jpegs(client: httpx.AsyncClient) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = clip(1, pictures=[noise])
    sizes = [
        len(parts(await client.post(FRAMES, **raw(data, quality=quality)))[1].data)
        for quality in (1, 50, 100)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


async def test_a_part_of_a_video(client: httpx.AsyncClient) -> None:
    sent = raw(clip(25), fps_max=10, start_s=1, end_s=2, max_frames=3)
    last = parts(await client.post(FRAMES, **sent))[-1]
    assert last.json["frame_idx_original"] == [10, 11, 12]


async def test_a_truncated_video_says_so(client: httpx.AsyncClient) -> None:
    data = clip(30, container="matroska")
    last = parts(await client.post(FRAMES, **raw(data[: len(data) // 2], fps_max=10)))[-1]
    assert last.json["truncated"] is True
    assert 0 < last.json["num_frames"] < 30


@pytest.mark.parametrize(
    ("request_", "status", "code", "said"),
    [
        (raw(b"no video"), 422, "invalid_video", "not a video of a known container"),
        (raw(b""), 422, "invalid_video", "not a video of a known container"),
        (raw(b"#EXTM3U\n/etc/passwd\n"), 422, "invalid_video", "not a video of a known"),
        (raw(sound_only()), 422, "invalid_video", "no video stream"),
        (form(b"no video"), 422, "invalid_video", "not a video of a known container"),
        ({}, 415, "unsupported_media_type", "content type 'missing'"),
        ({"json": {"video": "x"}}, 415, "unsupported_media_type", "multipart/form-data"),
        ({"data": {"video": "x"}, "files": {"x": b""}}, 400, "invalid_request", "must be a file"),
        ({"files": {"image": b"x"}}, 400, "invalid_request", "unknown file field 'image'"),
        ({"files": [("video", b"x"), ("video", b"y")]}, 400, "invalid_request", "not 2"),
        (raw(b"x", fps_max=0), 400, "invalid_request", "fps_max"),
        (raw(b"x", fps_max="nan"), 400, "invalid_request", "fps_max"),
        (raw(b"x", width_max=0), 400, "invalid_request", "width_max"),
        (raw(b"x", quality=101), 400, "invalid_request", "quality"),
        (raw(b"x", format="tar"), 400, "invalid_request", "format"),
        (raw(b"x", start_s=2, end_s=2), 400, "invalid_request", "end_s must be after start_s"),
        (raw(b"x", fps=2), 400, "invalid_request", "unknown parameter (did you mean fps_max"),
    ],
)
async def test_bad_requests(
    client: httpx.AsyncClient, request_: dict[str, Any], status: int, code: str, said: str
) -> None:
    response = await client.post(FRAMES, **request_)
    assert problem(response) == (status, code)
    assert said in response.json()["detail"]


@pytest.mark.parametrize(
    ("limits", "params", "status", "code"),
    [
        ({"max_video_bytes": 1024}, {}, 413, "image_too_large"),
        ({"max_video_pixels": 64 * 48 - 1}, {}, 422, "invalid_video"),
        ({"max_video_frames": 24}, {"fps_max": 10}, 422, "invalid_video"),
        ({"max_video_frames": 2}, {"max_frames": 3}, 400, "invalid_request"),
        ({"max_video_duration_s": 2.4}, {}, 422, "invalid_video"),
    ],
)
@pytest.mark.parametrize("send", [form, raw])
async def test_the_operators_limits(
    client: httpx.AsyncClient,
    service: Service,
    send: Any,
    limits: dict[str, Any],
    params: dict[str, Any],
    status: int,
    code: str,
) -> None:
    service.tuning = IngressTuning(**limits)
    response = await client.post(FRAMES, **send(clip(25), **params))
    assert problem(response) == (status, code)


async def test_a_limit_that_shows_only_later_is_told_in_the_last_part(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = IngressTuning(max_video_frames=5)
    data = clip(25, container="matroska", options={"live": "1"})
    *before, last = parts(await client.post(FRAMES, **raw(data, fps_max=10)))
    assert len(before) == 6
    assert last.media_type == "application/problem+json"
    assert last.json["code"] == "invalid_video"
    response = await client.post(FRAMES, **raw(data, fps_max=10, format="zip"))
    with zipfile.ZipFile(io.BytesIO(response.content)) as file:
        *frames, told = file.namelist()
        assert (len(frames), told) == (5, "problem.json")
        assert json.loads(file.read(told))["code"] == "invalid_video"


async def test_a_body_whose_size_is_not_announced_is_bounded(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = IngressTuning(max_video_bytes=10_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    headers = {"content-type": "video/mp4"}
    response = await client.post(FRAMES, content=endless(), headers=headers)
    assert problem(response) == (413, "image_too_large")
    assert sent <= 12_000


class Client:
    """An ASGI client that takes the answer at its own pace and may go away."""

    def __init__(self, app: Starlette, data: bytes, query: str) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        self.gone = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": FRAMES,
            "query_string": query.encode(),
            "headers": [(b"content-type", b"video/mp4")],
        }
        self._body: bytes | None = data
        self.task = asyncio.create_task(app(scope, self._receive, self.sent.put))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            data, self._body = self._body, None
            return {"type": "http.request", "body": data, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_client_that_goes_away_makes_room(app: Starlette, service: Service) -> None:
    service.tuning = IngressTuning(max_video_requests=1)
    data = clip(25)
    first = Client(app, data, "fps_max=10")
    assert (await first.sent.get())["status"] == 200
    assert b"application/json" in (await first.sent.get())["body"]

    second = Client(app, data, "fps_max=10")
    assert (await second.sent.get())["status"] == 503
    assert b"overloaded" in (await second.sent.get())["body"]
    await second.task

    first.gone.set()
    await first.task
    third = Client(app, data, "max_frames=1")
    assert (await third.sent.get())["status"] == 200
    while (await third.sent.get()).get("more_body"):
        pass
    await third.task


FORM_HEAD = b'--b\r\ncontent-disposition: form-data; name="video"; filename="v.mp4"\r\n\r\n'


@pytest.mark.parametrize(
    ("media_type", "head"),
    [("video/mp4", b""), ("multipart/form-data; boundary=b", FORM_HEAD)],
)
async def test_a_client_that_goes_away_while_it_sends_is_no_error(
    app: Starlette,
    client: httpx.AsyncClient,
    service: Service,
    caplog: pytest.LogCaptureFixture,
    media_type: str,
    head: bytes,
) -> None:
    service.tuning = IngressTuning(max_video_requests=1)
    received: list[dict[str, Any]] = [
        {"type": "http.request", "body": head + bytes(2**21), "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return received.pop(0) if len(received) > 1 else received[0]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": FRAMES,
        "query_string": b"",
        "headers": [(b"content-type", media_type.encode())],
    }
    await app(scope, receive, send)
    assert (sent, caplog.records) == ([], [])
    assert f'method="POST",route="{FRAMES}",status="499"' in (await client.get("/metrics")).text
    assert (await client.post(FRAMES, **form(clip(3)))).status_code == 200  # its place is free


@pytest.mark.parametrize(("video_timeout_s", "status"), [(60.0, 200), (0.1, 503)])
async def test_videos_have_a_time_limit_of_their_own(
    client: httpx.AsyncClient, service: Service, video_timeout_s: float, status: int
) -> None:
    service.tuning = service.tuning.model_copy(
        update={"request_timeout_s": 0.05, "video_timeout_s": video_timeout_s}
    )

    async def slowly() -> AsyncIterator[bytes]:
        video = clip(3)
        yield video[:100]
        await asyncio.sleep(0.2)
        yield video[100:]

    response = await client.post(FRAMES, content=slowly(), headers={"content-type": "video/mp4"})
    assert response.status_code == status
    if status == 503:
        assert problem(response) == (503, "timeout")
        assert response.json()["detail"] == "not answered within 0.1 s"
