"""gnosis' clients go on working: forms, query, shapes and status codes as they were."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, File, Form, UploadFile
from PIL import Image

from facegraph.api.compat.gnosis import wire
from facegraph.datasets import Dataset, read_dataset
from facegraph.errors import ModelUnavailable, Overloaded
from facegraph.service import Service
from facegraph.types import FloatArray
from tests.compat.gnosis_making import FakeFixedFaces, by_name, pairs, redness
from tests.fake_graph import embedding_of, photo, picture

ROOTS = ("", "/compat/gnosis")

pytestmark = pytest.mark.api


def person(service: Service, number: int) -> FloatArray:
    return embedding_of(number, service.contract.dimension)


def between(service: Service, near: int, far: int, similarity: float) -> FloatArray:
    """A unit vector that is so similar to person ``near``, in the plane of the two."""
    one, other = person(service, near).astype(float), person(service, far).astype(float)
    other -= (other @ one) * one
    mixed = similarity * one + np.sqrt(1 - similarity**2) * other / np.linalg.norm(other)
    return np.asarray(mixed, np.float32)


def sent(*people: int) -> tuple[str, bytes, str]:
    return ("face.png", photo(*people), "image/png")


async def names(client: httpx.AsyncClient, dataset: bytes, *people: int, root: str = "") -> Any:
    response = await client.post(
        f"{root}/recognizer/image",
        files={"file": sent(*people), "dataset": ("dataset.json", dataset)},
    )
    assert response.status_code == 200, response.text
    return [face["label"] for face in response.json()["faces"]]


@pytest.mark.parametrize("root", ROOTS)
async def test_detector(client: httpx.AsyncClient, root: str) -> None:
    response = await client.post(f"{root}/detector/image", files={"file": sent(1, 2)})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "faces": [
            {"label": 0, "bbox": [0.0, 0.0, 12.0, 12.0, pytest.approx(0.9)]},
            {"label": 1, "bbox": [20.0, 0.0, 31.0, 11.0, pytest.approx(0.9)]},
        ]
    }


async def test_as_curl_sends_it(client: httpx.AsyncClient) -> None:
    """``curl -F file=@face.png '…/detector/image?return_img_b64=false'``, byte by byte."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="face.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + photo(1) + b"\r\n--x--\r\n"
    )
    response = await client.post(
        "/detector/image?return_img_b64=false",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=x", "accept": "*/*"},
    )
    assert response.status_code == 200
    assert [face["label"] for face in response.json()["faces"]] == [0]


async def test_nobody(client: httpx.AsyncClient) -> None:
    response = await client.post("/detector/image", files={"file": sent()})
    assert (response.status_code, response.json()) == (200, {"faces": []})


@pytest.mark.parametrize(
    ("said", "picture"),
    [
        ("true", True),  # as Python and JavaScript clients write it
        ("True", True),
        ("1", True),
        ("yes", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("no", False),
        ("off", False),
    ],
)
async def test_return_img_b64_is_spelt_in_many_ways(
    client: httpx.AsyncClient, said: str, picture: bool
) -> None:
    response = await client.post(
        "/detector/image", params={"return_img_b64": said}, files={"file": sent(1)}
    )
    assert ("img_b64" in response.json()) is picture


@pytest.mark.parametrize("path", ["/detector/image", "/recognizer/image"])
async def test_the_annotated_picture(
    client: httpx.AsyncClient, service: Service, path: str
) -> None:
    service.graph = FakeFixedFaces({1: (200, 150, 400, 350)}, service.contract.dimension)  # type: ignore[assignment]
    grey = io.BytesIO()
    Image.new("RGB", (640, 480), (128, 128, 128)).save(grey, "PNG")
    response = await client.post(
        f"{path}?return_img_b64=true",
        files={"file": ("grey.png", grey.getvalue()), "dataset": ("d.json", b"[]")},
    )
    assert response.json()["faces"][0]["bbox"] == [200.0, 150.0, 400.0, 350.0, 0.75]
    data = base64.b64decode(response.json()["img_b64"], validate=True)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (640, 480))
    pixels = np.asarray(image)
    assert redness(pixels, 198, 250, 202, 251) > 60  # left
    assert redness(pixels, 300, 348, 301, 352) > 60  # bottom
    assert redness(pixels, 201, 138, 206, 148) > 150  # the label above
    assert redness(pixels, 210, 160, 390, 340) < 20  # within
    assert redness(pixels, 420, 0, 640, 480) < 20  # beside


@pytest.mark.parametrize("root", ROOTS)
async def test_encoder(client: httpx.AsyncClient, service: Service, root: str) -> None:
    response = await client.post(f"{root}/encoder/image", files={"file": sent(7, 8)})
    assert response.status_code == 200
    assert response.json() == pytest.approx(person(service, 7).tolist())
    response = await client.post(f"{root}/encoder/image", files={"file": sent()})
    assert (response.status_code, response.text) == (200, "null")


@pytest.mark.parametrize("root", ROOTS)
async def test_encoder_of_several(client: httpx.AsyncClient, service: Service, root: str) -> None:
    files = [("files", sent(*people)) for people in [(3,), (), (5, 6), (4,)]]
    response = await client.post(f"{root}/encoder/images", data={"key": "ann"}, files=files)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["ann"]
    assert [row["img"] for row in answer["ann"]] == [0, 2, 3]
    for row, number in zip(answer["ann"], (3, 5, 4), strict=True):
        assert set(row) == {"img", "embedding"}
        assert row["embedding"] == pytest.approx(person(service, number).tolist())


async def test_what_was_encoded_is_a_dataset(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/encoder/images", data={"key": "ann"}, files=[("files", sent(1)), ("files", sent(2))]
    )
    assert await names(client, response.content, 2, 9) == ["ann", "Uknown"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("form", [pairs, by_name])
async def test_recognizer(
    client: httpx.AsyncClient, service: Service, root: str, form: Any
) -> None:
    dataset = form(("ann", person(service, 1)), ("Žofie", person(service, 2)))
    assert await names(client, dataset, 2, 9, 1, root=root) == ["Žofie", "Uknown", "ann"]


async def test_nobody_is_in_an_empty_dataset(client: httpx.AsyncClient) -> None:
    assert await names(client, b"[]", 1) == ["Uknown"]
    assert await names(client, b"{}", 1) == ["Uknown"]


async def test_the_best_embedding_decides_not_the_most(
    client: httpx.AsyncClient, service: Service
) -> None:
    bar = service.threshold(None, None)
    many = [("bob", between(service, 1, number, bar + 0.05)) for number in range(20, 30)]
    dataset = pairs(*many[:5], ("ann", between(service, 1, 30, bar + 0.1)), *many[5:])
    assert await names(client, dataset, 1) == ["ann"]


@pytest.mark.parametrize(("beside", "name"), [(0.001, "ann"), (-0.001, "Uknown")])
async def test_the_packs_threshold_decides(
    client: httpx.AsyncClient, service: Service, beside: float, name: str
) -> None:
    bar = service.pack.threshold
    assert await names(client, pairs(("ann", between(service, 1, 2, bar + beside))), 1) == [name]


async def test_two_requests_never_share_a_dataset(
    client: httpx.AsyncClient, service: Service
) -> None:
    ours = pairs(("ann", person(service, 1)))
    theirs = by_name(("eve", person(service, 1)))
    other = pairs(("bob", person(service, 2)))
    for _ in range(25):
        answers = await asyncio.gather(
            names(client, ours, 1), names(client, theirs, 1), names(client, other, 1)
        )
        assert list(answers) == [["ann"], ["eve"], ["Uknown"]]


async def test_a_dataset_is_read_beside_the_event_loop(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(data: bytes, dimension: int | None) -> Dataset:
        threads.append(threading.current_thread())
        return read_dataset(data, dimension)

    monkeypatch.setattr(wire, "read_dataset", noted)
    await names(client, b"[]", 1)
    assert [thread is threading.main_thread() for thread in threads] == [False]


REFUSED = [
    # path, files, part of the sentence, why
    ("/detector/image", {"file": b"no picture"}, "no picture", "another file"),
    ("/detector/image", {"file": b""}, "no picture", "an empty file"),
    ("/encoder/image", {"file": b"x" * 4097}, "4096 bytes", "over max_image_bytes"),
    ("/encoder/images", {"files": b"no picture"}, "image 0", "which one is said"),
    ("/recognizer/image", {"dataset": b"{"}, "no JSON", "a broken dataset"),
    ("/recognizer/image", {"dataset": b"3"}, "a list or an object", "another JSON"),
    ("/recognizer/image", {"dataset": b'[["ann", "1,2,3"]]'}, "3 numbers", "another dimension"),
    ("/recognizer/image", {"dataset": b"[" * 100_000}, "no JSON", "too deep"),
]


@pytest.mark.parametrize(("path", "files", "said", "why"), REFUSED)
async def test_bad_requests(
    client: httpx.AsyncClient, service: Service, path: str, files: Any, said: str, why: str
) -> None:
    service.tuning = service.tuning.model_copy(update={"max_image_bytes": 4096})
    both = {"file": picture(1), "files": picture(1), "dataset": b"[]"} | files
    response = await client.post(
        path, data={"key": "k"}, files={name: ("f", data) for name, data in both.items()}
    )
    assert response.status_code == 400, why
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]


@pytest.mark.parametrize("count", [3, 4, 40])
async def test_too_many_images(client: httpx.AsyncClient, service: Service, count: int) -> None:
    service.tuning = service.tuning.model_copy(update={"max_images": 2})
    files = [("files", ("f", picture(1)))] * count
    response = await client.post("/encoder/images", data={"key": "k"}, files=files)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


async def test_a_request_too_large(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = service.tuning.model_copy(update={"max_request_bytes": 2048})
    files = {"file": ("f", picture(1)), "dataset": ("d", b"[" + b" " * 2048 + b"]")}
    response = await client.post("/recognizer/image", files=files)
    assert response.status_code == 400
    assert response.json() == {"error": "a request may have 2048 bytes"}


@pytest.mark.parametrize(
    ("error", "seconds"), [(ModelUnavailable("no model"), "30"), (Overloaded("full"), "1")]
)
@pytest.mark.parametrize("path", ["/detector/image", "/encoder/image", "/encoder/images"])
async def test_a_part_that_is_away(
    client: httpx.AsyncClient, service: Service, path: str, error: Any, seconds: str
) -> None:
    graph = FakeFixedFaces({}, service.contract.dimension)
    graph.failing = error
    service.graph = graph  # type: ignore[assignment]
    files = {"file": sent(1), "files": sent(1)}
    response = await client.post(path, data={"key": "k"}, files=files)
    assert response.status_code == 503
    assert response.headers["retry-after"] == seconds
    assert error.detail in response.json()["error"]


Upload = Annotated[UploadFile, File()]
Uploads = Annotated[list[UploadFile], File()]
Text = Annotated[str, Form()]


def old_system() -> FastAPI:
    """The same fields declared as FastAPI's own; it answers only requests that it refuses."""
    app = FastAPI()

    @app.post("/detector/image")
    async def detector(file: Upload, return_img_b64: bool = False) -> None: ...

    @app.post("/recognizer/image")
    async def recognizer(file: Upload, dataset: Upload, return_img_b64: bool = False) -> None: ...

    @app.post("/encoder/image")
    async def encoder(file: Upload) -> None: ...

    @app.post("/encoder/images")
    async def encoders(key: Text, files: Uploads) -> None: ...

    @app.post("/detector/stream")
    async def detector_stream(sdp: Text, sdp_type: Text) -> None: ...

    @app.post("/recognizer/stream")
    async def recognizer_stream(sdp: Text, sdp_type: Text, dataset: Upload) -> None: ...

    return app


FILE = {"file": ("f", b"x")}

UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("/detector/image", {}, "no body"),
    ("/detector/image", {"json": {"file": "x"}}, "JSON is no form"),
    ("/detector/image", {"data": {"file": "x"}}, "a text for a file"),
    ("/detector/image", {"data": {"file": ""}}, "nothing for a file"),
    ("/detector/image", {"files": {"picture": b"x"}}, "another name"),
    ("/detector/image?return_img_b64=maybe", {"files": FILE}, "no boolean"),
    ("/detector/image?return_img_b64=", {"files": FILE}, "an empty boolean"),
    ("/detector/image?return_img_b64=2", {}, "the query's fault comes first"),
    ("/detector/image?return_img_b64=yes&return_img_b64=2", {"files": FILE}, "the last counts"),
    ("/encoder/image", {}, "no body"),
    ("/encoder/images", {}, "both are missing"),
    ("/encoder/images", {"data": {"key": "k"}}, "no files"),
    ("/encoder/images", {"data": {"key": ""}, "files": {"files": b"x"}}, "an empty key"),
    ("/encoder/images", {"data": {"key": "k", "files": ["a", "b"]}}, "texts for files"),
    ("/recognizer/image", {"files": FILE}, "no dataset"),
    ("/recognizer/image", {"files": FILE, "data": {"dataset": "[]"}}, "a text for a dataset"),
    ("/detector/stream", {}, "no body"),
    ("/detector/stream", {"data": {"sdp": "x"}}, "no type"),
    ("/recognizer/stream", {"data": {"sdp": "x", "sdp_type": "offer"}}, "no dataset"),
]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(("path", "sent", "why"), UNFIT)
async def test_unfit_fields_are_told_as_fastapi_does(
    client: httpx.AsyncClient, root: str, path: str, sent: dict[str, Any], why: str
) -> None:
    transport = httpx.ASGITransport(old_system())
    async with httpx.AsyncClient(transport=transport, base_url="http://old") as old:
        wanted = await old.post(path, **sent)
    response = await client.post(root + path, **sent)
    assert response.status_code == wanted.status_code == 422, why
    assert response.json() == wanted.json(), why


async def test_a_file_for_a_text(client: httpx.AsyncClient) -> None:
    """FastAPI sends its own upload object back; only what and where is the same."""
    files = {"key": ("k.txt", b"k"), "files": ("f", b"x")}
    response = await client.post("/encoder/images", files=files)
    said = "Input should be a valid string"
    assert (response.status_code, response.json()["detail"]) == (
        422,
        [{"type": "string_type", "loc": ["body", "key"], "msg": said, "input": "k.txt"}],
    )


@pytest.mark.parametrize(
    "path", [path for path, _, _ in UNFIT if "?" not in path and "stream" not in path]
)
async def test_get_is_refused(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 405


async def test_what_is_no_form(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "multipart/form-data"}
    response = await client.post("/detector/image", content=b"x", headers=headers)
    assert response.status_code == 400
    assert "the form cannot be read" in response.json()["error"]


async def test_an_error_is_counted_by_its_code(client: httpx.AsyncClient) -> None:
    await client.post("/detector/image", files={"file": ("f", b"no picture")})
    lines = (await client.get("/metrics")).text
    assert 'code="invalid_image"' in lines
