"""Bodies, queries and forms to images and parameters; every refusal with its code."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api import parsing
from facegraph.api.fetch import url_fetcher
from facegraph.api.parsing import load_json, parse
from facegraph.config import IngressTuning
from facegraph.errors import FacegraphError, InvalidRequest

TUNING = IngressTuning(max_request_bytes=4096, max_image_bytes=1024, max_images=3)
B64 = base64.b64encode(b"picture").decode()
URI = f"data:image/jpeg;base64,{B64}"


async def echo(request: Request) -> Response:
    try:
        parsed = await parse(request, TUNING, url_fetcher(False))
    except FacegraphError as error:
        return JSONResponse({"code": error.code, "detail": error.detail}, error.status)
    images = {name: [item.decode() for item in items] for name, items in parsed.images.items()}
    return JSONResponse({"params": parsed.params, "images": images})


async def post(**request: Any) -> httpx.Response:
    app = Starlette(routes=[Route("/x", echo, methods=["POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/x", **request)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"content": b"picture", "headers": {"content-type": "image/png"}}, "a raw body"),
        ({"files": {"image": ("a.jpg", b"picture", "image/jpeg")}}, "a multipart file"),
        ({"files": {"image": (None, URI)}}, "a form field with a data URI"),
        ({"json": {"image": URI}}, "short JSON"),
        ({"json": {"image": {"base64": B64}}}, "base64"),
        ({"json": {"image": {"base64": B64[:4] + "\n" + B64[4:]}}}, "base64 with line breaks"),
        ({"json": {"image": {"data_uri": URI}}}, "a data URI"),
        ({"json": {"image": f"data:image/jpg;base64, {B64}"}}, "a space after the comma"),
    ],
)
async def test_an_image_comes_in_many_ways(request_: dict[str, Any], reason: str) -> None:
    response = await post(**request_)
    assert response.json() == {"params": {}, "images": {"image": ["picture"]}}, reason


async def test_several_images_keep_their_order() -> None:
    names = [b"one", b"two", b"three"]
    by_form = await post(files=[("images", (None, data, "image/png")) for data in names])
    by_form_files = await post(files=[("images", ("f", data, "image/png")) for data in names])
    by_json = await post(
        json={"images": [{"base64": base64.b64encode(data).decode()} for data in names]}
    )
    assert by_form.status_code == 400  # fields without a file name are text, and no data URI
    expected = {"images": ["one", "two", "three"]}
    assert by_form_files.json()["images"] == by_json.json()["images"] == expected


async def test_parameters_come_from_query_form_and_json() -> None:
    response = await post(params={"a": "1"}, json={"b": 2, "metadata": {"k": []}})
    assert response.json()["params"] == {"a": "1", "b": 2, "metadata": {"k": []}}
    response = await post(params={"a": "1"}, files={"image": ("f", b"x")}, data={"b": "2"})
    assert response.json()["params"] == {"a": "1", "b": "2"}


JSON = {"content-type": "application/json"}
IMAGE = {"content-type": "image/jpeg"}


@pytest.mark.parametrize(
    ("request_", "status", "code", "reason"),
    [
        ({"content": b"{", "headers": JSON}, 400, "invalid_request", "broken JSON"),
        ({"content": b"[" * 4000, "headers": JSON}, 400, "invalid_request", "absurdly deep JSON"),
        ({"content": b"[1]", "headers": JSON}, 400, "invalid_request", "JSON that is no object"),
        ({"content": b"\xff\xfe", "headers": JSON}, 400, "invalid_request", "not UTF-8"),
        ({"json": {"image": "/etc/passwd"}}, 400, "invalid_request", "a path"),
        ({"json": {"image": "http://127.0.0.1/x"}}, 400, "invalid_request", "an address"),
        ({"json": {"image": {"url": "http://a/x"}}}, 400, "invalid_request", "urls are off"),
        ({"json": {"image": "data:text/html;base64,aa"}}, 400, "invalid_request", "no image type"),
        ({"json": {"image": {"base64": "!!"}}}, 400, "invalid_request", "not base64"),
        ({"json": {"image": {"path": "x"}}}, 400, "invalid_request", "an unknown source"),
        ({"json": {"image": {"base64": B64, "url": "x"}}}, 400, "invalid_request", "two sources"),
        ({"json": {"image": 3}}, 400, "invalid_request", "a number as an image"),
        ({"json": {"image": [URI]}}, 400, "invalid_request", "a list where one belongs"),
        ({"json": {"images": URI}}, 400, "invalid_request", "one where a list belongs"),
        ({"json": {"images": [URI] * 4}}, 400, "invalid_request", "too many images"),
        ({"files": [("images", ("f", b"x"))] * 4}, 400, "invalid_request", "too many files"),
        ({"files": {"picture": ("f", b"x")}}, 400, "invalid_request", "an unknown file field"),
        ({"params": {"a": "1"}, "json": {"a": "2"}}, 400, "invalid_request", "said twice"),
        ({"content": b"x" * 1025, "headers": IMAGE}, 413, "image_too_large", "a large image"),
        ({"files": {"image": ("f", b"x" * 1025)}}, 413, "image_too_large", "a large file"),
        ({"content": b"x" * 4097, "headers": IMAGE}, 413, "image_too_large", "a large body"),
        ({"files": {"image": ("f", b"x" * 5000)}}, 413, "image_too_large", "a large form"),
        ({"content": b"picture"}, 415, "unsupported_media_type", "no content type"),
        (
            {"content": b"a=b", "headers": {"content-type": "text/plain"}},
            415,
            "unsupported_media_type",
            "text",
        ),
        (
            {
                "content": b"nonsense",
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            400,
            "invalid_request",
            "a broken form",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "invalid_request",
            "a form without a boundary",
        ),
    ],
)
async def test_refusals(request_: dict[str, Any], status: int, code: str, reason: str) -> None:
    response = await post(**request_)
    assert (response.status_code, response.json()["code"]) == (status, code), reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" + "[],[{" * 5, "what is in it is not looked at"),
        ("[1,1,1,1,1,1,1,1,1,1]", "numbers"),
        ("[[],[],[],[],[]]", "lists"),
        ("[[[[[[[[[[]]]]]]]]]]", "lists in lists, without a comma"),
        ('{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{}}}}}}}}}}', "objects"),
    ],
)
def test_json_of_very_many_values_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setattr(parsing, "MAX_JSON_VALUES", 9)
    with pytest.raises(InvalidRequest, match="more than 9 values"):
        load_json(text.encode())
    assert load_json(b"[1,1,1,1,1,1,1,1,1]") == [1] * 9, reason


async def test_a_body_without_a_length_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 1000

    response = await post(content=endless(), headers=IMAGE)
    assert (response.status_code, response.json()["code"]) == (413, "image_too_large")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://localhost/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http:///x",
    ],
)
async def test_urls_never_lead_inside(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await url_fetcher(True)(url, 1000)
