"""gnosis' endpoints with real models: who was encoded is named, in pictures and in live video."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from starlette.applications import Starlette

from facegraph.api.compat.gnosis.streams import close_streams
from facegraph.service import Service
from facegraph.types import ByteArray
from tests.compat.gnosis_making import FakeCamera, Peer, on_loopback, rgb_of
from tests.model.test_people import service
from tests.photos import ASTRONAUT, NO_FACE, encoded, pixels, resized

__all__ = ["on_loopback", "service"]

pytestmark = pytest.mark.model

HOPPER = Path(str(resources.files("matplotlib"))) / "mpl-data" / "sample_data" / "grace_hopper.jpg"


async def test_who_was_encoded_is_named(client: httpx.AsyncClient, service: Service) -> None:
    astronaut = pixels(ASTRONAUT)
    sent = [astronaut, pixels(NO_FACE), np.ascontiguousarray(astronaut[:, ::-1])]
    response = await client.post(
        "/encoder/images",
        data={"key": "Eileen Collins"},
        files=[("files", ("photo.png", encoded(rgb), "image/png")) for rgb in sent],
    )
    assert response.status_code == 200
    (rows,) = response.json().values()
    assert [row["img"] for row in rows] == [0, 2]
    assert {len(row["embedding"]) for row in rows} == {service.contract.dimension}

    pairs = [["Eileen Collins", ",".join(map(str, row["embedding"]))] for row in rows]
    for dataset in (response.text, json.dumps(pairs)):
        smaller = encoded(resized(astronaut, (400, 400)), "JPEG")
        assert await names(client, smaller, dataset) == ["Eileen Collins"]
        assert await names(client, HOPPER.read_bytes(), dataset) == ["Uknown"]


async def names(client: httpx.AsyncClient, photo: bytes, dataset: str) -> list[str]:
    response = await client.post(
        "/recognizer/image",
        files={"file": ("photo", photo), "dataset": ("dataset.json", dataset)},
    )
    assert response.status_code == 200, response.text
    return [face["label"] for face in response.json()["faces"]]


async def test_live_video_comes_back_with_her_box(
    app: Starlette, client: httpx.AsyncClient, service: Service
) -> None:
    photo = pixels(ASTRONAUT)
    ((left, top, right, bottom),) = (await service.detect(encoded(photo))).faces.boxes.round()
    rows = slice(int(top) + 20, int(bottom) - 20)
    peer = Peer(client)
    response = await peer.call(
        "/recognizer/stream", FakeCamera(photo), dataset=("dataset.json", b"[]")
    )
    assert response.status_code == 200
    came = rgb_of(await peer.frame())
    added = redder(came) - redder(photo)
    for x in (int(left), int(right)):  # codec and detector leave a pixel or two of doubt
        assert added[rows, x - 4 : x + 4].max(axis=1).mean() > 40
    assert abs(added[rows, int(left) + 15 : int(right) - 15]).mean() < 15
    await peer.connection.close()
    await close_streams(app)


def redder(rgb: ByteArray) -> npt.NDArray[np.int64]:
    """Per pixel, red above green; the first box is (255, 64, 64)."""
    wide = rgb.astype(np.int64)
    return np.asarray(wide[..., 0] - wide[..., 1])
